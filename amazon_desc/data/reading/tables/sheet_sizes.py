"""A spreadsheet's archive -> nothing, or the refusal of one that would fill the memory.

Calamine has no bound: it unpacks a sheet, makes a cell of every place up to the last one, and gives
each its own copy of a text. So what it would hold is counted here first, in the bytes of the XML.
Reading the archive whole shows damage, too. What stands in the cells is read in sheets.py.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from amazon_desc.data.reading.files.sources import BUFFER_BYTES
from amazon_desc.support.errors import DataError

MOST_BYTES = 200_000_000  # unpacked, and of a sheet's texts
MOST_CELLS = 10_000_000  # of a sheet, empty ones counted: each takes some 30 bytes
SAVE = "Save the sheet as CSV."

_SHEET = re.compile(r"/?xl/worksheets/[^/]*\.xml")
_SHARED_TEXTS = re.compile(r"/?xl/sharedStrings\.xml")
_PLACE = re.compile(rb'<(?:\w+:)?c\s(?:[^>]*?\s)?r="([A-Z]{1,3})(\d{1,7})"(?:[^>]*[^/>])?>')
_SHARED_TEXT = re.compile(rb"<(?:\w+:)?si>(.*?)</(?:\w+:)?si>", re.DOTALL)
_SHARED_CELL = re.compile(rb'\st="s"[^>]*>\s*<(?:\w+:)?v>(\d{1,9})<')
_ODS_PART = re.compile(rb"<(/?)table:(table|table-row|(?:covered-)?table-cell)(\s[^>]*)?>")
_REPEATED = re.compile(rb'number-(?:rows|columns)-repeated="(\d{1,9})"')


class Size(NamedTuple):
    """What a sheet takes in memory."""

    num_cells: int
    num_bytes: int
    """of the texts that stand in several cells, as often as they stand there"""


def check_size(path: Path) -> None:
    """Refuses a workbook that is too large, damaged, or none, before anything else reads it.

    Raises:
        DataError: as said, with what to do instead.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(info.file_size for info in archive.infolist())
            if num_bytes > MOST_BYTES:
                raise DataError(
                    f"{path} has {num_bytes / 1e6:,.0f} MB when it is unpacked; spreadsheets are "
                    f"read up to {MOST_BYTES / 1e6:,.0f}. {SAVE}"
                )
            for size in _sizes(archive):
                _refuse_size(path, size)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged, protected by a password or no spreadsheet: {error}. {SAVE}"
        ) from error


def _refuse_size(path: Path, size: Size) -> None:
    if size.num_cells > MOST_CELLS:
        raise DataError(
            f"{path}: a sheet has {size.num_cells:,} cells up to its last one, empty ones counted; "
            f"they are read up to {MOST_CELLS:,}. {SAVE}"
        )
    if size.num_bytes > MOST_BYTES:
        raise DataError(
            f"{path}: a sheet has {size.num_bytes / 1e6:,.0f} MB of texts that stand in several "
            f"cells; they are read up to {MOST_BYTES / 1e6:,.0f}. {SAVE}"
        )


def _sizes(archive: zipfile.ZipFile) -> Iterator[Size]:
    names = archive.namelist()
    lengths: list[int] = []
    for name in filter(_SHARED_TEXTS.fullmatch, names):
        lengths += [len(found[1]) for found in _SHARED_TEXT.finditer(archive.read(name))]
    for name in names:
        if _SHEET.fullmatch(name):
            yield _xlsx_size(archive.read(name), lengths)
        elif name == "content.xml":
            yield from _ods_sizes(archive.read(name))
        else:
            with archive.open(name) as member:
                while member.read(BUFFER_BYTES):
                    pass


def _xlsx_size(sheet: bytes, lengths: list[int]) -> Size:
    """The area up to the last column and row with something in it: A1, C4 -> 3 × 4."""
    width = height = 0
    for found in _PLACE.finditer(sheet):
        column = 0
        for letter in found[1]:
            column = 26 * column + letter - 64
        width, height = max(width, column), max(height, int(found[2]))
    texts = Counter(int(found[1]) for found in _SHARED_CELL.finditer(sheet))
    num_bytes = sum(num * lengths[text] for text, num in texts.items() if text < len(lengths))
    return Size(width * height, num_bytes)


def _ods_sizes(content: bytes) -> Iterator[Size]:
    """The area of each table; repeated rows and cells count if they are filled."""
    width = height = row = cell = num_bytes = start = 0
    repeats, times, is_filled, is_text = 1, 1, False, False
    for found in _ODS_PART.finditer(content):
        is_end, kind, attributes = found[1], found[2], found[3] or b""
        if is_text:
            num_bytes += (found.start() - start) * times * repeats * (times * repeats > 1)
        is_text = False
        repeated = _REPEATED.search(attributes)
        num = int(repeated[1]) if repeated else 1
        if kind == b"table":
            yield Size(width * height, num_bytes)
            width = height = row = num_bytes = 0
        elif kind == b"table-row" and is_end:
            row += repeats
            height = row if is_filled else height
        elif kind == b"table-row":
            repeats, cell, is_filled = num, 0, False
        elif not is_end:
            cell += num
            if b"value-type" in attributes:
                width, is_filled = max(width, cell), True
                is_text, times, start = True, num, found.end()
