"""A file -> its records as (place, {column: value}), or a Fault for each that cannot be read.

Finds who reads a file, in json/ or tables/, by its content where that shows it. Everything
streams, and no record of more than LINE_BYTES is held; but of Parquet a page is, of a spreadsheet a
sheet. Columns that cannot be read at all raise DataError. What a product is, is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from amazon_desc.data.reading.files.kinds import SHEETS, table_of
from amazon_desc.data.reading.files.sources import (
    TRAIN_MEMBER,
    Fault,
    Meter,
    RawRecord,
    open_source,
    start_of,
)
from amazon_desc.data.reading.json.conversations import conversation_rows
from amazon_desc.data.reading.json.records import json_records
from amazon_desc.data.reading.tables.arrow_records import arrow_records
from amazon_desc.data.reading.tables.delimited import delimited_rows
from amazon_desc.data.reading.tables.parquet_records import parquet_records
from amazon_desc.data.reading.tables.sheets import sheet_records


@dataclass(frozen=True, kw_only=True)
class Form:
    """How files are to be read where they do not tell it themselves; None: as they tell."""

    separator: str | None = None
    """what stands between the fields of a CSV"""
    encoding: str | None = None
    """of a text file, as Python names it"""
    header_row: int | None = None
    """the line that names the columns, from 1"""


AS_THEY_TELL = Form()


def read_records(
    path: Path,
    columns: Sequence[str],
    member: str = TRAIN_MEMBER,
    meter: Meter | None = None,
    others: Sequence[str] | None = (),
    form: Form = AS_THEY_TELL,
) -> Iterator[RawRecord | Fault]:
    """Yields every record of a file in order; of a Parquet file only the columns asked for.

    Args:
        columns: those that hold text
        others: those that may hold anything, which is to be carried on as it is; None: all
        form: what is known of the file beforehand
    """
    meter = meter or Meter()
    table = table_of(path.name, start_of(path))
    if table in SHEETS:
        yield from sheet_records(path, columns, others, form.header_row, meter)
        return
    if table == ".parquet":
        yield from parquet_records(path, columns, others, meter)
        return
    if table == ".arrow":
        yield from arrow_records(path, columns, others, meter)
        return
    with open_source(path, member, meter, form.encoding) as source:
        if source.suffix in (".csv", ".tsv"):
            yield from delimited_rows(
                source, columns, others, meter, form.separator, form.header_row
            )
        else:
            is_exact = others is None or bool(others)
            rows = json_records(source, columns, is_exact, meter)
            yield from conversation_rows(rows, source.name, columns, meter)
