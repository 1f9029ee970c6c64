"""What bench_killed.py has written, and what has to be in it then.

In come titles, and the file that an untouched run wrote of them, out come files of titles such as a
shop has, and how a file differs from what it has to be: every line of the untouched one in another
order, with a row of its own. None of the project's own readers or writers is used for that, since a
fault of theirs would not be seen.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq

Form = Literal["jsonl", "csv", "parquet"]
FORMS: tuple[Form, ...] = ("jsonl", "csv", "parquet")

SHARE = 0.1  # of titles that come again, and of blank lines, beside all titles
BLANK = ("", " ")
ROW = re.compile(rb'\{"row": \d+')


class Content(NamedTuple):
    """What is in a file, to the last bit of a value."""

    head: Any
    """what stands before its records, or is said of them: the columns of a table"""
    records: list[Any]


def mixed(titles: Sequence[str], chance: random.Random) -> list[str]:
    """Returns lines in any order, of which some are blank and some there twice.

    Red Mug, Teal Lamp -> Teal Lamp, "", Red Mug, Teal Lamp, " ", Red Mug
    """
    num = max(len(BLANK), round(SHARE * len(titles)))
    lines = [*titles, *chance.choices(titles, k=num), *islice(cycle(BLANK), num)]
    chance.shuffle(lines)
    return lines


def content_of(file: Path) -> Content:
    """Returns what a file holds.

    Raises:
        OSError, ValueError: it is torn, or none of its form.
    """
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        return Content(table.schema, table.to_pylist())
    data = file.read_bytes()
    if file.suffix == ".jsonl":
        return Content(b"", data.splitlines(keepends=True))
    head, *rows = csv_records(data)
    return Content(head, rows)


def csv_records(data: bytes) -> list[bytes]:
    """Returns the bytes of each record: a quoted cell may have ends of lines.

    b'row,text\\n1,"a\\nb"\\n' -> b'row,text\\n', b'1,"a\\nb"\\n'
    """
    records, is_open = [b""], False
    for line in data.splitlines(keepends=True):
        records[-1] += line
        is_open ^= line.count(b'"') % 2 == 1
        if not is_open and line.endswith(b"\n"):
            records.append(b"")
    return records[:-1] if records[-1] == b"" and len(records) > 1 else records


def reordered(untouched: Content, places: Sequence[int]) -> Content:
    """Returns what a file holds of which each record is the untouched one of that place."""
    records = [with_row(untouched.records[place], row) for row, place in enumerate(places, 1)]
    return Content(untouched.head, records)


def with_row(record: Any, row: int) -> Any:
    if isinstance(record, dict):
        return {**record, "row": row}
    if record.startswith(b"{"):
        return ROW.sub(b'{"row": %d' % row, record, count=1)
    return b"%d,%b" % (row, record.partition(b",")[2])


def places_in(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Returns where each of the wanted lines is first: of a, b, a the lines b, a -> 1, 0"""
    place_of = {line: place for place, line in reversed([*enumerate(lines)])}
    return [place_of[line] for line in wanted]


def differences(file: Path, wanted: Content) -> list[str]:
    """Returns in what a file is not as wanted; nothing: it is the same in all."""
    try:
        found = content_of(file)
    except (OSError, ValueError) as error:
        return [f"cannot be read: {' '.join(str(error).split())[:100]}"]
    said = [] if found.head == wanted.head else ["other columns"]
    pairs = enumerate(zip(found.records, wanted.records, strict=False), 1)
    if differing := [number for number, (one, other) in pairs if one != other]:
        said.append(f"{len(differing)} other lines, first {differing[0]}")
    if len(found.records) != len(wanted.records):
        said.append(f"{len(found.records)} lines in place of {len(wanted.records)}")
    return said
