"""A stream of titles, such as standard input -> a file of them, which can be read and known again.

In come bytes of unknown length: a title a line, or JSON Lines. Out goes a copy on the disk, with
the suffix of what it holds: only so can it be read twice, and resumed with the same titles.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import orjson

from amazon_desc.data.reading.files.packing import packing_of
from amazon_desc.data.reading.files.sources import (
    BOM,
    BUFFER_BYTES,
    LINE_BYTES,
    open_source,
    split_lines,
)
from amazon_desc.support.errors import DataError
from amazon_desc.support.files import replacing_file, storage

NAME = "standard_input"


def copy_stream(stream: BinaryIO, folder: Path) -> Path:
    """Writes what a stream still gives into `folder`; returns the file, .txt or .jsonl.

    The first line that is not blank decides: what a whole JSON object is on it, is JSON Lines; of
    what is packed or not ASCII the line is looked for in the text. A copy of before, of either
    kind, is replaced.

        Mog's Kittens           -> standard_input.txt
        {"title": "Mog's Kitt"} -> standard_input.jsonl

    Raises:
        DataError: nothing came.
        StorageError: the disk refused it.
    """
    kinds = {suffix: folder / f"{NAME}{suffix}" for suffix in (".txt", ".jsonl")}
    with storage(folder):
        with replacing_file(folder / NAME) as temporary, temporary.open("wb") as file:
            first = _copy_first_line(stream, file)
            shutil.copyfileobj(stream, file, BUFFER_BYTES)
            num_bytes = file.tell()
        for path in kinds.values():
            path.unlink(missing_ok=True)
        (folder / NAME).replace(kinds[".txt"])
        if packing_of(first) or b"\0" in first or not first.isascii():
            first = _first_line_of(kinds[".txt"])
        path = kinds[".jsonl" if _is_object(first) else ".txt"]
        kinds[".txt"].replace(path)
    if num_bytes == 0:
        path.unlink()
        raise DataError(
            "standard input is empty (0 bytes): wanted a title a line, or JSON Lines. See that "
            "the command before the pipe writes something."
        )
    return path


def _copy_first_line(stream: BinaryIO, file: BinaryIO) -> bytes:
    """Copies up to the first line that is not blank, and returns it, or as much as may be one."""
    while part := stream.readline(LINE_BYTES + 1):
        file.write(part)
        if line := part.removeprefix(BOM).strip():
            return line
    return b""


def _first_line_of(path: Path) -> bytes:
    """Returns the first line that is not blank; none of a damaged file, as its reader tells."""
    with suppress(DataError), open_source(path) as source:
        return next((line for _, line in split_lines(source) if line and line.strip()), b"")
    return b""


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
