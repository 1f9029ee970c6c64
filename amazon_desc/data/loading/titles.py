"""Files of titles -> a table on the disk: a row for every record of them, in their order.

In come records, out goes a TitleTable: what each record holds, why it is skipped, and which title
it repeats. It is made in one pass over the files and read in batches, so that memory does not grow
with the number of titles. What is written for them is not known here.

    records.arrow   title, reason, kept: batches of an Arrow file
    first.i64       of each row, the first one with the same title: int64
    batches.npy     of each batch, and behind the last: its first row; titles written for before it
    facts.json      counts and digests
"""

from __future__ import annotations

import hashlib
import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from amazon_desc.data.corpus.product_files import (
    ENCODING_REMEDY,
    LONG_REMEDY,
    is_likely_encoding,
)
from amazon_desc.data.loading.building import TableBuilder
from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.formats import AS_THEY_TELL, Form
from amazon_desc.data.reading.kept import Kept
from amazon_desc.data.reading.records import TitleRecord, read_title_records
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import DataError
from amazon_desc.support.files import read_json, remove_leftovers, replacing_folder, storage
from amazon_desc.support.printing import say

RECORDS_BETWEEN_SIGNS = 1_000  # of the progress bar


class TitleRow(NamedTuple):
    """A record of the file, and what is to be done with it."""

    row: int
    """its number in the file, from 0"""
    title: str
    """as it was read; an empty text where none could be"""
    reason: str
    """why it is skipped; an empty text where it is not"""
    first: int
    """the first row with the same title; its own number if that is this one, or it is skipped"""
    kept: str | None
    """its kept columns as a JSON object; None: none are, or it could not be read"""

    @property
    def is_written(self) -> bool:
        """Whether a text is to be written for it, neither skipped nor a repeat."""
        return not self.reason and self.first == self.row


class TitleTable:
    """The records of a file of titles, on the disk.

    The lines "Mug", "", "Tin Car" and "Mug " of a .txt, cleaned of white space:

        TitleRow(0, "Mug", "", 0, None)                 written for
        TitleRow(1, "", "title is empty", 1, None)      skipped
        TitleRow(2, "Tin Car", "", 2, None)             written for
        TitleRow(3, "Mug ", "", 0, None)                a repeat of row 0

    Args:
        folder: one that `read` has made
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = read_json(folder / "facts.json")
        self._starts, self._written = np.load(folder / "batches.npy")
        self._mapped = pa.ipc.open_file(pa.memory_map(str(folder / "records.arrow")))

    @classmethod
    def read(
        cls,
        path: Path | Sequence[Path],
        title_column: str,
        kept: Kept,
        folder: Path,
        clean: Callable[[str], str],
        digest_at: int | None = None,
        form: Form = AS_THEY_TELL,
    ) -> TitleTable:
        """Reads files of titles into `folder`, which nobody else uses, and says what is skipped.

        Args:
            path: a file, or several in their order
            clean: titles that it makes equal are one title, as their prompts are
            digest_at: a number of records of which the digest will be asked for
            form: what is known of the file beforehand

        Raises:
            DataError: the file has no records, lacks a column, is damaged, or was replaced
                meanwhile. A record that cannot be read is none: it is skipped.
            StorageError: the disk refused the table.
        """
        remove_leftovers(folder)
        paths, meter = [path] if isinstance(path, Path) else list(path), Meter()
        before = [_sha256_of(file) if file.is_file() else "" for file in paths]
        records = [
            lambda file=file: read_title_records(file, title_column, kept, meter, form)
            for file in paths
        ]
        first = records[0]()  # what is refused at once leaves the table that is there
        with storage(folder), replacing_folder(folder) as temporary:
            builder = TableBuilder(temporary, clean, digest_at)
            read = chain([first], (of() for of in records[1:]))
            facts = builder.build(_with_progress(read, paths, meter))
            for file, sha256 in zip(paths, before, strict=True):
                if _sha256_of(file) != sha256:
                    raise DataError(
                        f"--data.titles {file} was replaced while it was read. When it is whole, "
                        f"run the same command again."
                    )
            sha256 = before[0] if len(before) == 1 else sha256_over(before)
            text = json.dumps({**facts, "source_sha256": sha256}, indent=1)
            (temporary / "facts.json").write_text(text + "\n", encoding="utf-8")
        _say_what_is_odd(builder, meter)
        return cls(folder)

    def __len__(self) -> int:
        """Returns how many records there are."""
        return self.facts["num_records"]

    @property
    def num_written(self) -> int:
        """Titles that are written for: neither skipped nor a repeat."""
        return self.facts["num_written"]

    @property
    def reasons(self) -> dict[str, int]:
        """How many records are skipped for each reason."""
        return self.facts["reasons"]

    @property
    def source_sha256(self) -> str:
        """The sha256 of the file that was read; of several, that over their own."""
        return self.facts["source_sha256"]

    def digest(self, num_records: int | None = None) -> str | None:
        """Returns the sha256 over the first records, or over all; None: there are fewer.

        It covers title, reason and kept columns of each, in order, so a file to which titles were
        appended has that of the one before at its length. It does not cover columns that are not
        kept, the file's format, and cleaning, but for the titles that it leaves empty.

        Args:
            num_records: all, or the `digest_at` that the table was read with
        """
        if num_records is None:
            num_records = len(self)
        if num_records > len(self):
            return None
        return self.facts["digests"][str(num_records)]

    def __getitem__(self, row: int) -> TitleRow:
        if not 0 <= row < len(self):
            raise IndexError(f"wanted a row from 0 to {len(self) - 1}, got {row}")
        number = bisect_right(self._starts, row) - 1
        place = row - int(self._starts[number])
        values = self._mapped.get_batch(number).slice(place, 1).to_pylist()[0]
        first = int(self._firsts(row, 1)[0])
        return TitleRow(row, values["title"], values["reason"], first, values["kept"])

    def __iter__(self) -> Iterator[TitleRow]:
        return self.records()

    def records(self, start: int = 0) -> Iterator[TitleRow]:
        """Yields all records from the row `start` on, in order."""
        number = bisect_right(self._starts, start) - 1
        for first_row, batch, firsts in self._read(number):
            skipped = max(start - first_row, 0)
            columns = (batch.column(name)[skipped:].to_pylist() for name in batch.schema.names)
            titles, reasons, kept = columns
            rows = range(first_row + skipped, first_row + len(batch))
            yield from map(TitleRow, rows, titles, reasons, firsts[skipped:].tolist(), kept)

    def written(self, start: int = 0) -> Iterator[tuple[int, str]]:
        """Yields row and title of those that are written for, from the start-th of them on.

        Of the table above:

            written()  -> (0, "Mug"), (2, "Tin Car")
            written(1) -> (2, "Tin Car")
        """
        number = bisect_right(self._written, start) - 1
        skipped = start - int(self._written[number])
        for first_row, batch, firsts in self._read(number):
            is_first = firsts == np.arange(first_row, first_row + len(batch))
            has_reason = np.array(list(map(bool, batch.column("reason").to_pylist())))
            places = np.flatnonzero(is_first & ~has_reason)[skipped:]
            titles = batch.column("title").take(pa.array(places)).to_pylist()
            yield from zip((places + first_row).tolist(), titles, strict=True)
            skipped = 0

    def _firsts(self, row: int, num_rows: int) -> np.ndarray:
        return np.fromfile(self.folder / "first.i64", "<i8", num_rows, offset=8 * row)

    def _read(self, number: int) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray]]:
        """Yields batches from this one on: first row, records, and of each its first.

        They are read, not mapped: a map that was looked through counts as memory in use.
        """
        with pa.OSFile(str(self.folder / "records.arrow")) as file:
            reader = pa.ipc.open_file(file)
            for index in range(number, reader.num_record_batches):
                batch, first_row = reader.get_batch(index), int(self._starts[index])
                yield first_row, batch, self._firsts(first_row, len(batch))


def _with_progress(
    read: Iterable[Iterator[TitleRecord]], paths: Sequence[Path], meter: Meter
) -> Iterator[TitleRecord]:
    """The records of all files, while a bar shows how far they are read."""
    sizes = [path.stat().st_size for path in paths]
    with tqdm(
        total=sum(sizes),
        desc="Reading titles",
        unit="B",
        unit_scale=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        leave=False,
    ) as bar:
        bytes_before = 0
        for records, size in zip(read, sizes, strict=True):
            for number, record in enumerate(records):
                yield record
                if number % RECORDS_BETWEEN_SIGNS == 0:
                    bar.n = bytes_before + int(meter.share() * size)
                    bar.update(0)
            bytes_before += size


def _say_what_is_odd(builder: TableBuilder, meter: Meter) -> None:
    for remark in meter.remarks:
        say(remark)
    for skipped in builder.skipped:
        say(f"No title at {skipped}")
    num_skipped = builder.reasons.total()
    if num_skipped > len(builder.skipped):
        counts = "; ".join(f"{n:,} × {reason}" for reason, n in builder.reasons.most_common())
        say(f"Records without a title to write for: {num_skipped:,} ({counts})")
    if is_likely_encoding(builder.reasons):
        say(ENCODING_REMEDY)
    if meter.long_records.num:
        say(f"Titles that may hold the lines after them: {meter.long_records}. {LONG_REMEDY}")


def sha256_over(digests: Sequence[str]) -> str:
    """Returns the sha256 of a list of sha256: of the text that they are, a line each."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"--data.titles {path} cannot be read: {error}. Check the file.") from error
