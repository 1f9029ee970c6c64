"""The report: what it counts adds up, and what it shows is safe to print."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from amazon_desc.data.corpus.pairs import ENDINGS, PAIR, TEST, TRAIN, VALIDATION
from amazon_desc.data.corpus.report import Lengths, Report, shown, summarize
from amazon_desc.data.reading.files.sources import LongRecords
from amazon_desc.data.reading.records import Product

# Lengths


def test_the_worked_example():
    """99 % of the lengths are up to 8.79, so bins of one go up to 8, and one takes the rest."""
    assert Lengths.of(np.array([1, 2, 2, 9])) == Lengths(
        num=4,
        min=1,
        median=2.0,
        percentile_95=pytest.approx(7.95),
        max=9,
        sum=14,
        sum_squares=90.0,
        bin_ends=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        bin_counts=[1, 2, 0, 0, 0, 0, 0, 0, 1],
    )


@pytest.mark.parametrize(
    ("values", "ends", "counts"),
    [
        ([5], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 0]),
        ([3, 3, 3], [1, 2, 3, 4], [0, 0, 3, 0]),
        ([0], [1, 2], [1, 0]),
        ([0, 0, 1], [1, 2], [3, 0]),
        ([1, 1_000_000], [*range(19_800, 980_001, 19_800), 990_000, 1_000_000], None),
    ],
    ids=["one", "all equal", "nothing", "almost nothing", "far apart"],
)
def test_few_or_equal_lengths_have_bins_too(
    values: list[int], ends: list[int], counts: list[int] | None
):
    lengths = Lengths.of(np.array(values, "i4"))
    assert (lengths.num, lengths.min, lengths.max) == (len(values), min(values), max(values))
    assert lengths.bin_ends == ends
    if counts is None:
        counts = [1, *[0] * (len(ends) - 2), 1]
    assert lengths.bin_counts == counts


def test_one_huge_length_does_not_widen_the_bins_of_the_others():
    """A book of 197,622 characters among descriptions of up to 500."""
    lengths = Lengths.of(np.array([*range(1, 501), 197_622], "i4"))
    assert lengths.bin_ends == [*(round(9.92 * n) for n in range(1, 51)), 197_622]
    assert lengths.bin_counts[-1] == 5  # 497 to 500 and the book
    assert sum(lengths.bin_counts) == 501
    assert max(lengths.bin_counts[:-1]) == 10
    assert lengths.median == 251


@pytest.mark.parametrize("seed", range(50))
def test_bins_hold_every_length_once(seed: int):
    draw = np.random.default_rng(seed)
    values = (draw.pareto(draw.uniform(0.3, 3), draw.integers(1, 300)) * 50).clip(0, 2**31 - 1)
    values = values.astype("i4")
    lengths = Lengths.of(values)
    assert all(first < second for first, second in pairwise(lengths.bin_ends))
    assert lengths.bin_ends[0] > 0
    assert lengths.bin_ends[-1] >= lengths.max
    assert len(lengths.bin_ends) == len(lengths.bin_counts) <= 51
    starts = [-1, *lengths.bin_ends]
    for start, end, count in zip(starts, lengths.bin_ends, lengths.bin_counts, strict=False):
        assert count == sum(start < value <= end for value in values.tolist())
    assert sum(lengths.bin_counts) == lengths.num == len(values)
    assert lengths.sum == sum(values.tolist())
    assert lengths.sum_squares == pytest.approx(sum(value**2 for value in values.tolist()))


# Report


def pair(
    split: int, ending: str, tokens: int, prompt: int, title: int, text: int, is_leak: bool = False
) -> tuple:
    of_split = (7, 8, 9, split == TEST, split)
    return (*of_split, ENDINGS.index(ending), title, text, tokens, prompt, is_leak)


def a_report() -> Report:
    report = Report(num_records=9, bad=Counter({"not JSON": 1}), faults=["a.json, line 4: not"])
    report.refused.update({"too_short": 2, "repeated": 1})
    pairs = [
        pair(TRAIN, "whole", 30, 10, 20, 80),
        pair(TRAIN, "cut", 50, 20, 60, 900),
        pair(TRAIN, "whole", 20, 10, 20, 40),
        pair(VALIDATION, "shortened", 50, 10, 30, 500),
        pair(TEST, "whole", 12, 10, 25, 8),
    ]
    report.add_pairs(np.array(pairs, PAIR), num_rows=2, row_tokens=64)
    return report


def test_what_is_kept_is_counted():
    """Tokens are those of train: 30 + 50 + 20, of which 10 + 20 + 10 are prompts."""
    report = a_report()
    assert report.num_pairs == 5
    assert report.splits == {"train": 3, "validation": 1, "test": 1}
    assert report.endings == {"whole": 3, "shortened": 1, "cut": 1}
    assert (report.num_tokens, report.num_target_tokens) == (100, 60)
    assert (report.num_rows, report.fill) == (2, 100 / 128)
    sums = {name: (lengths.num, lengths.sum) for name, lengths in report.lengths.items()}
    assert sums == {
        "title_characters": (5, 155),
        "description_characters": (5, 1528),
        "prompt_tokens": (5, 60),
        "target_tokens": (5, 102),
        "example_tokens": (5, 162),
    }


def test_what_does_not_occur_is_not_listed():
    report = Report()
    report.add_pairs(np.array([pair(TRAIN, "whole", 30, 10, 20, 80)], PAIR), 1, 64)
    assert report.splits == {"train": 1}
    assert report.endings == {"whole": 1}


def test_records_that_may_hold_others_are_told_with_the_way_out():
    report = a_report()
    assert "may hold" not in summarize(report.plain(), 64)
    report.add_long_records(LongRecords(2, "shop.csv, line 12", 1412))
    lines = summarize(json.loads(json.dumps(report.plain())), 64).splitlines()
    assert lines[-2:] == [
        "      may hold the records after them: 2, the longest of 1,412 lines at shop.csv, line 12",
        "          If a quote is not closed there, close it or take it out.",
    ]


def test_plain_values_survive_json():
    plain = a_report().plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain["lengths"]["title_characters"]) == {
        *("num", "min", "median", "percentile_95", "max", "sum", "sum_squares"),
        *("bin_ends", "bin_counts"),
    }
    assert plain["refused"] == {"too_short": 2, "repeated": 1}


def test_the_first_refusals_of_each_reason_are_shown_over_all_batches():
    report = Report()
    products = [Product(f"Mug {n}", f"A {n}", f"a.json, line {n}") for n in range(6)]
    report.add_refusals(Counter(short=2, empty=1), {"short": [0, 2], "empty": [5]}, products)
    report.add_refusals(Counter(short=9), {"short": [1, 3, 4]}, products)
    report.add_refusals(Counter(short=1), {"short": [5]}, products)
    assert report.refused == {"short": 12, "empty": 1}
    assert report.refused_examples == {
        "short": [
            "a.json, line 0: 'Mug 0': 'A 0'",
            "a.json, line 2: 'Mug 2': 'A 2'",
            "a.json, line 1: 'Mug 1': 'A 1'",
        ],
        "empty": ["a.json, line 5: 'Mug 5': 'A 5'"],
    }


@pytest.mark.parametrize(
    ("title", "text", "line"),
    [
        ("Red Mug", "", "'Red Mug': ''"),
        ("  Red\n\n Mug\t\r", "a\x0bb\u2028c", "'Red Mug': 'a b c'"),
        (
            "\x1b[2J\x1b]0;owned\x07Mug",
            "a\x00b\x7f\x9b31m",
            r"'\x1b[2J\x1b]0;owned\x07Mug': 'a\x00b\x7f\x9b31m'",
        ),
        (
            "\u202egum\u202c der",
            "a\u200bb\ufeff\u00ad",
            r"'\u202egum\u202c der': 'a\u200bb\ufeff\xad'",
        ),
        ("\ud800 Mug", "\ue000", r"'\ud800 Mug': '\ue000'"),
        ("Mog's", "C:\\new", "\"Mog's\": 'C:\\\\new'"),
        ("Título “Mug” 書 🧸", "x" * 81, "'Título “Mug” 書 🧸': '" + "x" * 80 + "'"),
        ("é" * 200_000, "\x1b" * 200_000, "'" + "é" * 80 + "': '" + r"\x1b" * 80 + "'"),
    ],
)
def test_what_is_shown_of_a_product_is_one_line_that_is_safe_to_print(
    title: str, text: str, line: str
):
    assert shown(Product(title, text, "a.json, line 3")) == f"a.json, line 3: {line}"


def test_where_a_product_stands_is_safe_to_print_too():
    """A file may be called anything."""
    product = Product("Mug", "Red", "a\x1b[2J\n.json, line 3")
    assert shown(product) == r"a\x1b[2J .json, line 3: 'Mug': 'Red'"


# Summary


def test_a_summary_says_what_was_read_kept_and_left_out():
    assert summarize(a_report().plain(), 64) == (
        "Data: 9 records, 5 usable pairs: 3 train, 1 validation, 1 test\n"
        "      100 tokens to train on, 60 of descriptions, in 2 rows of 64 (78.1% filled)\n"
        "      descriptions shortened to whole sentences: 20.0%, cut: 20.0%\n"
        "      left out: 2 × too_short\n"
        "      left out: 1 × repeated\n"
        "      cannot be read: 1 × not JSON\n"
        "          a.json, line 4: not"
    )


def test_a_summary_says_no_more_than_there_is():
    report = Report(num_records=1_390_403)
    pairs = np.repeat(np.array([pair(TRAIN, "whole", 30, 10, 20, 80)], PAIR), 1_200_000)
    report.add_pairs(pairs, 18_750, 2_048)
    assert summarize(report.plain(), 2_048) == (
        "Data: 1,390,403 records, 1,200,000 usable pairs: 1,200,000 train, 0 validation, 0 test\n"
        "      36,000,000 tokens to train on, 24,000,000 of descriptions, in 18,750 rows of 2048 "
        "(93.8% filled)\n"
        "      descriptions shortened to whole sentences: 0.0%, cut: 0.0%"
    )


@pytest.mark.parametrize(("num_leaks", "is_many"), [(1, False), (4, False), (5, True), (99, True)])
def test_a_summary_says_what_titles_that_hold_their_description_mean(num_leaks: int, is_many: bool):
    pairs = [pair(TRAIN, "whole", 30, 10, 90, 80, number < num_leaks) for number in range(100)]
    report = Report(num_records=100)
    report.add_pairs(np.array(pairs, PAIR), 2, 2_048, "a.csv, line 7: 'Mug - Red': 'Red'")
    assert (report.num_leaks, report.leak_share) == (num_leaks, num_leaks / 100)
    wanted = [
        f"      titles that hold their own description: {num_leaks} ({num_leaks}.0%)",
        "          a.csv, line 7: 'Mug - Red': 'Red'",
        "          The model learns to copy from such a title, and scores say nothing. Name a",
        "          column of bare titles with --data.title_column.",
    ]
    said = summarize(report.plain(), 2_048).splitlines()[3:]
    assert said == (wanted if is_many else wanted[:2])


def test_a_summary_is_the_same_from_a_file():
    plain = a_report().plain()
    assert summarize(json.loads(json.dumps(plain)), 64) == summarize(plain, 64)
