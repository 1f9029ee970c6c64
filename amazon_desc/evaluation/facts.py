"""The facts and the title's words in a text, as things to look up in other texts.

In come plain texts, out go sets of normalised facts and words. A fact is what a shop must not
invent: a number, a number with its unit, a size, a code with digits in it. Whether a fact is true
is not known here, only where it stands.
"""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = {
    "in": ("in", "inch", "inches", '"', "”", "″", "''", "’’"),
    "ft": ("ft", "foot", "feet", "'", "′"),
    "yd": ("yd", "yds", "yard", "yards"),
    "mi": ("mi", "mile", "miles"),
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "cm": ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    "m": ("m", "meter", "meters", "metre", "metres"),
    "km": ("km", "kilometer", "kilometers", "kilometre", "kilometres"),
    "oz": ("oz", "ounce", "ounces"),
    "lb": ("lb", "lbs", "pound", "pounds"),
    "mg": ("mg", "milligram", "milligrams"),
    "g": ("g", "gram", "grams"),
    "kg": ("kg", "kilogram", "kilograms"),
    "ml": ("ml", "milliliter", "milliliters", "millilitre", "millilitres"),
    "l": ("l", "liter", "liters", "litre", "litres"),
    "qt": ("qt", "quart", "quarts"),
    "gal": ("gal", "gallon", "gallons"),
    "v": ("v", "volt", "volts"),
    "w": ("w", "watt", "watts"),
    "hz": ("hz", "hertz"),
    "mhz": ("mhz", "megahertz"),
    "ghz": ("ghz", "gigahertz"),
    "mah": ("mah",),
    "mb": ("mb", "megabyte", "megabytes"),
    "gb": ("gb", "gigabyte", "gigabytes"),
    "tb": ("tb", "terabyte", "terabytes"),
    "°": ("°", "degree", "degrees"),
    "%": ("%", "percent"),
    "min": ("min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "day": ("day", "days"),
    "week": ("week", "weeks"),
    "month": ("month", "months"),
    "year": ("year", "years", "yr", "yrs"),
}
"""How each unit is written, by what it is normalised to."""

UNIT_OF = {spelling: unit for unit, spellings in UNITS.items() for spelling in spellings}

# One is left out: it mostly is no number. So are those that descriptions hardly have.
_FROM_TWO = "two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {word: number for number, word in enumerate(_FROM_TWO.split(), start=2)}

_COMMON = "a an and are as at be by for from in into is it its of on or our s the this to with"
STOP_WORDS = frozenset([*_COMMON.split(), "you", "your"])
"""Words that a text uses whatever its title is."""

_PLAIN_FRACTIONS = {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅛": " 1/8"}
_VALUE = (
    r"(?:\d+[ -]\d+/[1-9]\d*|\d+/[1-9]\d*|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+"
    rf"|(?:{'|'.join(NUMBER_WORDS)})(?![^\W_]))"
)
_WORDS_OF_UNITS = "|".join(
    sorted((re.escape(word) for word in UNIT_OF if word.isalpha() and word != "in"), key=len)[::-1]
)
# "12 in the box" has no inches: with a space before it, "in" must be followed by what sizes are.
_IN = r"-?in(?![^\W_])|[ ]in(?:\.|(?=\s*(?:$|[,;:)x×]|by\b|wide|long|high|tall|deep|diameter)))"
_UNIT = rf"(?:[ -]?(?:{_WORDS_OF_UNITS})(?![^\W_])|{_IN}|''|’’|[\"”″′°%]|[ ]?°|[ ]%|'(?![^\W_]))"
_SIZE = rf"{_VALUE}(?:{_UNIT})?(?:\s*(?:x|×|by)\s*{_VALUE}(?:{_UNIT})?)*"
_CODE = r"[^\W_]*\d(?:[^\W_]|[.,](?=\d))*"
_FACT = re.compile(
    rf"(?<![^\W_])(?<!\d[.,])(?:(?P<size>{_SIZE})(?![^\W_]|[.,]\d)|(?P<code>{_CODE}))"
)
_PART = re.compile(rf"({_VALUE})({_UNIT})?")
_WORD = re.compile(r"[^\W_]+")


def facts(text: str) -> set[str]:
    """Returns the facts of a text: numbers, with their unit where there is one, sizes and codes.

    "A 12-inch rug"          -> {"12 in"}, as for 12", 12in, 12 in. and 12 inches
    "3' x 5 ft, two for $20" -> {"3 ft x 5 ft", "2", "20"}
    "3x5 inches, 1,000.50"   -> {"3 in x 5 in", "1000.5"}
    "a 3½ or 3.5 oz B100" -> {"3.5", "3.5 oz", "b100"}

    A unit behind the last number of a size is that of those before it. Small numbers count in words
    too, but for "one", which mostly is none.
    """
    return {fact for fact, _ in _found(text)}


def facts_to_find(text: str) -> set[str]:
    """Returns what `facts` of another text may name of this one, parts of its facts too.

    "3x5 ft rug" -> {"3 ft x 5 ft", "3 x 5", "3 ft", "5 ft", "3", "5"}
    """
    whole: set[str] = set()
    for fact, parts in _found(text):
        whole |= {fact, *(_shown(*part) for part in parts), *(value for value, _ in parts)}
        if parts:
            whole.add(" x ".join(value for value, _ in parts))
    return whole


def title_words(title: str) -> set[str]:
    """Returns the words of a title that say something: "The Red-Mug, for You" -> {"red", "mug"}"""
    return words(title) - STOP_WORDS


def words(text: str) -> set[str]:
    """Returns the different words of a text, case-folded, without punctuation."""
    return set(_WORD.findall(text.casefold()))


def _found(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns each fact with the numbers and units that it is made of, none for a code."""
    text = text.casefold()
    for sign, fraction in _PLAIN_FRACTIONS.items():
        text = text.replace(sign, fraction)
    found = []
    for match in _FACT.finditer(text):
        if match["size"] is None:
            found.append((match["code"], []))
            continue
        parts = [(_value(value), _unit(unit)) for value, unit in _PART.findall(match["size"])]
        last = parts[-1][1]
        parts = [(value, unit or last) for value, unit in parts]
        found.append((" x ".join(_shown(*part) for part in parts), parts))
    return found


def _shown(value: str, unit: str) -> str:
    return f"{value} {unit}" if unit else value


def _value(written: str) -> str:
    """Returns a number as everybody writes it: "1,000.50" -> "1000.5", "3 1/2" -> "3.5"."""
    if written in NUMBER_WORDS:
        return str(NUMBER_WORDS[written])
    plain = written.replace(",", "")
    if "/" not in plain:  # no float: a long number has to stay as it is
        whole, _, decimals = plain.partition(".")
        decimals = decimals.rstrip("0")
        return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
    value = sum(Fraction(part) for part in plain.replace("-", " ").split())
    return f"{float(value):.4g}"


def _unit(written: str) -> str:
    spelling = written.strip(" -.")
    return UNIT_OF[spelling] if spelling else ""
