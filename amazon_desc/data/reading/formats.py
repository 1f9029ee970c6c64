"""A file -> its records as (place, {column: value}), or a Fault for each that cannot be read.

Reads JSON lines, one JSON array and Parquet here, CSV and TSV in delimited.py. Everything streams,
and no record of more than LINE_BYTES is held (of Parquet, a page is). Columns that cannot be read
at all raise DataError. What a product is, is not known here.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from amazon_desc.data.reading.delimited import delimited_rows, refuse_twins
from amazon_desc.data.reading.sources import (
    BOM,
    BUFFER_BYTES,
    LINE_BYTES,
    LINE_TOO_LONG,
    NOT_UTF8,
    TRAIN_MEMBER,
    Fault,
    Meter,
    RawRecord,
    Source,
    open_source,
    split_lines,
)
from amazon_desc.support.errors import DataError

# A text may stand once in a Parquet file and in all its records: so many are in memory at once.
PARQUET_RECORDS = 256
TEXT_TOO_LONG = "text too long"
VALUE_UNREADABLE = "a value cannot be read"

# Finds where an element of an array ends; whether it is valid is not decided by it.
_ELEMENT = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)
_LONG_NUMBER = re.compile(r"\d{19}")
_SPACE, _MARK = " \t\n\r", re.compile(r"[ \t\n\r]*([],])[ \t\n\r]*")


def read_records(
    path: Path,
    columns: Sequence[str],
    member: str = TRAIN_MEMBER,
    meter: Meter | None = None,
    others: Sequence[str] | None = (),
) -> Iterator[RawRecord | Fault]:
    """Yields every record of a file in order; of a Parquet file only the columns asked for.

    Args:
        columns: those that hold text
        others: those that may hold anything, which is to be carried on as it is; None: all
    """
    meter = meter or Meter()
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path, columns, others, meter)
        return
    loads = _exactly if others is None or others else orjson.loads
    with open_source(path, member, meter) as source:
        if source.suffix in (".csv", ".tsv"):
            single = None if others is None else [*columns, *others]
            yield from delimited_rows(source, single, meter.long_records)
        elif _is_array(source):
            yield from _array_rows(source, loads)
        else:
            yield from _json_rows(source, loads)


def _exactly(text: bytes | str) -> Any:
    """orjson takes whole numbers of over 64 bits for floats, and a shop's number may be one.

    12345678901234567890123 -> orjson: 1.2345678901234568e+22
    """
    values = orjson.loads(text)
    decoded = text.decode() if isinstance(text, bytes) else text
    if _LONG_NUMBER.search(decoded):
        with suppress(RecursionError):
            return json.loads(decoded)
    return values


def _json_rows(source: Source, loads: Callable[[bytes], Any]) -> Iterator[RawRecord | Fault]:
    for number, line in split_lines(source):
        place = f"{source.name}, line {number}"
        if line is None:
            yield Fault(place, LINE_TOO_LONG)
            continue
        try:
            values = loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                yield Fault(place, "not valid JSON" if _is_utf8(line) else NOT_UTF8)
            continue
        is_object = isinstance(values, dict)
        yield RawRecord(place, values) if is_object else Fault(place, "not a JSON object")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_array(source: Source) -> bool:
    """Tells an array from lines: a first line that is a whole list is a bad line among others."""
    start = source.stream.peek(BUFFER_BYTES).removeprefix(BOM).lstrip()
    line, _, rest = start.partition(b"\n")
    return start.startswith(b"[") and not (rest.strip() and _is_json(line))


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _array_rows(source: Source, loads: Callable[[str], Any]) -> Iterator[RawRecord | Fault]:
    for number, text in enumerate(_array_elements(source), start=1):
        place = f"{source.name}, record {number}"
        try:
            values = loads(text)
        except orjson.JSONDecodeError:
            is_utf8 = _is_utf8(text.encode(errors="surrogateescape"))
            yield Fault(place, "not valid JSON" if is_utf8 else NOT_UTF8)
            continue
        is_object = isinstance(values, dict)
        yield RawRecord(place, values) if is_object else Fault(place, "not a JSON object")


def _array_elements(source: Source) -> Iterator[str]:
    """Yields the text of each element; DataError where it cannot be told from the next one."""
    parts = iter(partial(source.stream.read, BUFFER_BYTES), b"")
    texts = codecs.iterdecode(parts, "utf-8-sig", errors="surrogateescape")
    text = next(texts).lstrip(_SPACE)[1:].lstrip(_SPACE)
    is_open = not text.startswith("]")
    number, start = 1, 0 if is_open else 1
    while is_open:
        mark = _mark_after(text, start)
        while mark is None and len(text) - start <= LINE_BYTES and (more := next(texts, "")):
            text, start = (text[start:] + more).lstrip(_SPACE), 0
            mark = _mark_after(text, start)
        if mark is None:
            break
        yield text[start : mark.start()]
        number, start, is_open = number + 1, mark.end(), mark[1] == ","
    # It is read to its end, also after the bracket: only there damage shows.
    if is_open or any(text.strip(_SPACE) for text in chain([text[start:]], texts)):
        raise DataError(
            f"{source.name} is not a valid JSON array: it breaks at record {number}, or that is "
            f"longer than {LINE_BYTES} bytes. Write one object a line instead: of such a file only "
            "bad lines are lost."
        )


def _mark_after(text: str, start: int) -> re.Match[str] | None:
    """The comma or bracket after the element that starts there, if both are whole."""
    try:
        end = _ELEMENT.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
    return _MARK.match(text, end) if end - start <= LINE_BYTES else None


def _parquet_rows(
    path: Path, columns: Sequence[str], others: Sequence[str] | None, meter: Meter
) -> Iterator[RawRecord | Fault]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            asked = schema.names if others is None else list(dict.fromkeys([*columns, *others]))
            refuse_twins(str(path), schema.names, asked)
            for column in columns:
                if column not in schema.names:
                    continue
                if not _is_text(kind := schema.field(column).type):
                    raise DataError(
                        f"{path}: wanted text in the column {column!r}, found {kind}. Choose "
                        "another column, or write this one as strings."
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
            f"{path} is damaged or no Parquet file: {error}. Copy or download it again."
        ) from error


def _is_long(values: dict[str, object]) -> bool:
    texts = (text for text in values.values() if isinstance(text, (str, bytes)))
    return any(len(text) > LINE_BYTES for text in texts)


def _is_text(kind) -> bool:
    import pyarrow

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return (
        pyarrow.types.is_string(kind)
        or pyarrow.types.is_large_string(kind)
        or pyarrow.types.is_string_view(kind)
    )


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
