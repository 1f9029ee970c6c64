"""Chooses what is learnt from: reads, cleans, and keeps one product a title.

In come files of products, out goes a stream of cleaned Products, with a count of what became of
every record: kept, refused for a named reason, repeated, or not to be read at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from amazon_desc.data.cleaning import Refusal, clean
from amazon_desc.data.records import Fault, Product, read_products
from amazon_desc.data.splits import title_hash
from amazon_desc.errors import DataError

NUM_FAULTS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files to read, and which of their records count."""

    train_files: tuple[str, ...]
    title_column: str
    description_column: str
    num_products: int | None
    max_bad_records: int


@dataclass
class Selection:
    """What became of every record; `faults` names the first bad ones, with their places."""

    num_records: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def kept_products(sources: Sources, selection: Selection) -> Iterator[Product]:
    """Yields the cleaned products of all files, one a title, or only the part asked for.

    The part is stable: it holds the products whose titles have the smallest hashes, so a larger
    `num_products` contains every smaller one, and the order of the file does not matter.
    """
    products = distinct_products(sources, selection)
    if sources.num_products is None:
        yield from products
        return
    chosen = sorted(products, key=lambda product: title_hash(product.title, "part"))
    if len(chosen) > sources.num_products:
        selection.refused["beyond num_products"] = len(chosen) - sources.num_products
    yield from chosen[: sources.num_products]


def distinct_products(sources: Sources, selection: Selection) -> Iterator[Product]:
    """Yields the first product of each title, cleaned, and counts what became of the others."""
    seen: dict[int, int] = {}
    for product in usable_products(sources, selection):
        title = title_hash(product.title, "distinct")
        description = title_hash(product.description, "distinct")
        if title not in seen:
            seen[title] = description
            yield product
        else:
            is_repeat = seen[title] == description
            selection.refused["repeated" if is_repeat else "another description of a title"] += 1


def usable_products(sources: Sources, selection: Selection) -> Iterator[Product]:
    """Yields every product that cleaning keeps; stops the run at too many bad records."""
    for record in progress(read_all(sources)):
        selection.num_records += 1
        if isinstance(record, Fault):
            count_fault(record, selection, sources.max_bad_records)
            continue
        cleaned = clean(record)
        if isinstance(cleaned, Refusal):
            selection.refused[str(cleaned)] += 1
        else:
            yield cleaned


def read_all(sources: Sources) -> Iterator[Product | Fault]:
    for file in sources.train_files:
        yield from read_products(Path(file), sources.title_column, sources.description_column)


def count_fault(fault: Fault, selection: Selection, max_bad_records: int) -> None:
    """Counts a record that cannot be read, and refuses the run when there are too many."""
    selection.bad[fault.reason] += 1
    if len(selection.faults) < NUM_FAULTS_SHOWN:
        selection.faults.append(f"{fault.place}: {fault.reason}")
    if selection.bad.total() > max_bad_records:
        raise DataError(
            f"more than {max_bad_records} records cannot be read (--data.max_bad_records): "
            + "; ".join(f"{count} × {reason}" for reason, count in selection.bad.most_common())
            + f". The first: {'; '.join(selection.faults[:3])}. Mend the file, or raise the limit."
        )


def progress(records: Iterable[Product | Fault]) -> Iterable[Product | Fault]:
    from tqdm import tqdm

    return tqdm(records, desc="Reading products", unit=" records", mininterval=0.5, leave=False)
