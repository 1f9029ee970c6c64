"""Files of products -> batches of records, with a progress bar, and a count of what cannot be read.

In come the files and their columns, out go RecordBatches in the files' order: first those of the
test file, if there is one. A record that cannot be read is counted with its place; too many stop
the run. What is usable is decided in pairs.py.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from amazon_desc.data.corpus.pairs import ProductBatch
from amazon_desc.data.corpus.selection import PartBound
from amazon_desc.data.reading.files.kinds import SUPPORTED
from amazon_desc.data.reading.files.places import Place, place_of
from amazon_desc.data.reading.files.sources import (
    NOT_UTF8,
    TEST_MEMBER,
    TRAIN_MEMBER,
    LongRecords,
    Meter,
)
from amazon_desc.data.reading.formats import AS_THEY_TELL, Form
from amazon_desc.data.reading.records import Fault, Product, read_products
from amazon_desc.support.digests import Use
from amazon_desc.support.errors import DataError
from amazon_desc.support.resources import SAMPLE_PRODUCTS

RECORDS_PER_BATCH = 1_000
CHARACTERS_PER_BATCH = 1 << 22  # records may be so long that few of them fill the memory
NUM_FAULTS_SHOWN = 10
# What is said of records over many lines.
LONG_REMEDY = "If a quote is not closed there, close it or take it out."
FEWEST_OF_AN_ENCODING = 3
# What is done about records that are not UTF-8, where the beginning of their file is ASCII.
ENCODING_REMEDY = (
    "Their file is likely in another encoding: name it, as in --data.encoding cp1252 for what "
    "Windows writes; or save it as UTF-8."
)


def is_likely_encoding(reasons: Counter[str]) -> bool:
    """Whether most of what cannot be read is not UTF-8, and more than a byte that was damaged."""
    num_bad = reasons[NOT_UTF8]
    return num_bad >= FEWEST_OF_AN_ENCODING and num_bad * 2 > reasons.total()


@dataclass(frozen=True, kw_only=True)
class ProductFiles:
    """The files to read, and where in them titles and descriptions are."""

    train_files: tuple[str, ...]
    test_file: str | None
    title_column: str
    description_column: str
    max_bad_records: int
    max_bad_share: float = 1.0
    form: Form = AS_THEY_TELL

    @classmethod
    def named(
        cls,
        train_file: str | list[str],
        test_file: str | None,
        title_column: str,
        description_column: str,
        max_bad_records: int,
        max_bad_share: float = 1.0,
        form: Form = AS_THEY_TELL,
    ) -> ProductFiles:
        """Returns the files that the options name."""
        return cls(
            train_files=(train_file,) if isinstance(train_file, str) else tuple(train_file),
            test_file=test_file,
            title_column=title_column,
            description_column=description_column,
            max_bad_records=max_bad_records,
            max_bad_share=max_bad_share,
            form=form,
        )

    @functools.cached_property
    def places(self) -> list[tuple[Place, Use]]:
        """What each option names, in the order in which it is read; looked up once.

        Raises:
            DataError: one names nothing that can be read.
        """
        named: list[tuple[str, Use]] = [(file, "train") for file in self.train_files]
        if self.test_file is not None:
            named.insert(0, (self.test_file, "test"))
        return [(place_of_products(file, use), use) for file, use in named]

    @property
    def files(self) -> list[tuple[Path, Use]]:
        """The files in the order in which they are read, and what each is for."""
        return [(path, use) for place, use in self.places for path in place.files]

    @property
    def remarks(self) -> list[str]:
        """How what the options name was understood, where it is no single file."""
        return [remark for place, _ in self.places for remark in place.remarks]


def place_of_products(named: str, use: Use) -> Place:
    """Returns the files that `sample`, a path or an address names."""
    if named == "sample":
        return Place(SAMPLE_PRODUCTS.name, (SAMPLE_PRODUCTS,))
    return place_of(named, f"--data.{use}_file", SUPPORTED, use)


@dataclass
class BadRecords:
    """Counts records that cannot be read, and refuses the run when there are too many."""

    most: int
    max_share: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """the first ones, with their places"""

    def add(self, fault: Fault) -> None:
        self.counts[fault.reason] += 1
        if len(self.faults) < NUM_FAULTS_SHOWN:
            self.faults.append(f"{fault.place}: {fault.reason}")
        if self.counts.total() > self.most:
            counts = "; ".join(f"{n} × {reason}" for reason, n in self.counts.most_common())
            raise DataError(
                f"more than {self.most} records cannot be read (--data.max_bad_records): {counts}. "
                f"The first: {'; '.join(self.faults[:3])}. {self.remedy}"
            )

    @property
    def remedy(self) -> str:
        """What a user does about them."""
        is_encoding = is_likely_encoding(self.counts)
        return ENCODING_REMEDY if is_encoding else "Mend the file, or raise the limit."

    def refuse_share(self, num_records: int) -> None:
        """Refuses the run if too large a part of all its records cannot be read.

        Raises:
            DataError: it is, though their number alone is not.
        """
        num_bad = self.counts.total()
        if num_bad > self.max_share * num_records:
            counts = "; ".join(f"{n} × {reason}" for reason, n in self.counts.most_common())
            raise DataError(
                f"{num_bad} of {num_records} records cannot be read, more than "
                f"{100 * self.max_share:g} % (--data.max_bad_share {self.max_share:g}): {counts}. "
                f"The first: {'; '.join(self.faults[:3])}. {self.remedy}"
            )


class RecordReader:
    """Yields the records of all files as batches.

    `waiting` holds the products of the batches whose results are still to come, the oldest first:
    whoever takes a result takes its products away.
    """

    def __init__(self, sources: ProductFiles, bound: PartBound) -> None:
        self.sources = sources
        self.bound = bound
        self.bad = BadRecords(sources.max_bad_records, sources.max_bad_share)
        self.num_records = 0
        self.long_records = LongRecords()
        self.remarks = list(sources.remarks)
        self.waiting: deque[list[Product]] = deque()
        self.sizes = [path.stat().st_size if path.is_file() else 0 for path, _ in sources.files]
        self.bar = tqdm(
            total=sum(self.sizes),
            desc="Preparing",
            unit="B",
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            leave=False,
        )

    def __iter__(self) -> Iterator[ProductBatch]:
        bounds = iter(self.bound)
        bytes_before = 0
        for (path, use), size in zip(self.sources.files, self.sizes, strict=True):
            meter = Meter(long_records=self.long_records, remarks=self.remarks)
            for products in self.batches(path, use, meter):
                self.waiting.append(products)
                batch = ProductBatch(
                    [product.title for product in products],
                    [product.description for product in products],
                    is_tested=use == "test",
                )
                if not batch.is_tested:
                    batch.max_part = next(bounds)
                yield batch
                self.bar.n = bytes_before + int(meter.share() * size)
                self.bar.update(0)
            bytes_before += size
        self.bad.refuse_share(self.num_records)

    def batches(self, path: Path, use: Use, meter: Meter) -> Iterator[list[Product]]:
        """Yields the products of a file, many at a time."""
        products: list[Product] = []
        num_characters = 0
        member = TEST_MEMBER if use == "test" else TRAIN_MEMBER
        columns = self.sources.title_column, self.sources.description_column
        for record in read_products(path, *columns, member, meter, self.sources.form):
            self.num_records += 1
            if isinstance(record, Fault):
                self.bad.add(record)
                continue
            products.append(record)
            num_characters += len(record.title) + len(record.description)
            if len(products) == RECORDS_PER_BATCH or num_characters >= CHARACTERS_PER_BATCH:
                yield products
                products, num_characters = [], 0
        if products:
            yield products
