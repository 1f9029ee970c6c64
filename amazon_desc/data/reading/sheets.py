"""A spreadsheet (.xlsx, .xlsm, .ods) -> its records as (place, {column: value}).

Of a workbook the first sheet with most of the columns is read, by calamine, which comes with the
extra `excel`. It cannot stream: a sheet's cells are in memory, two sheets' while one is chosen, so
what is larger than MOST_BYTES or MOST_CELLS is refused before. Formulas give their saved values.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from amazon_desc.data.reading.cells import mends_of
from amazon_desc.data.reading.columns import num_told
from amazon_desc.data.reading.delimited import refuse_twins
from amazon_desc.data.reading.dialects import HEADER_ROWS, header_of
from amazon_desc.data.reading.sources import BUFFER_BYTES, Meter, RawRecord
from amazon_desc.data.reading.values import single_text
from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

MOST_BYTES = 200_000_000
MOST_CELLS = 10_000_000  # of a sheet, empty ones counted: each takes some 30 bytes

_SAMPLE_ROWS = 100
_PLACE = re.compile(rb'<(?:\w+:)?c\s(?:[^>]*?\s)?r="([A-Z]{1,3})(\d{1,7})"(?:[^>]*[^/>])?>')
_ODS_PART = re.compile(rb"<(/?)table:(table|table-row|(?:covered-)?table-cell)(\s[^>]*)?>")
_REPEATED = re.compile(rb'number-(?:rows|columns)-repeated="(\d+)"')
_SAVE = "Save the sheet as CSV."


def sheet_records(
    path: Path,
    columns: Sequence[str],
    others: Sequence[str] | None,
    header_row: int | None,
    meter: Meter,
) -> Iterator[RawRecord]:
    """Yields every row behind the one that names the columns; blank rows are none.

    Args:
        columns: those that hold text, of each of which there may be only one
        others: as `columns`, for all that is to be carried on; None: all that have a name
        header_row: the row that names the columns, from 1; None: the first that can
    Raises:
        DataError: calamine is not installed; the file is damaged, too large or no spreadsheet; no
            row names columns.
    """
    _check_size(path)
    sheet, sheets = _chosen_sheet(path, columns, header_row)
    name, num_rows = sheet.name, max(sheet.total_height, 1)
    if len(sheets) > 1:
        rest = ", ".join(f'"{printable(other)}"' for other in sheets if other != name)
        meter.remarks.append(f'{path.name}: the sheet "{printable(name)}" is read, not {rest}')
    rows = _first_rows(sheet, header_row, _SAMPLE_ROWS)
    start = _header_index(rows, columns, header_row)
    header = [_name(cell) for cell in rows[start]]
    if header_row is None and any(not _is_blank(row) for row in rows[:start]):
        meter.remarks.append(f"{path.name}: row {start + 1} names the columns (--data.header_row)")
    single = list(filter(None, header)) if others is None else [*columns, *others]
    refuse_twins(str(path), header, single)
    mends, remarks = mends_of(path.name, header, rows[start + 1 :], columns)
    meter.remarks += remarks
    number = 0
    meter.share = lambda: number / num_rows
    for number, row in enumerate(sheet.iter_rows(), start=1):
        if number < start + 2 or _is_blank(row):
            continue
        values = dict(zip(header, map(_value, row), strict=True))
        for column, mend in mends.items():
            if isinstance(text := values[column], str):
                values[column] = mend(text)
        yield RawRecord(f"{path.name} ({printable(name)}), row {number}", values)


def _chosen_sheet(
    path: Path, columns: Sequence[str], header_row: int | None
) -> tuple[Any, list[str]]:
    """Returns the first sheet that has most of the columns, and the names of all."""
    try:
        from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum
    except ImportError as error:
        raise DataError(
            f"{path}: spreadsheets are read by python-calamine, which is not installed. Install it "
            'with `pip install "amazon_desc[excel]"` (in a checkout: `pip install -e ".[excel]"`), '
            "or save the sheet as CSV."
        ) from error
    try:
        with CalamineWorkbook.from_path(path) as book:
            kinds = {sheet.name: sheet.typ for sheet in book.sheets_metadata}
            names = [name for name in kinds if kinds[name] == SheetTypeEnum.WorkSheet]
            best, most = None, -1
            for name in names:
                sheet = book.get_sheet_by_name(name)
                first = _first_rows(sheet, header_row, 0)
                index = _header_index(first, columns, header_row)
                if index >= len(first) or _is_blank(first[index]):
                    continue
                if (told := num_told(columns, list(map(_name, first[index])))) > most:
                    best, most = sheet, told
            if best is None:
                row = f"row {header_row} (--data.header_row)" if header_row else "the first rows"
                raise DataError(
                    f"{path}: wanted the names of the columns in {row}, found no sheet that has "
                    "any there. Rows are counted from 1, blank ones too."
                )
            return best, names
    except CalamineError as error:
        raise DataError(
            f"{path} is damaged, protected or no spreadsheet: {error}. {_SAVE}"
        ) from error


def _first_rows(sheet: Any, header_row: int | None, num_more: int) -> list[list[Any]]:
    """Returns the rows in which the header may be, and more behind them."""
    return list(islice(sheet.iter_rows(), max(header_row or 0, HEADER_ROWS) + num_more))


def _header_index(rows: list[list[Any]], columns: Sequence[str], header_row: int | None) -> int:
    if header_row is not None:
        return header_row - 1
    filled = [index for index, row in enumerate(rows[:HEADER_ROWS]) if not _is_blank(row)]
    return filled[header_of([list(map(_name, rows[i])) for i in filled], columns)] if filled else 0


def _is_blank(row: list[Any]) -> bool:
    return not any(cell != "" and str(cell).strip() for cell in row)


def _name(cell: Any) -> str:
    return single_text(_value(cell)) or ""


def _value(cell: Any) -> Any:
    """Excel knows no whole numbers: 1984.0 is what somebody wrote as 1984."""
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _check_size(path: Path) -> None:
    """Refuses what would fill the memory, before anything is read: calamine has no bound.

    A cell far away is enough for that, as a sheet is held with all cells in between.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(info.file_size for info in archive.infolist())
            if num_bytes > MOST_BYTES:
                raise DataError(
                    f"{path} has {num_bytes / 1e6:,.0f} MB when it is unpacked; spreadsheets are "
                    f"read up to {MOST_BYTES / 1e6:,.0f}. {_SAVE}"
                )
            for info in archive.infolist():
                num_cells = _num_cells(archive, info)
                if num_cells > MOST_CELLS:
                    raise DataError(
                        f"{path}: a sheet has {num_cells:,} cells up to its last one, empty ones "
                        f"counted; they are read up to {MOST_CELLS:,}. {_SAVE}"
                    )
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged, protected by a password or no spreadsheet: {error}. {_SAVE}"
        ) from error


def _num_cells(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Returns how many cells a member's sheet spans; reading it whole checks it, too."""
    with archive.open(info) as member:
        if re.fullmatch(r"/?xl/worksheets/[^/]*\.xml", info.filename):
            return _span(member.read())
        if info.filename == "content.xml":
            return _ods_span(member.read())
        while member.read(BUFFER_BYTES):
            pass
    return 0


def _span(sheet: bytes) -> int:
    """Returns the area up to the last column and row with something in it: A1, C4 -> 3 × 4."""
    width = height = 0
    for found in _PLACE.finditer(sheet):
        letters, row = found[1], int(found[2])
        height = max(height, row)
        column = 0
        for letter in letters:
            column = 26 * column + letter - 64
        width = max(width, column)
    return width * height


def _ods_span(content: bytes) -> int:
    """Returns the largest area of the tables; repeated rows and cells count if they are filled."""
    most = width = height = row = cell = 0
    repeats, is_filled = 1, False
    for found in _ODS_PART.finditer(content):
        is_end, kind, attributes = found[1], found[2], found[3] or b""
        times = _REPEATED.search(attributes)
        num = int(times[1]) if times else 1
        if kind == b"table":
            most, width, height, row = max(most, width * height), 0, 0, 0
        elif kind == b"table-row" and is_end:
            row += repeats
            height = row if is_filled else height
        elif kind == b"table-row":
            repeats, cell, is_filled = num, 0, False
        elif not is_end:
            cell += num
            if b"value-type" in attributes:
                width, is_filled = max(width, cell), True
    return max(most, width * height)
