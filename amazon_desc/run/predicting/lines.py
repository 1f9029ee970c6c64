"""The lines of an output while it grows: one for each record of the input, in order.

In come predictions, of the titles that texts are written for, out go lines: these, and between them
those of records without a title and of titles that were there before, with the text that is written
already. Memory does not grow with the file: where each text lies is kept on the disk.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from amazon_desc.data.loading.titles import TitleRow
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.predicting.records import (
    Record,
    line_of,
    record_of,
    repeated,
    skipped,
    written,
)
from amazon_desc.support.errors import DataError
from amazon_desc.support.files import storage

SHORTENED = "title is too long: its end was not read"
# Titles that come again often come soon: their texts are not read from the disk again.
NUM_RECENT = 4096


class Input(Protocol):
    """What a TitleTable has, of which no more is asked here."""

    def __len__(self) -> int: ...
    def records(self, start: int = 0) -> Iterator[TitleRow]: ...


class Kept(NamedTuple):
    """What is kept of an output that was begun."""

    num_lines: int = 0
    num_written: int = 0
    """of them, titles that texts were written for"""
    num_bytes: int = 0


class Added(NamedTuple):
    """A record whose line was added."""

    record: Record
    is_repeated: bool
    """whether its title was there before, so that nothing was written for it"""


class OtherLines(DataError):
    """A file has lines of other records."""


class Offsets:
    """Where the lines of records begin, in bytes, in a file of its own.

    It is not mapped: a map that was written to counts as memory in use, and a full disk kills who
    writes to one.
    """

    def __init__(self, file: Path) -> None:
        self.folder = file.parent
        with storage(self.folder):
            self.file = file.open("w+b", buffering=0)

    def note(self, offsets: Iterable[tuple[int, int]]) -> None:
        """Notes where the lines of rows begin."""
        file = self.file.fileno()
        with storage(self.folder):
            for row, offset in offsets:
                os.pwrite(file, offset.to_bytes(8, "little"), 8 * row)

    def __getitem__(self, row: int) -> int:
        return int.from_bytes(os.pread(self.file.fileno(), 8, 8 * row), "little")


def kept_of(partial: Path, table: Input, offsets: Offsets, first: int = 0, size: int = 1) -> Kept:
    """Returns what is kept of a file that was begun, and notes where its texts are.

    Titles that have to be written for together, in groups of `size` after the first ones, are kept
    together:

        5 lines of titles, first = 0, size = 2    4 lines are kept
        4 of titles, then 2 without one           6 lines are kept

    Raises:
        OtherLines: a line is not that of its record.
    """
    kept, position, num_written = Kept(), 0, 0
    with partial.open("rb") as lines:
        for line, of_input in zip(lines, table.records(), strict=False):
            record = record_of(line)
            if record is None:
                break
            if (record["row"], record.get("title")) != (of_input.row + 1, of_input.title):
                raise OtherLines(
                    f"{partial}, line {of_input.row + 1}: wanted the records of the titles in "
                    f"their order, found another"
                )
            if of_input.is_written:
                offsets.note([(of_input.row, position)])
                num_written += 1
            position += len(line)
            is_last = of_input.row + 1 == len(table)
            if is_last or num_written <= first or (num_written - first) % size == 0:
                kept = Kept(of_input.row + 1, num_written, position)
    return kept


def cut(partial: Path, kept: Kept) -> None:
    """Has a file end after what is kept of it."""
    with partial.open("rb+") as file:
        file.truncate(kept.num_bytes)
        os.fsync(file.fileno())


class GrowingLines:
    """A file that lines are added to; what is added is on its way to the disk at once.

    Args:
        partial: the file, as long as is kept of it
    """

    def __init__(self, partial: Path, table: Input, offsets: Offsets, kept: Kept) -> None:
        self.table, self.partial, self.offsets = table, partial, offsets
        self.num_written, self.position = kept.num_written, kept.num_bytes
        self.records = table.records(kept.num_lines)
        self.next = next(self.records, None)
        self.waiting: deque[Prediction] = deque()
        self.recent: OrderedDict[int, Record] = OrderedDict()
        self.coming: list[bytes] = []
        self.begun: list[tuple[int, int]] = []  # where the texts among them begin
        with storage(partial.parent):
            self.file = partial.open("ab", buffering=0)

    @property
    def num_lines(self) -> int:
        return len(self.table) if self.next is None else self.next.row

    @property
    def is_complete(self) -> bool:
        """Whether each record of the input has its line."""
        return self.next is None

    def add(self, predictions: Iterable[Prediction]) -> list[Added]:
        """Adds the lines that come next, now that there are further predictions.

        Returns their records.
        """
        self.waiting.extend(predictions)
        added = []
        while self.next is not None and (record := self.record_of(self.next)) is not None:
            if self.next.is_written:
                self.begun.append((self.next.row, self.position))
                self.num_written += 1
                self.remember(self.next.row, record)
            line = line_of(record).encode()
            self.position += len(line)
            self.coming.append(line)
            added.append(Added(record, self.next.first != self.next.row))
            self.next = next(self.records, None)
        self.flush()
        return added

    def record_of(self, of_input: TitleRow) -> Record | None:
        """Returns the next record; None: its text is still to come."""
        row, title = of_input.row, of_input.title
        columns: dict[str, Any] = {} if of_input.kept is None else json.loads(of_input.kept)
        if of_input.reason:
            return skipped(row, title, of_input.reason, columns)
        if of_input.first != row:
            return repeated(row, title, self.text_of(of_input.first), columns)
        if not self.waiting:
            return None
        found = self.waiting.popleft()
        reason = SHORTENED if found.is_shortened else ""
        return written(row, title, (found.description, *found.others), reason, columns)

    def text_of(self, row: int) -> Record:
        """Returns the record of a row, which has its line already."""
        if row in self.recent:
            self.recent.move_to_end(row)
            return self.recent[row]
        self.flush()
        with storage(self.partial.parent), self.partial.open("rb") as lines:
            lines.seek(self.offsets[row])
            record = json.loads(lines.readline())
        self.remember(row, record)
        return record

    def remember(self, row: int, record: Record) -> None:
        self.recent[row] = record
        if len(self.recent) > NUM_RECENT:
            self.recent.popitem(last=False)

    def flush(self) -> None:
        self.offsets.note(self.begun)
        self.begun.clear()
        if self.coming:
            with storage(self.partial.parent):
                data = memoryview(b"".join(self.coming))
                while data:  # unbuffered: a write may take a part alone
                    data = data[self.file.write(data) :]
            self.coming.clear()

    def close(self) -> None:
        """Has all lines on the disk."""
        with storage(self.partial.parent):
            os.fsync(self.file.fileno())
            self.file.close()
