"""A line that is not JSON -> the one object that it can only mean, or None.

Mends what programs and hands leave behind: NaN, trailing commas, dicts as Python prints them,
quotes that are doubled as in CSV, words without quotes. Nothing is guessed: what is cut, or could
be read in two ways, is left as it is. Who reads the lines, and what becomes of them, is not known
here.
"""

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any

import orjson

# Python's parser takes some hundred bytes for each that it reads.
_PYTHON_CHARACTERS = 1 << 16

# What is matched is never tried anew, and a text that nobody closed goes to the end: of a line of a
# mebibyte all else would take the memory, or hours.
_STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_PYTHON_STRING = rf"{_STRING}|'(?:[^'\\]++|\\.)*+(?:'|\\?\Z)"
# Outside of texts: a number that JSON lacks, or a comma with nothing behind it.
_ODDITY = re.compile(
    rf"{_STRING}|(?<![\w.])(?P<number>-?(?:NaN|Infinity|nan)\b)|(?P<comma>,(?=\s*[\]}}]))"
)
_PYTHON = re.compile(rf"{_PYTHON_STRING}|(?<![\w.])-?[A-Za-z_]\w*|[^\s]")
_PYTHON_WORDS = {
    **{"True": "True", "False": "False", "None": "None", "null": "None", "true": "True"},
    **{"false": "False", "nan": "None", "NaN": "None", "inf": "None", "-inf": "None"},
}

_TWO = '""'
_KEY = rf"\s*{_STRING}\s*:\s*"
_VALUE = r"-?\d[\d.eE+-]*|true|false|null"
# Every quote within the text is doubled, and the one that ends it stands in front of a mark.
_DOUBLED = r'"(?:[^"\\]++|\\.|"")*+"(?=\s*[,}])'
_DOUBLED_MEMBER = rf"{_KEY}(?:{_DOUBLED}|{_VALUE})\s*"
# Each round begins with its comma: before Python 3.11.5 one that fails further on is not undone.
_DOUBLED_OBJECT = re.compile(rf"\{{{_DOUBLED_MEMBER}(?:,{_DOUBLED_MEMBER})*+\}}")
_TEXT_OR_KEY = re.compile(rf"{_STRING}(?=\s*:)|{_DOUBLED}")
_WORDS = r"[^\W\d_](?:[^\"'\\,:{}\[\]\n]*[^\"'\\,:{}\[\]\s])?"
_BARE = re.compile(rf"{_STRING}|(?<=:)(\s*)({_WORDS})(?=\s*[,}}])")
_NO_TEXT = {"true", "false", "null", "none", "nan", "undefined", "infinity", "inf", "nil"}


def mended(line: str, loads: Callable[[str], Any]) -> tuple[dict[str, Any], str] | None:
    """Returns the object that a line can only mean, and what was mended; None: there is none.

        {"title": "Mug", "price": NaN}  -> {"title": "Mug", "price": None}, "NaN is null"
        {"title": "Mug", "tags": [],},  -> {"title": "Mug", "tags": []}, "commas too many"
        {'title': 'Mug', 'new': True}   -> {"title": "Mug", "new": True}, "Python dicts"
        {"title": "the ""red"" mug"}    -> {"title": 'the "red" mug'}, "doubled quotes"
        {"title": Mug}                  -> {"title": "Mug"}, "texts without quotes"
        {"title": "Mug                  -> None
        {"title": Mug, red, "n": 1}     -> None

    Args:
        loads: JSON as text -> its value; raises ValueError
    """
    text = line.strip()
    has_comma = text.endswith(",")
    text = text.removesuffix(",").rstrip() if has_comma else text
    if not (text.startswith("{") and text.endswith("}")):
        return None
    if has_comma and (values := _object(text, loads)) is not None:
        return values, "commas too many"
    for mend in (_without_oddities, _python, _undoubled, _quoted):
        if (found := mend(text, loads)) is not None:
            return found
    return None


def _object(text: str, loads: Callable[[str], Any]) -> dict[str, Any] | None:
    try:
        values = loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _without_oddities(text: str, loads: Callable[[str], Any]) -> tuple[dict[str, Any], str] | None:
    plain, has_numbers = without_oddities(text)
    values = _object(plain, loads) if plain != text else None
    return None if values is None else (values, "NaN is null" if has_numbers else "commas too many")


def without_oddities(text: str) -> tuple[str, bool]:
    """Returns JSON without NaN, Infinity and trailing commas, and whether there were such numbers.

    '{"a": [NaN, 1,], "b": "NaN,]"}' -> '{"a": [null, 1], "b": "NaN,]"}', True
    """
    has_numbers = False

    def instead(found: re.Match[str]) -> str:
        nonlocal has_numbers
        if found["number"]:
            has_numbers = True
            return "null"
        return "" if found["comma"] else found[0]

    plain = _ODDITY.sub(instead, text)
    return plain, has_numbers


def _python(text: str, _: Callable[[str], Any]) -> tuple[dict[str, Any], str] | None:
    """Two texts side by side are one to Python, and something that is broken to everyone else."""
    if len(text) > _PYTHON_CHARACTERS:
        return None
    tokens = _PYTHON.findall(text)
    texts = [token[0] in "\"'" for token in tokens]
    names = {token for token, is_text in zip(tokens, texts, strict=True) if not is_text}
    is_python = any(token[0] == "'" for token in tokens) or names & {"True", "False", "None"}
    if not is_python or any(map(lambda one, next_: one and next_, texts, texts[1:])):
        return None
    spelled = _PYTHON.sub(lambda found: _PYTHON_WORDS.get(found[0], found[0]), text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an escape that is none
            values = orjson.loads(orjson.dumps(ast.literal_eval(spelled)))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return (values, "Python dicts") if isinstance(values, dict) else None


def _undoubled(text: str, loads: Callable[[str], Any]) -> tuple[dict[str, Any], str] | None:
    if _TWO not in text or not _DOUBLED_OBJECT.fullmatch(text):
        return None
    escaped = r"\""
    plain = _TEXT_OR_KEY.sub(lambda found: f'"{found[0][1:-1].replace(_TWO, escaped)}"', text)
    values = _object(plain, loads)
    return None if values is None else (values, "doubled quotes")


def _quoted(text: str, loads: Callable[[str], Any]) -> tuple[dict[str, Any], str] | None:
    def instead(found: re.Match[str]) -> str:
        is_bare = found[2] is not None and found[2].lower() not in _NO_TEXT
        return f'{found[1]}"{found[2]}"' if is_bare else found[0]

    plain = _BARE.sub(instead, text)
    values = _object(plain, loads) if plain != text else None
    return None if values is None else (values, "texts without quotes")
