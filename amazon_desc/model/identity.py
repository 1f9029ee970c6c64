"""What trained LoRA matrices belong to: base, quantisation and prompt.

In come two records of it, out comes nothing, or an error that shows both values side by side. The
record is stored in every checkpoint and in every adapter folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amazon_desc.data.encoding.prompts import Frame, with_line_ends
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json, write_text

RECORD_FILE = "amazon_desc.json"
FILES = "files"  # in that record: the sha256 of those beside it, by name

OPTIONS = {
    "base_sha256": "--model.backbone",
    "base_files": "--model.backbone",
    "quantization": "--model.quantization",
    "template": "--data.prompt.template",
    "is_chat": "--data.prompt.chat",
    "system": "--data.prompt.system",
}

# What is meant by a record that was written before there was such an option.
BEFORE = {"system": None, "base_files": {}, "frame": None}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """`base_sha256` decides whether two bases are the same; name and revision say how to get it."""

    backbone: str
    revision: str | None
    base_sha256: str
    quantization: str
    template: str
    is_chat: bool
    system: str | None = None
    base_files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the base's files beside its weights, by name"""
    frame: Sequence[str] | None = None
    """what the chat template wrote when training began: before the user's words, after them, and
    after the description; it is taken over, not compared"""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_identity(
    found: dict[str, Any] | None,
    wanted: Identity,
    owner: str,
    keys: Collection[str] = tuple(OPTIONS),
) -> None:
    """Refuses weights that were trained on another base, quantisation or prompt.

    Raises:
        UserError: `owner`, the option, what it holds and what this run has.
    """
    found = {**BEFORE, **found} if isinstance(found, dict) else {}
    if not set(OPTIONS) <= set(found):
        raise UserError(
            f"{owner} was not written by amazon_desc: wanted a record of the base and prompt that "
            f"it is for, found none. Name weights that amazon_desc fit has written."
        )
    mine = wanted.as_dict()
    for key, option in OPTIONS.items():
        if key == "base_files" and key in keys:
            refuse_other_files(found[key], mine[key], owner, wanted.backbone)
        elif key in keys and found[key] != mine[key]:
            theirs, ours = found[key], mine[key]
            if key == "base_sha256":
                theirs, ours = (
                    f"{r.get('backbone')} (sha256 {str(r[key])[:12]})" for r in (found, mine)
                )
            remedy = f"Set {option} to what it was trained with."
            if key == "template" and with_line_ends(str(theirs)) != theirs:
                remedy = "Its \\n was learnt as text, and is a line end now: train it again."
            raise UserError(
                f"{owner} was trained with {option} {theirs!r}, this run has {ours!r}. {remedy}"
            )


def refuse_other_files(
    found: Mapping[str, str], mine: Mapping[str, str], owner: str, backbone: str
) -> None:
    """Refuses a base with the same weights, but with another configuration, tokenizer or template.

    A file that only one of them has was of no use to the other.
    """
    for name in sorted(found.keys() & mine.keys()):
        if found[name] != mine[name]:
            raise UserError(
                f"{owner} was trained with a base whose {name} has the sha256 {found[name][:12]}, "
                f"that of --model.backbone {backbone} has {mine[name][:12]}. Put that file back, "
                f"or set --model.backbone and --model.revision to what it was trained with."
            )


def frame_in(record: dict[str, Any] | None) -> Frame | None:
    """Returns what the chat template wrote when training began, if a record says it.

    Raises:
        UserError: it says something else there.
    """
    found = (record or {}).get("frame")
    if found is None:
        return None
    if not (isinstance(found, list) and [type(part) for part in found] == [str, str, str]):
        raise UserError(
            f"the record of trained weights: wanted three texts of a chat template as its frame, "
            f"found {found!r}. Name weights that amazon_desc fit has written."
        )
    return Frame(*found)


def write_record(folder: Path, identity: Identity) -> None:
    """Writes what the weights in a folder belong to, and the sha256 of each file that is there."""
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file()}
    files.pop(RECORD_FILE, None)
    write_text(
        folder / RECORD_FILE, json.dumps({**identity.as_dict(), FILES: files}, indent=1) + "\n"
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns the record of an adapter folder, or None where PEFT or TRL wrote it."""
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    record = read_json(file)
    if not isinstance(record, dict):
        raise UserError(f"{file}: wanted the record of an adapter, found {type(record).__name__}.")
    return record
