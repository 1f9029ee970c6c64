"""What a preparation did, in numbers: what was read, left out, kept and packed, and how long it is.

In come counts and what is known of the pairs that are kept, out go a few lines for the screen and
plain values for files. Nothing here decides anything.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amazon_desc.data.corpus.pairs import ENDINGS, NUM_REFUSALS_SHOWN, TRAIN
from amazon_desc.data.corpus.product_files import LONG_REMEDY
from amazon_desc.data.corpus.splits import SPLITS
from amazon_desc.data.reading.files.sources import LongRecords
from amazon_desc.data.reading.records import Product
from amazon_desc.support.printing import printable

CHARACTERS_SHOWN = 80
# Of 8,368 real products, whose titles nobody has made, 34 hold their (mostly short) description.
MANY_LEAKS = 0.05
NUM_BINS = 50


@dataclass
class Lengths:
    """How long something is: quantiles, and a histogram as TensorBoard draws it."""

    num: int
    min: int
    median: float
    percentile_95: float
    max: int
    sum: int
    sum_squares: float
    bin_ends: list[float]
    bin_counts: list[int]
    """of bin n: lengths over bin_ends[n - 1], up to bin_ends[n]"""

    @classmethod
    def of(cls, lengths: np.ndarray) -> Lengths:
        """Measures lengths; the last bin holds the longest hundredth, which may reach far.

        lengths = [1, 2, 2, 9]  ->  num 4, median 2.0, max 9, sum 14
        """
        values = lengths.astype(np.float64)
        reach = max(1, int(np.quantile(values, 0.99)))
        ends = np.unique(np.linspace(0, reach, NUM_BINS + 1).round())[1:]
        ends = np.append(ends, max(values.max(), ends[-1] + 1))
        counts = np.bincount(np.searchsorted(ends, values), minlength=len(ends))
        return cls(
            len(values),
            int(values.min()),
            float(np.median(values)),
            float(np.quantile(values, 0.95)),
            int(values.max()),
            int(values.sum()),
            float((values**2).sum()),
            ends.tolist(),
            counts.tolist(),
        )


@dataclass
class Report:
    """What became of every record, and what the kept ones are."""

    num_records: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """records that cannot be read, by reason"""
    faults: list[str] = field(default_factory=list)
    """the first of them, with their places"""
    remarks: list[str] = field(default_factory=list)
    """how files were understood where they do not tell it themselves"""
    num_long_records: int = 0
    """records of a CSV or TSV file that may hold the records after them"""
    long_records: str | None = None
    """how many, and where the longest is"""
    refused: Counter[str] = field(default_factory=Counter)
    """records that are not learnt from, by reason"""
    refused_examples: dict[str, list[str]] = field(default_factory=dict)
    """the first of them, with their places"""
    num_pairs: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    endings: dict[str, int] = field(default_factory=dict)
    """pairs whose description is whole, shortened to whole sentences, or cut"""
    num_leaks: int = 0
    """pairs whose title holds its own description"""
    leak_share: float = 0.0
    """of the pairs"""
    leak_example: str | None = None
    """one of them, with its place"""
    num_tokens: int = 0
    """to train on, prompts and end tokens included"""
    num_target_tokens: int = 0
    """of descriptions and end tokens among them"""
    num_rows: int = 0
    fill: float = 0.0
    """share of the rows' tokens that are no padding"""
    lengths: dict[str, Lengths] = field(default_factory=dict)
    """of the pairs that are kept"""

    def add_refusals(
        self, refused: Counter[str], refused_at: dict[str, list[int]], products: Sequence[Product]
    ) -> None:
        """Takes in what cleaning refused of a batch of products, and where."""
        self.refused.update(refused)
        for reason, numbers in refused_at.items():
            examples = self.refused_examples.setdefault(reason, [])
            for number in numbers[: NUM_REFUSALS_SHOWN - len(examples)]:
                examples.append(shown(products[number]))

    def add_long_records(self, found: LongRecords) -> None:
        self.num_long_records = found.num
        self.long_records = str(found) if found.num else None

    def add_pairs(
        self,
        pairs: np.ndarray,
        num_rows: int,
        row_tokens: int,
        leak_example: str | None = None,
    ) -> None:
        """Takes in the pairs that are kept, and how those of train were packed."""
        trained = pairs[pairs["split"] == TRAIN]
        self.num_pairs = len(pairs)
        self.splits = counted(pairs["split"], SPLITS)
        self.endings = counted(pairs["ending"], ENDINGS)
        self.num_tokens = int(trained["num_tokens"].sum())
        self.num_target_tokens = self.num_tokens - int(trained["num_prompt_tokens"].sum())
        self.num_leaks = int(pairs["is_leak"].sum())
        self.leak_share = self.num_leaks / len(pairs)
        self.leak_example = leak_example
        self.num_rows = num_rows
        self.fill = self.num_tokens / (num_rows * row_tokens)
        lengths = {
            "title_characters": pairs["title_characters"],
            "description_characters": pairs["description_characters"],
            "prompt_tokens": pairs["num_prompt_tokens"],
            "target_tokens": pairs["num_tokens"] - pairs["num_prompt_tokens"],
            "example_tokens": pairs["num_tokens"],
        }
        self.lengths = {name: Lengths.of(values) for name, values in lengths.items()}

    def plain(self) -> dict[str, Any]:
        """Returns the report as values that JSON knows."""
        lengths = {name: dataclasses.asdict(of) for name, of in self.lengths.items()}
        return {**vars(self), "lengths": lengths}


def counted(numbers: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def shown(product: Product) -> str:
    """Returns where a product stands and how it begins, on one line that is safe to print."""
    title, text = beginning(product.title), beginning(product.description)
    return f"{printable(product.place)}: {title}: {text}"


def beginning(text: str) -> str:
    return repr(" ".join(text.split())[:CHARACTERS_SHOWN])


def summarize(report: dict[str, Any], row_tokens: int) -> str:
    """Returns a report's plain values as a few lines of text."""
    num_pairs = report["num_pairs"]
    shortened, cut = (report["endings"].get(name, 0) / num_pairs for name in ("shortened", "cut"))
    splits = (f"{report['splits'].get(split, 0):,} {split}" for split in SPLITS)
    lines = [
        f"Data: {report['num_records']:,} records, {num_pairs:,} usable pairs: {', '.join(splits)}",
        f"      {report['num_tokens']:,} tokens to train on, {report['num_target_tokens']:,} of "
        f"descriptions, in {report['num_rows']:,} rows of {row_tokens} "
        f"({report['fill']:.1%} filled)",
        f"      descriptions shortened to whole sentences: {shortened:.1%}, cut: {cut:.1%}",
    ]
    lines += (f"      {remark}" for remark in report.get("remarks", []))  # old reports have none
    lines += leaks(report)
    left_out = sorted(report["refused"].items(), key=lambda item: (-item[1], item[0]))
    for reason, number in left_out:
        lines.append(f"      left out: {number:,} × {reason}")
        lines += (
            f"          {example}" for example in report["refused_examples"].get(reason, [])[:1]
        )
    for reason, number in report["bad"].items():
        lines.append(f"      cannot be read: {number:,} × {reason}")
    lines += (f"          {fault}" for fault in report["faults"])
    if report.get("long_records"):  # old reports know of none
        lines.append(f"      may hold the records after them: {report['long_records']}")
        lines.append(f"          {LONG_REMEDY}")
    return "\n".join(lines)


def leaks(report: dict[str, Any]) -> Iterator[str]:
    """Yields what is said of titles that hold their description; old reports know of none."""
    if not report.get("num_leaks"):
        return
    number, share = report["num_leaks"], report["leak_share"]
    yield f"      titles that hold their own description: {number:,} ({share:.1%})"
    if report["leak_example"]:
        yield f"          {report['leak_example']}"
    if share >= MANY_LEAKS:
        yield "          The model learns to copy from such a title, and scores say nothing. Name a"
        yield "          column of bare titles with --data.title_column."
