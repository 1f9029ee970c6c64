"""JSON that stands in columns -> its records, as (place, {column: value}).

In come the forms that pandas writes: {"title": {"0": "a"}}, {"title": ["a"]} and {"columns": [..],
"data": [[..]]}. A record is complete only with the last column, so the file is held as a whole, and
one of more than COLUMNS_BYTES is refused.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from amazon_desc.data.reading.files.sources import BOM, RawRecord, Source
from amazon_desc.data.reading.json.mending import without_oddities
from amazon_desc.support.errors import DataError

COLUMNS_BYTES = 1 << 28


def column_records(source: Source, loads: Callable[[bytes | str], Any]) -> Iterator[RawRecord]:
    """Yields the records of a file that holds one object of columns.

    {"title": {"0": "a", "1": "b"}, "content": {"0": "x"}} -> {"title": "a", "content": "x"},
                                                              {"title": "b"}

    Raises:
        DataError: it is too large, no valid JSON, or its columns do not belong together.
    """
    name = source.name
    values = _loaded(source, loads)
    if isinstance(values.get("columns"), list) and isinstance(values.get("data"), list):
        rows = _of_rows(name, values["columns"], values["data"])
    elif values and all(isinstance(column, dict) for column in values.values()):
        rows = _of_objects(values)
    else:
        rows = _of_lists(name, values)
    for number, row in enumerate(rows, start=1):
        yield RawRecord(f"{name}, record {number}", row)


def _loaded(source: Source, loads: Callable[[bytes | str], Any]) -> dict[str, Any]:
    data = source.stream.read(COLUMNS_BYTES + 1)
    if len(data) > COLUMNS_BYTES:
        raise DataError(
            f"{source.name} stands in columns, and has more than {COLUMNS_BYTES >> 20} MiB: wanted "
            "a product a line, which can be read bit by bit. In Python: import pandas; pandas"
            f'.read_json("{source.name}").to_json("products.jsonl", orient="records", lines=True)'
        )
    try:
        return loads(data.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        try:
            return loads(without_oddities(data.removeprefix(BOM).decode())[0])
        except ValueError:
            raise DataError(
                f"{source.name} begins as an object of columns, and is not valid JSON: {error}. "
                "Write it or copy it again."
            ) from error


def _of_objects(columns: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows in the order in which their names are first seen."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    for name in names:
        yield {key: column[name] for key, column in columns.items() if name in column}


def _of_lists(name: str, columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    lengths = {key: len(column) for key, column in columns.items() if isinstance(column, list)}
    if len(lengths) < len(columns) or len(set(lengths.values())) > 1:
        found = ", ".join(f"{key}: {lengths.get(key, 'no list')}" for key in list(columns)[:10])
        raise DataError(
            f"{name} begins as an object of columns: wanted lists of the same length in all of "
            f"them, found {found}. Write an object a product instead."
        )
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _of_rows(name: str, columns: list[Any], rows: list[Any]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise DataError(
                f"{name}, record {number}: wanted a list of {len(columns)} values, one for each of "
                "its columns, found another. Write the file again, or an object a product."
            )
        yield dict(zip(map(str, columns), row, strict=True))
