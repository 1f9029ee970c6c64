"""Parquet -> its records as (place, {column: value}), or a Fault for each that cannot be read.

In come a path and columns, out go the records in the file's order, a page at a time. A column that
is to hold text and cannot, or one that is there twice, raises DataError. What a product is, is not
known here.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from amazon_desc.data.reading.files.sources import LINE_BYTES, NOT_UTF8, Fault, Meter, RawRecord
from amazon_desc.data.reading.tables.delimited import refuse_twins
from amazon_desc.support.errors import DataError

# A text may stand once in a Parquet file and in all its records: so many are in memory at once.
PARQUET_RECORDS = 256
TEXT_TOO_LONG = "text too long"
VALUE_UNREADABLE = "a value cannot be read"


def parquet_records(
    path: Path,
    columns: Sequence[str],
    others: Sequence[str] | None,
    meter: Meter,
    called: str = "Parquet",
    opened: Callable[[Path], Any] | None = None,
) -> Iterator[RawRecord | Fault]:
    """Yields every record; `opened`: what opens a file of another kind that is read alike."""
    import pyarrow
    import pyarrow.parquet

    try:
        with (opened or _opened)(path) as file:
            schema = file.schema_arrow
            asked = schema.names if others is None else list(dict.fromkeys([*columns, *others]))
            refuse_twins(str(path), schema.names, asked)
            for column in columns:
                if column not in schema.names:
                    continue
                if not _becomes_text(kind := schema.field(column).type):
                    part = f"{column}.{kind[0].name}" if pyarrow.types.is_struct(kind) else ""
                    raise DataError(
                        f"{path}: wanted text in the column {column!r}, found {kind}. Choose "
                        f"another column{part and f', or a part of this one ({part})'}, or write "
                        "this one as strings."
                    )
            # With a column missing, all are read: the refusal shows what there is.
            is_whole = {*columns, *asked} <= set(schema.names)
            chosen = asked if is_whole and others is not None else None
            num_records, total = 0, max(file.metadata.num_rows, 1)
            meter.share = lambda: num_records / total
            for batch in file.iter_batches(batch_size=PARQUET_RECORDS, columns=chosen):
                for number, row in enumerate(_batch_rows(batch), start=num_records + 1):
                    place = f"{path.name}, record {number}"
                    yield Fault(place, row) if isinstance(row, str) else RawRecord(place, row)
                num_records += batch.num_rows
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged or no {called} file: {error}. Copy or download it again."
        ) from error


def _opened(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)


def _is_long(values: dict[str, object]) -> bool:
    return any(_num_characters(value) > LINE_BYTES for value in values.values())


def _num_characters(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_num_characters, value))
    return len(value) if isinstance(value, (str, bytes)) else 0


def _becomes_text(kind) -> bool:
    """Says whether values of a type are text, or become it: numbers, days, and lists of these."""
    from pyarrow import types

    if types.is_dictionary(kind) or _is_list(kind):
        return _becomes_text(kind.value_type) and not _is_list(kind.value_type)
    return not (
        types.is_nested(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_list(kind) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _batch_rows(batch) -> list[dict[str, object] | str]:
    """The values of each row, or why there are none.

    Parquet does not check that text is UTF-8, and knows days and times that Python does not.
    """
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [NOT_UTF8 if isinstance(error, UnicodeDecodeError) else VALUE_UNREADABLE]
        slices = (batch.slice(index, 1) for index in range(batch.num_rows))
        return [row for single in slices for row in _batch_rows(single)]
    if batch.nbytes <= LINE_BYTES:
        return rows
    return [TEXT_TOO_LONG if _is_long(row) else row for row in rows]
