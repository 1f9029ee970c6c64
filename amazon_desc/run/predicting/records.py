"""One record of an output: what was written for a record of the input, as a line of JSON.

In come a title's place, text and the shop's own columns, out goes a line, and the other way round.
In which form a whole file is, is decided in forms.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from amazon_desc.generation.texts import Description

SKIPPED = "skipped"
"""the finish_reason of a record without a title: nothing was written for it"""
OWN = ("row", "title", "description", "finish_reason", "num_tokens", "reason", "candidates")
"""what our columns are called, in the order in which they stand"""

# What a terminal takes for a command, and some readers for the end of a line, though JSON does not
# have to escape it.
CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")

Record = dict[str, Any]
"""row (from 1), title, description, finish_reason, num_tokens; reason and candidates where there
are some; then the shop's columns"""


def written(
    row: int,
    title: str,
    candidates: Sequence[Description],
    reason: str = "",
    kept: Mapping[str, Any] | None = None,
) -> Record:
    """Returns the record of a text.

    Args:
        row: from 0
        candidates: the text, and further ones
        reason: what was done to the title, such as that it was shortened
        kept: the shop's columns
    """
    record: Record = {"row": row + 1, "title": title, **text_columns(candidates[0])}
    if reason:
        record["reason"] = reason
    if len(candidates) > 1:
        record["candidates"] = [text_columns(candidate) for candidate in candidates]
    return record | renamed(kept or {})


def skipped(row: int, title: str, reason: str, kept: Mapping[str, Any] | None = None) -> Record:
    """Returns the record of what holds no title, and why."""
    nothing = {"description": "", "finish_reason": SKIPPED, "num_tokens": 0, "reason": reason}
    return {"row": row + 1, "title": title, **nothing, **renamed(kept or {})}


def repeated(
    row: int, title: str, first: Mapping[str, Any], kept: Mapping[str, Any] | None = None
) -> Record:
    """Returns the record of a title that has its text already, in the `first` one's record."""
    same = {name: first[name] for name in OWN[2:] if name in first}
    return {"row": row + 1, "title": title, **same, **renamed(kept or {})}


def text_columns(description: Description) -> Record:
    text, finish_reason, num_tokens = description
    return {"description": text, "finish_reason": finish_reason, "num_tokens": num_tokens}


def renamed(kept: Mapping[str, Any]) -> Record:
    """Returns the shop's columns, of which none is called as one of ours.

    {"sku": 7, "description": "old"} -> {"sku": 7, "input_description": "old"}
    """
    found: Record = {}
    for name, value in kept.items():
        while name in OWN or (name in found):
            name = f"input_{name}"
        found[name] = value
    return found


def line_of(record: Mapping[str, Any]) -> str:
    """Returns a record as one line of JSON, with its end."""
    plain = json.dumps(record, ensure_ascii=False)
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", plain) + "\n"


def record_of(line: bytes | str) -> Record | None:
    """Returns the record of a line; None: it is cut off, or none."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    try:
        record = json.loads(text) if text.endswith("\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("row"), int) else None
