"""Records of a file of titles -> the files of a TitleTable, in one pass and in bounded memory.

In come TitleRecords, out go the records in batches, for each the first with the same title, and
counts and digests. What the files are is said in titles.py; nothing is read of them here.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from amazon_desc.data.loading.repeats import Repeats
from amazon_desc.data.reading.records import TitleRecord

EMPTY_AFTER_CLEANING = "title is empty after cleaning"

ROWS_PER_BATCH = 1 << 13
CHARACTERS_PER_BATCH = 1 << 22  # titles and kept columns may be so long that few fill the memory
NUM_SKIPPED_SHOWN = 10

RECORDS = pa.schema({"title": pa.string(), "reason": pa.string(), "kept": pa.string()})


class RecordsDigest:
    """The sha256 over records, known of all of them and of the first `at`.

    It is that of a JSON array a line, [title, reason, kept] as orjson writes it:

        Mug, and a blank line -> sha256 of '["Mug","",null]\\n["","title is empty",null]\\n'
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.num_records = 0
        self.known: dict[str, str] = {}
        self._sha256 = hashlib.sha256()
        self._note()

    def add(self, records: list[tuple[str, str, str | None]]) -> None:
        lines = [orjson.dumps(record) for record in records]
        before = 0 if self.at is None else min(max(self.at - self.num_records, 0), len(lines))
        for part in (lines[:before], lines[before:]):
            self._sha256.update(b"".join(line + b"\n" for line in part))
            self.num_records += len(part)
            self._note()

    def _note(self) -> None:
        if self.num_records == self.at:
            self.known[str(self.at)] = self._sha256.hexdigest()

    def all_known(self) -> dict[str, str]:
        return {**self.known, str(self.num_records): self._sha256.hexdigest()}


class TableBuilder:
    """Writes the table of some records into an empty folder.

    Args:
        clean: titles that it makes equal are one title
        digest_at: a number of records of which the digest is to be known
    """

    def __init__(self, folder: Path, clean: Callable[[str], str], digest_at: int | None) -> None:
        self.folder, self.clean = folder, clean
        self.digest = RecordsDigest(digest_at)
        self.reasons: Counter[str] = Counter()
        self.skipped: list[str] = []
        """the first ones, with their places"""
        self._starts = [0]
        self._num_skipped: list[int] = []  # of each batch

    def build(self, records: Iterator[TitleRecord]) -> dict[str, Any]:
        """Writes all files but the facts, and returns those."""
        temporary = self.folder / "repeats"
        temporary.mkdir()
        path = str(self.folder / "records.arrow")
        with Repeats(temporary) as repeats:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, RECORDS) as writer:
                for rows, titles in self.batches(records):
                    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=RECORDS))
                    self.digest.add(rows)
                    repeats.add(titles)
            num_written = self.write_firsts(repeats)
        for leftover in temporary.iterdir():
            leftover.unlink()
        temporary.rmdir()
        return {
            "num_records": self._starts[-1],
            "num_written": num_written,
            "reasons": dict(self.reasons.most_common()),
            "digests": self.digest.all_known(),
        }

    def batches(
        self, records: Iterator[TitleRecord]
    ) -> Iterator[tuple[list[tuple[str, str, str | None]], list[str | None]]]:
        """Yields (title, reason, kept) of many records, and their cleaned titles.

        None stands for the title of one that is skipped.
        """
        rows: list[tuple[str, str, str | None]] = []
        titles: list[str | None] = []
        num_characters = 0
        for title, reason, kept, place in records:
            cleaned = None if reason else self.clean(title)
            if cleaned is not None and not cleaned.strip():
                cleaned, reason = None, EMPTY_AFTER_CLEANING
            if cleaned is None:
                self.skip(place, reason)
            rows.append((title, reason, kept))
            titles.append(cleaned)
            num_characters += len(title) + len(kept or "")
            if len(rows) == ROWS_PER_BATCH or num_characters >= CHARACTERS_PER_BATCH:
                yield self.noted(rows, titles)
                rows, titles, num_characters = [], [], 0
        if rows:
            yield self.noted(rows, titles)

    def noted(
        self, rows: list[tuple[str, str, str | None]], titles: list[str | None]
    ) -> tuple[list[tuple[str, str, str | None]], list[str | None]]:
        self._starts.append(self._starts[-1] + len(rows))
        self._num_skipped.append(titles.count(None))
        return rows, titles

    def skip(self, place: str, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.skipped) < NUM_SKIPPED_SHOWN:
            self.skipped.append(f"{place}: {reason}")

    def write_firsts(self, repeats: Repeats) -> int:
        """Writes of each row the first with the same title; returns how many are written for."""
        written = [0]
        with (self.folder / "first.i64").open("wb") as file:
            batches = zip(repeats.firsts(), self._starts, self._num_skipped, strict=False)
            for firsts, start, num_skipped in batches:
                file.write(firsts.astype("<i8").tobytes())
                is_first = firsts == np.arange(start, start + len(firsts))
                written.append(written[-1] + int(is_first.sum()) - num_skipped)
        np.save(self.folder / "batches.npy", np.array([self._starts, written], np.int64))
        return written[-1]
