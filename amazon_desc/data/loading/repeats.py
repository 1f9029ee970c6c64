"""Texts as they come, millions of them -> which earlier text each one repeats, in bounded memory.

In come texts in batches, out goes for each of them the number of the first that is equal to it.
What is compared is a digest of 128 bits; digests lie in files on the disk, each small enough to be
sorted alone. What is equal, and what is to be made of it, is not known here.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Equal digests lie in the same file. Of 20 million texts one holds 4 MB; a process may have 256
# files open at least, and shares them with others.
NUM_FILES = 128

# The two halves of a digest, and the row of the text. Two rows: a row, and the first equal to it.
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
FOUND = np.dtype([("row", "<i8"), ("first", "<i8")])


class Repeats:
    """Finds the first of equal texts.

    With the texts "a", None, "b" and then "a", "a", "b" of which nothing equals None:

        firsts() -> [0, 1, 2], [0, 0, 2]

    Args:
        folder: an empty one, for what lies on the disk meanwhile
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_rows = 0
        self._files = ExitStack()
        self._entries = [self._open(f"entries-{number}") for number in range(NUM_FILES)]
        self._counts = self._open("counts")  # of each batch: its rows; its entries in each file
        self._within = self._open("within")  # of each text: the first of its batch equal to it

    def _open(self, name: str) -> BinaryIO:
        return self._files.enter_context((self.folder / name).open("w+b"))

    def __enter__(self) -> "Repeats":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, texts: Sequence[str | None]) -> None:
        """Takes a batch of texts; None is one that nothing equals."""
        given = np.flatnonzero([text is not None for text in texts])
        entries = np.empty(len(given), ENTRY)
        halves = np.frombuffer(b"".join(_digest(text) for text in texts if text is not None), "<u8")
        entries["high"], entries["low"] = halves[0::2], halves[1::2]
        entries["row"] = given
        # A batch tells of an equal text once: one title in half of all records fills no file.
        first = first_of_equals(entries)
        within = np.arange(len(texts))
        within[given] = given[first]
        _write(within, self._within)
        told = entries[first == np.arange(len(first))]
        told["row"] += self.num_rows
        numbers = told["high"] % NUM_FILES
        told = told[np.argsort(numbers, kind="stable")]
        counts = np.bincount(numbers, minlength=NUM_FILES)
        _write(np.concatenate([[len(texts)], counts]), self._counts)
        for file, part in zip(self._entries, np.split(told, np.cumsum(counts)[:-1]), strict=True):
            _write(part, file)
        self.num_rows += len(texts)

    def firsts(self) -> Iterator[np.ndarray]:
        """Yields, of each batch that was added, the row of the first text equal to each: int64.

        Once only: what lies on the disk is used up.
        """
        found = [self._find(number) for number in range(NUM_FILES)]
        for file in (self._counts, self._within):
            file.seek(0)
        start = 0
        while len(counts := _read(self._counts, np.dtype("<i8"), NUM_FILES + 1)):
            num_texts = int(counts[0])
            over_all = np.arange(start, start + num_texts)
            for file, count in zip(found, counts[1:].tolist(), strict=True):
                part = _read(file, FOUND, count)
                over_all[part["row"] - start] = part["first"]
            yield over_all[_read(self._within, np.dtype("<i8"), num_texts)]
            start += num_texts

    def _find(self, number: int) -> BinaryIO:
        """Looks through a file of entries; returns one of what was found, in the entries' order."""
        file = self._entries[number]
        file.seek(0)
        entries = _read(file, ENTRY, -1)
        found = np.empty(len(entries), FOUND)
        found["row"] = entries["row"]
        found["first"] = entries["row"][first_of_equals(entries)]
        file.close()
        (self.folder / f"entries-{number}").unlink()
        result = self._open(f"found-{number}")
        _write(found, result)
        result.seek(0)
        return result


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def first_of_equals(entries: np.ndarray) -> np.ndarray:
    """Returns for each entry the place of the first one with the same digest.

    digests [8, 3, 8, 3, 5] -> [0, 1, 0, 1, 4]
    """
    if not len(entries):
        return np.empty(0, np.int64)
    order = np.lexsort((entries["low"], entries["high"]))  # stable: equal ones stay in order
    high, low = entries["high"][order], entries["low"][order]
    is_new = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
    first = np.empty(len(entries), np.int64)
    first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first


def _write(array: np.ndarray, file: BinaryIO) -> None:
    file.write(array.tobytes())  # `tofile` would pass the file's own buffer by


def _read(file: BinaryIO, kind: np.dtype, count: int) -> np.ndarray:
    """Reads so many; -1: all that there are. At the end of the file there are none."""
    return np.frombuffer(file.read(count if count < 0 else count * kind.itemsize), kind)
