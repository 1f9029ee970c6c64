"""A spreadsheet (.xlsx, .xlsm, .ods) -> its records as (place, {column: value}).

Of a workbook the first sheet with most of the columns is read, by calamine, which comes with the
extra `excel`. It cannot stream: a sheet's cells are in memory, two sheets' while one is chosen, so
sheet_sizes.py refuses large ones before. Formulas give the values that were saved with them.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from amazon_desc.data.reading.columns import num_told
from amazon_desc.data.reading.files.sources import Meter, RawRecord
from amazon_desc.data.reading.tables.cells import mends_of
from amazon_desc.data.reading.tables.delimited import refuse_twins
from amazon_desc.data.reading.tables.dialects import HEADER_ROWS, header_of
from amazon_desc.data.reading.tables.sheet_sizes import SAVE, check_size
from amazon_desc.data.reading.values import single_text
from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

_SAMPLE_ROWS = 100


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
    check_size(path)
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
            f"{path} is damaged, protected or no spreadsheet: {error}. {SAVE}"
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
