"""The parts of an output that several processes write: each appends to a file of its own.

In come predictions with the numbers of their titles, out go the same in order, as one process would
have had them: while they are written, and again where some of the processes were killed. A part has
a line for each title, in order, and a last one where its process is through:

    NAME.parts/0.jsonl       what the first process writes; 1.jsonl the second, and so on
    NAME.parts/before.jsonl  what was left of the parts of commands that were stopped

What their titles are, and how the output grows, is not known here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import orjson

from amazon_desc.data.loading.blocks import Run
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.support.files import replacing_file, storage
from amazon_desc.support.locks import alone

THROUGH = b"through\n"
"""the last line of a part"""
BYTES_AT_A_TIME = 1 << 20
NAME = re.compile(r"(before|\d+)\.jsonl")


class Numbered(NamedTuple):
    """What was written for a title."""

    number: int
    """among those that texts are written for, from 0"""
    prediction: Prediction
    """without its title, which the number tells"""


def line_of(number: int, prediction: Prediction) -> bytes:
    """Returns a line of a part: {"number":3,"texts":[["A mug.","stop",3]],"is_shortened":false}"""
    texts = [prediction.description, *prediction.others]
    plain = {
        "number": number,
        "texts": [tuple(text) for text in texts],
        "is_shortened": prediction.is_shortened,
    }
    return orjson.dumps(plain) + b"\n"


def numbered_of(line: bytes) -> Numbered | None:
    """Returns what a line holds; None: it is cut off, or none."""
    try:
        found = orjson.loads(line) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    first, *others = (Description(*text) for text in found["texts"])
    is_shortened = found["is_shortened"]
    return Numbered(found["number"], Prediction("", first, others, is_shortened=is_shortened))


class Part:
    """A file that a process appends to; what is added is on its way to the disk at once."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent.parent  # which a user knows
        with storage(self.folder):
            self.file = path.open("wb", buffering=0)

    def add(self, numbers: Iterable[int], predictions: Iterable[Prediction]) -> None:
        self.write(b"".join(map(line_of, numbers, predictions)))

    def write(self, lines: bytes) -> None:
        with storage(self.folder):
            data = memoryview(lines)
            while data:  # unbuffered: a write may take a part alone
                data = data[self.file.write(data) :]

    def close(self) -> None:
        """Says that nothing more comes."""
        self.write(THROUGH)
        self.file.close()


class Growing:
    """A part that is read while it may still grow, a piece at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.waiting: deque[Numbered] = deque()

    def next(self) -> Numbered | None:
        """Returns what is next of it; None: nothing is there yet, or nothing more comes."""
        if not self.waiting:
            self.read()
        return self.waiting[0] if self.waiting else None

    def read(self) -> None:
        """Reads whole lines, as far as there are some; it is opened anew, as NFS wants it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            for line in file.readlines(BYTES_AT_A_TIME):
                if (found := numbered_of(line)) is None:
                    return
                self.waiting.append(found)
                self.position += len(line)

    def is_through(self) -> bool:
        """Whether its process has said that nothing more comes."""
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            file.seek(-min(len(THROUGH), file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read() == THROUGH


class Joined:
    """Predictions of all parts in order, as far as they are there.

    Of what was there before, "2 3", and the parts "0 1 | 6 7" and "4 5" of two processes:

        ready() -> 0 1, 2 3, 4 5, 6 7, of which 2 3 are old
    """

    def __init__(self, before: Path, parts: Sequence[Path], first: int) -> None:
        self.before = Growing(before)
        self.parts = [Growing(path) for path in parts]
        self.number = first
        """of the next title"""

    def ready(self) -> Iterator[tuple[Prediction, bool]]:
        """Yields what is next and there, and whether it is old.

        What a part has of titles before that is passed over.
        """
        found: Growing | None = None
        while True:
            if found is None or not self.has_next(found):
                found = next(filter(self.has_next, (self.before, *self.parts)), None)
            if found is None:
                return
            self.number += 1
            yield found.waiting.popleft().prediction, found is self.before

    def has_next(self, part: Growing) -> bool:
        while (found := part.next()) is not None and found.number < self.number:
            part.waiting.popleft()
        return found is not None and found.number == self.number

    def is_empty(self) -> bool:
        """Whether nothing waits for titles before it."""
        return all(part.next() is None for part in (self.before, *self.parts))

    def unfinished(self) -> list[Path]:
        """Returns the parts whose processes are not through."""
        return [part.path for part in self.parts if not part.is_through()]


@dataclass(frozen=True)
class Parts:
    """The parts of an output.

    Args:
        folder: that they are in
    """

    folder: Path

    def path(self, rank: int) -> Path:
        return self.folder / f"{rank}.jsonl"

    @property
    def before(self) -> Path:
        return self.folder / "before.jsonl"

    @contextmanager
    def begin(self, rank: int) -> Iterator[Part]:
        """Yields the part of a process, which has it to itself."""
        with storage(self.folder.parent):
            self.folder.mkdir(exist_ok=True)
        with alone(self.path(rank), "written"):
            yield Part(self.path(rank))

    def paths(self) -> list[Path]:
        """Returns the parts that are there."""
        there = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in there if NAME.fullmatch(path.name))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def gather(self, first: int, end: int, size: int = 1) -> list[Run]:
        """Puts what is there of titles from `first` on into one part; returns which are left.

        Titles that have to be written for together, in groups of `size`, are kept together:

            5 6 | 8 9 10, first = 4, end = 12, size = 1    left: 4, 7, 11
            5 6 | 8 9 10, first = 4, end = 11, size = 2    left: 4 to 7; 8 9 and 10 are kept

        Raises:
            InUseError: a process of a command that was stopped is still at work.
            StorageError: the disk refused it.
        """
        paths = self.paths()
        if not paths:
            return [(first, end)] if first < end else []
        left: list[Run] = []
        with ExitStack() as held:
            for path in paths:
                held.enter_context(alone(path, "written"))
            held.enter_context(storage(self.folder.parent))
            with replacing_file(self.before) as temporary, temporary.open("wb") as file:
                place = first
                for group in whole_groups(in_order(paths, first), first, end, size):
                    if group[0].number > place:
                        left.append((place, group[0].number))
                    place = group[-1].number + 1
                    file.writelines(line_of(*each) for each in group)
            if place < end:
                left.append((place, end))
            for path in paths:
                if path != self.before:
                    path.unlink()
        return left


def in_order(paths: Sequence[Path], first: int) -> Iterator[Numbered]:
    """Yields what parts have from a number on, each title once."""
    parts = (whole_lines(path) for path in paths)
    place = first
    for found in merge(*parts, key=lambda each: each.number):
        if found.number >= place:
            place = found.number + 1
            yield found


def whole_lines(path: Path) -> Iterator[Numbered]:
    """Yields what a part has before its end, or before a line that is torn."""
    with path.open("rb") as lines:
        for line in lines:
            if (found := numbered_of(line)) is None:
                return
            yield found


def whole_groups(
    coming: Iterable[Numbered], first: int, end: int, size: int
) -> Iterator[list[Numbered]]:
    """Yields the groups of which all titles are there; at the end a group may be smaller."""
    for place, of_group in groupby(coming, key=lambda each: (each.number - first) // size):
        group = list(of_group)
        if len(group) == min(size, end - first - place * size):
            yield group
