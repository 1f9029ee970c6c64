"""A file -> its records as (place, {column: value}), or a Fault for each that cannot be read.

Reads JSON lines, one JSON array, CSV, TSV and Parquet. Everything streams but the array. Columns
that cannot be read at all raise DataError. What a product is, is not known here.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from amazon_desc.data.sources import (
    BOM,
    BUFFER_BYTES,
    LINE_BYTES,
    LINE_TOO_LONG,
    NOT_UTF8,
    TRAIN_MEMBER,
    Fault,
    Meter,
    Source,
    open_source,
    split_lines,
)
from amazon_desc.errors import DataError

# An array is held in memory, and its objects take several times its bytes.
ARRAY_BYTES = 1 << 28


class Row(NamedTuple):
    """A record as it stands in its file: a column that the record lacks is no key."""

    place: str
    values: dict[str, object]


def read_rows(
    path: Path, columns: Sequence[str], member: str = TRAIN_MEMBER, meter: Meter | None = None
) -> Iterator[Row | Fault]:
    """Yields every record of a file in order; of a Parquet file only `columns` are read."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path, columns, meter or Meter())
        return
    with open_source(path, member, meter) as source:
        if source.suffix in (".csv", ".tsv"):
            yield from _csv_rows(source, "\t" if source.suffix == ".tsv" else ",")
        elif source.stream.peek(BUFFER_BYTES).removeprefix(BOM).lstrip().startswith(b"["):
            yield from _array_rows(source)
        else:
            yield from _json_rows(source)


def _json_rows(source: Source) -> Iterator[Row | Fault]:
    for number, line in split_lines(source):
        place = f"{source.name}, line {number}"
        if line is None:
            yield Fault(place, LINE_TOO_LONG)
            continue
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                yield Fault(place, "not valid JSON" if _is_utf8(line) else NOT_UTF8)
            continue
        is_object = isinstance(values, dict)
        yield Row(place, values) if is_object else Fault(place, "not a JSON object")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _array_rows(source: Source) -> Iterator[Row | Fault]:
    data = source.stream.read(ARRAY_BYTES + 1)
    advice = "Write one object a line instead: such a file streams, and only bad lines are lost."
    if len(data) > ARRAY_BYTES:
        raise DataError(
            f"{source.name}: a single JSON array must not exceed {ARRAY_BYTES} bytes. {advice}"
        )
    try:
        items = orjson.loads(data.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise DataError(f"{source.name} is not a valid JSON array: {error}. {advice}") from error
    for number, values in enumerate(items, start=1):
        place = f"{source.name}, record {number}"
        is_object = isinstance(values, dict)
        yield Row(place, values) if is_object else Fault(place, "not a JSON object")


class _CsvLines:
    """Decoded lines for the csv module, and what was wrong with those of the current record."""

    def __init__(self, source: Source):
        self._lines = split_lines(source)
        self.number = 0
        self.flaw = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if line is None:
            raise csv.Error(LINE_TOO_LONG)  # the reader gives up the record and starts afresh
        if b"\0" in line:
            self.flaw = "NUL character"
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.flaw = NOT_UTF8
            return line.decode(errors="replace") + "\n"


def _csv_rows(source: Source, delimiter: str) -> Iterator[Row | Fault]:
    header: list[str] | None = None
    for place, row in _csv_records(source, delimiter):
        if header is None:
            if isinstance(row, str):
                raise DataError(f"{place}: the line that names the columns is {row}.")
            header = row if "".join(row).strip() else None
        elif isinstance(row, str):
            yield Fault(place, row)
        elif len(row) > len(header):
            yield Fault(place, "more fields than columns")
        else:
            yield Row(place, dict(zip(header, row, strict=False)))


def _csv_records(source: Source, delimiter: str) -> Iterator[tuple[str, list[str] | str]]:
    """Yields (place of the first line, fields or the reason why there are none)."""
    lines = _CsvLines(source)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        place = f"{source.name}, line {lines.number + 1}"
        lines.flaw = ""
        # The limit belongs to the whole process: others find it as they left it.
        limit = csv.field_size_limit(LINE_BYTES)
        try:
            row = next(reader, None)
            flaw = lines.flaw
        except csv.Error as error:
            is_long = LINE_TOO_LONG in str(error) or "field limit" in str(error)
            row, flaw = [], lines.flaw or (LINE_TOO_LONG if is_long else "not valid CSV")
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        if row or flaw:
            yield place, flaw or row


def _parquet_rows(path: Path, columns: Sequence[str], meter: Meter) -> Iterator[Row | Fault]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            wanted = [column for column in columns if column in schema.names]
            for column in wanted:
                if not _is_text(kind := schema.field(column).type):
                    raise DataError(
                        f"{path}: wanted text in the column {column!r}, found {kind}. Choose "
                        "another column, or write this one as strings."
                    )
            # With a column missing, all are read: the refusal shows what there is.
            chosen = wanted if len(wanted) == len(columns) else None
            num_records, total = 0, max(file.metadata.num_rows, 1)
            meter.share = lambda: num_records / total
            for batch in file.iter_batches(batch_size=1024, columns=chosen):
                for number, values in enumerate(_batch_values(batch), start=num_records + 1):
                    place = f"{path.name}, record {number}"
                    yield Fault(place, NOT_UTF8) if values is None else Row(place, values)
                num_records += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is damaged or no Parquet file: {error}. Copy or download it again."
        ) from error


def _is_text(kind) -> bool:
    import pyarrow

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return (
        pyarrow.types.is_string(kind)
        or pyarrow.types.is_large_string(kind)
        or pyarrow.types.is_string_view(kind)
    )


def _batch_values(batch) -> list[dict[str, object] | None]:
    """One dict per row; None where a text is not valid UTF-8, which Parquet does not check."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
    rows = (batch.slice(index, 1) for index in range(batch.num_rows))
    return [values for row in rows for values in _batch_values(row)]
