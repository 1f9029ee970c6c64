"""JSON -> its records as (place, {key: value}), or a Fault for each that cannot be read.

json/shapes.py tells where the records stand, json/elements.py takes them out, json/mending.py mends
what can mean only one thing. Everything streams, but for objects of columns: no other record of
more than LINE_BYTES is held. Where records cannot be told from each other, DataError is raised.
What a product is, is not known here.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import orjson

from amazon_desc.data.reading.files.sources import (
    BOM,
    LINE_TOO_LONG,
    NOT_UTF8,
    Fault,
    Meter,
    RawRecord,
    Source,
    split_lines,
)
from amazon_desc.data.reading.json.columns import column_records
from amazon_desc.data.reading.json.elements import Elements
from amazon_desc.data.reading.json.looks import refuse_unlike_json
from amazon_desc.data.reading.json.mending import mended
from amazon_desc.data.reading.json.shapes import Shape, is_list_of_objects, shape_of, taking_out
from amazon_desc.data.reading.json.start import start_of
from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

_LONG_NUMBER = re.compile(r"\d{19}")

Loads = Callable[[bytes | str], Any]


def json_records(
    source: Source, columns: Sequence[str], is_exact: bool, meter: Meter
) -> Iterator[RawRecord | Fault]:
    """Yields every record of a file.

    Args:
        columns: that are asked for: they tell an object of columns from one that is keyed by id
        is_exact: whole numbers of any size stay what they are
        meter: is told how the file was understood, and at its end what was mended
    """
    loads = _exactly if is_exact else orjson.loads
    start, is_cut, source = start_of(source)
    start = start.removeprefix(BOM)
    shape, key = shape_of(source.name, start, columns)
    mends = _Mends(source.name, loads)
    if shape is Shape.LINES:
        refuse_unlike_json(source.name, start, is_cut, mends.is_object)
        yield from _json_rows(source, loads, mends)
    elif shape is Shape.COLUMNS:
        meter.remarks.append(f"{source.name}: it is an object of columns, read as a whole")
        yield from column_records(source, loads)
    elif shape is Shape.KEYED:
        meter.remarks.append(
            f'{source.name}: the members of its one object are the records, their keys are "id"'
        )
        yield from _keyed_rows(source, mends)
    else:
        if shape is Shape.WRAPPED:
            meter.remarks.append(
                f'{source.name}: the records are those of the list "{printable(key)}"'
            )
        yield from _element_rows(source.name, _elements(source, shape, key), mends)
    meter.remarks += mends.remarks()


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


class _Mends:
    """Mends records that are not JSON, and counts them by what was mended."""

    def __init__(self, name: str, loads: Loads) -> None:
        self._name, self.loads = name, loads
        self._nums: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def is_object(self, text: str) -> bool:
        return mended(text, self.loads) is not None

    def row(self, place: str, text: bytes) -> RawRecord | Fault:
        """Returns the record that a text can only mean, or why there is none."""
        try:
            found = mended(text.decode(), self.loads)
        except UnicodeDecodeError:
            return Fault(place, NOT_UTF8)
        if found is None:
            return Fault(place, "not valid JSON")
        values, what = found
        self._nums[what] = self._nums.get(what, 0) + 1
        self._places.setdefault(what, place)
        return RawRecord(place, values)

    def remarks(self) -> list[str]:
        return [
            f"{self._name}: some is no JSON, and was read as what it can only mean: {what}; number "
            f"of records: {num:,}, the first: {self._places[what]}"
            for what, num in self._nums.items()
        ]


def _json_rows(source: Source, loads: Loads, mends: _Mends) -> Iterator[RawRecord | Fault]:
    for number, line in split_lines(source):
        place = f"{source.name}, line {number}"
        if line is None:
            yield Fault(place, LINE_TOO_LONG)
            continue
        try:
            values = loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                yield mends.row(place, line)
            continue
        is_object = isinstance(values, dict)
        yield RawRecord(place, values) if is_object else Fault(place, "not a JSON object")


def _element_rows(name: str, elements: Iterator[str], mends: _Mends) -> Iterator[RawRecord | Fault]:
    for number, text in enumerate(elements, start=1):
        yield _element_row(f"{name}, record {number}", text, mends)


def _element_row(place: str, text: str, mends: _Mends) -> RawRecord | Fault:
    try:
        values = mends.loads(text)
    except orjson.JSONDecodeError:
        return mends.row(place, text.encode(errors="surrogateescape"))
    is_object = isinstance(values, dict)
    return RawRecord(place, values) if is_object else Fault(place, "not a JSON object")


def _elements(source: Source, shape: Shape, key: str) -> Iterator[str]:
    """Yields the text of each record, and reads the file to its end: only there damage shows."""
    if shape is Shape.OBJECTS:
        yield from Elements(source, "a row of valid JSON objects").objects()
        return
    if shape is Shape.ARRAY:
        elements = Elements(source, "a valid JSON array")
        yield from elements.array()
    else:
        elements = Elements(source, "a valid JSON object")
        for _ in elements.members(stop=key):
            pass
        yield from elements.array()
        if elements.steps_over(","):
            for other, text in elements.more_members():
                _refuse_second_list(source.name, key, other, text)
        else:
            elements.step("}")
    elements.end()


def _refuse_second_list(name: str, key: str, other: str, text: str) -> None:
    if is_list_of_objects(text):
        raise DataError(
            f'{name}: wanted one list of products, found two: "{printable(key)}" and '
            f'"{printable(other)}". Take one of them out: {taking_out(name, [key])}'
        )


def _keyed_rows(source: Source, mends: _Mends) -> Iterator[RawRecord | Fault]:
    """Yields each member of the one object; its key is the record's id, unless it has one."""
    elements = Elements(source, "a valid JSON object")
    for number, (key, text) in enumerate(elements.members(), start=1):
        row = _element_row(f"{source.name}, record {number}", text, mends)
        yield row if isinstance(row, Fault) else row._replace(values={"id": key, **row.values})
    elements.end()
