"""The shop's own columns of a record -> one JSON object as text, to be carried to the output.

In comes a record as it stands in its file, out go the columns that are kept, in the record's order.
Texts, numbers and lists of JSON stay what they are; what Parquet has beyond them becomes text.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any, Literal

import orjson

Kept = Literal["none", "all"] | Sequence[str]
"""which columns: `all` are those beside the title's, which has a place of its own"""


def kept_text(values: dict[str, Any], kept: Kept, title_column: str | None) -> str | None:
    """Returns the kept columns of a record as a JSON object; None: none are asked for.

    A column that this record lacks is no key. The record of the examples is
    {"sku": 7, "title": "Mug", "price": null}, its title's column is "title".

        "none"           -> None
        "all"            -> '{"sku":7,"price":null}'
        ["title", "sku"] -> '{"sku":7,"title":"Mug"}'
    """
    if kept == "none":
        return None
    if kept == "all":
        chosen = {name: value for name, value in values.items() if name != title_column}
    else:
        chosen = {name: value for name, value in values.items() if name in kept}
    try:
        return orjson.dumps(chosen, default=_as_text).decode()
    except TypeError:  # whole numbers of over 64 bits
        return json.dumps(chosen, default=_as_text, ensure_ascii=False, separators=(",", ":"))


def _as_text(value: Any) -> str:
    """Days and times as ISO 8601, bytes as the text that they are or else in base64."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
