"""The values of a record -> the text at a place in them, or None where there is none.

Numbers, days and the like become text as JSON writes them; of a list each value is a line. What
holds columns of its own is no text, but may have one in it. Nothing is cleaned here.
"""

from collections.abc import Iterable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import orjson

Where = tuple[str, ...]
"""the keys that lead to a value: one, or more of them where objects hold objects"""


def single_text(value: Any) -> str | None:
    """Returns a value that is no list as text: a title, say.

    "Mug" -> "Mug"   1984 -> "1984"   1.50 -> "1.5"   True -> "true"   None -> ""
    ["Mug"] -> None   {"de": "Mug"} -> None   b"Mug" -> None
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):  # NaN stands for nothing, as null does
        return orjson.dumps(value).decode() if value == value else ""
    if isinstance(value, (int, Decimal, timedelta)):
        return str(value)
    return value.isoformat() if isinstance(value, (date, time)) else None


def joined_text(value: Any) -> str | None:
    """Returns a value as text, and of a list each value as a line; what is empty makes none.

    ["Of clay.", "", 1984] -> "Of clay.\\n1984"   [] -> ""   [["Of clay."]] -> None
    """
    return _lines(map(single_text, value)) if isinstance(value, list) else single_text(value)


def _lines(texts: Iterable[str | None]) -> str | None:
    lines = []
    for text in texts:
        if text is None:
            return None
        if text.strip():
            lines.append(text)
    return "\n".join(lines)


def value_at(values: Any, where: Where) -> Any:
    """Returns what is there, or None: {"product": {"text": "Red"}}, ("product", "text") -> Red."""
    for key in where:
        if not isinstance(values, dict):
            return None
        values = values.get(key)
    return values


def description_text(values: dict[str, Any], wheres: Sequence[Where]) -> str | None:
    """Returns the text at a place, or those of several, each on lines of its own.

    {"text": "Red.", "features": ["Warm.", "Soft."]}, [("text",), ("features",)]
        -> "Red.\\nWarm.\\nSoft."
    """
    if len(wheres) == 1:
        return joined_text(value_at(values, wheres[0]))
    return _lines(joined_text(value_at(values, where)) for where in wheres)


def kind_of(value: Any) -> str:
    """Returns what a value that is no text is, for a refusal: "an object with de, en"."""
    if value == {}:
        return "an empty object"
    if isinstance(value, dict):
        return f"an object with {', '.join(str(name)[:40] for name in list(value)[:5])}"
    if isinstance(value, list):
        is_plain = all(single_text(item) is not None for item in value)
        return "a list of texts" if is_plain else "a list of objects or lists"
    return "bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
