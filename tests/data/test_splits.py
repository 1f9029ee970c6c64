"""Splits: the side of a title is fixed for good, whatever else is in the file."""

import random
from collections import Counter

import numpy as np
import pytest

from amazon_desc.data.cleaning.cleaner import normalize_title
from amazon_desc.data.corpus.splits import HASH_RANGE, filling_fractions, split_at, text_hash

TITLES = [f"Product number {number}" for number in range(20_000)]


def title_hash(title: str, purpose: str) -> int:
    return text_hash(normalize_title(title), purpose)


def sides(validation_fraction: float, test_fraction: float) -> list[str]:
    hashes = (title_hash(title, "split") for title in TITLES)
    return [split_at(place, validation_fraction, test_fraction) for place in hashes]


@pytest.mark.parametrize(
    ("title", "place", "side"),
    [
        ("Girls Ballet Tutu Neon Pink", 211371484739182560, "test"),
        ("Mog's Kittens", 1038081885628100187, "test"),
        ("Tin Car", 11326939648738143091, "train"),
        ("Red Mug", 16752718444944312049, "validation"),
        ("Blue Mug", 12548395998691996253, "train"),
        ("Green Mug", 7929710764616278304, "train"),
    ],
)
def test_a_title_has_the_side_it_always_had(title: str, place: int, side: str):
    """The places are of 2**64: below 30 % is test, from 70 % on is validation."""
    assert title_hash(title, "split") == place
    assert split_at(place, 0.3, 0.3) == side


@pytest.mark.parametrize("same", ["red mug", "RED  MUG", " Red\tMug\n", "Ｒed Mug", "Red\xa0Mug"])
def test_case_and_spacing_do_not_matter(same: str):
    assert title_hash(same, "split") == title_hash("Red Mug", "split")
    assert title_hash("Red Mugs", "split") != title_hash("Red Mug", "split")


def test_purposes_give_independent_numbers():
    """Of the titles in the lower half for one purpose, half are in the lower half for another."""
    half = 1 << 63
    low = [title for title in TITLES if title_hash(title, "split") < half]
    both = [title for title in low if title_hash(title, "part") < half]
    assert len(low) == pytest.approx(10_000, abs=300)
    assert len(both) == pytest.approx(5_000, abs=250)


@pytest.mark.parametrize(("validation", "test"), [(0.01, 0.02), (0.1, 0.05), (0.5, 0.25)])
def test_the_fractions_hold(validation: float, test: float):
    """Six standard deviations of 20,000 draws are at most 2.2 %."""
    found = sides(validation, test)
    for side, fraction in (("validation", validation), ("test", test)):
        tolerance = 6 * (fraction * (1 - fraction) / len(TITLES)) ** 0.5
        assert found.count(side) / len(TITLES) == pytest.approx(fraction, abs=tolerance)
    assert found.count("train") == len(TITLES) - found.count("validation") - found.count("test")


def test_a_fraction_of_zero_holds_nothing_out():
    assert set(sides(0, 0)) == {"train"}
    assert set(sides(0, 0.1)) == {"train", "test"}
    assert set(sides(0.1, 0)) == {"train", "validation"}


@pytest.mark.parametrize(
    ("raised", "grown"), [((0.2, 0.1), "validation"), ((0.1, 0.2), "test"), ((0.1, 0.89), "test")]
)
def test_raising_a_fraction_moves_titles_out_of_train_only(raised: tuple[float, float], grown: str):
    moves = {
        (before, after)
        for before, after in zip(sides(0.1, 0.1), sides(*raised), strict=True)
        if before != after
    }
    assert moves == {("train", grown)}


def hashes_at(*places: float) -> np.ndarray:
    return np.array([int(place * HASH_RANGE) for place in places], "u8")


def splits_of(hashes: np.ndarray, fractions: tuple[float, float]) -> list[str]:
    return [split_at(int(place), *fractions) for place in hashes]


def test_an_empty_split_gets_the_title_that_is_nearest():
    hashes = hashes_at(0.2, 0.3, 0.5, 0.9)
    assert splits_of(hashes, (0.01, 0.01)) == ["train"] * 4
    fractions = filling_fractions(hashes, 0.01, 0.01)
    assert splits_of(hashes, fractions) == ["test", "train", "train", "validation"]
    assert fractions == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize(
    ("places", "given", "expected"),
    [
        ((), (0.01, 0.01), []),
        ((0.5,), (0.01, 0.01), ["train"]),
        ((0.005,), (0.01, 0.01), ["train"]),
        ((0.999,), (0.01, 0.01), ["train"]),
        ((0.4, 0.6), (0.01, 0.01), ["train", "validation"]),
        ((0.001, 0.6), (0.01, 0.01), ["train", "validation"]),
        ((0.4, 0.6), (0, 0.01), ["test", "train"]),
        ((0.4, 0.6), (0, 0), ["train", "train"]),
        ((0.4, 0.4, 0.6), (0.01, 0.01), ["train", "train", "validation"]),
        ((0.1, 0.2, 0.3), (0.3, 0.5), ["test", "train", "validation"]),
        ((0.7, 0.8, 0.9), (0.5, 0.3), ["test", "train", "validation"]),
        ((0.1, 0.2, 0.8), (0.3, 0.3), ["test", "train", "validation"]),
        ((0.2, 0.5, 0.7, 0.9), (0.01, 0.3), ["test", "train", "train", "validation"]),
    ],
)
def test_of_few_titles_each_split_gets_one_if_there_are_enough(
    places: tuple[float, ...], given: tuple[float, float], expected: list[str]
):
    hashes = hashes_at(*places)
    assert splits_of(hashes, filling_fractions(hashes, *given)) == expected


def test_no_split_is_empty_that_need_not_be_and_none_changes_without_need():
    draw = random.Random(0)
    num_kept = 0
    for _ in range(3_000):
        number, shift = draw.randint(0, 12), draw.choice((0, 0, 8, 40))
        hashes = np.array([draw.getrandbits(64) >> shift for _ in range(number)], "u8")
        given = draw.choice([(0.01, 0.01), (0.3, 0.3), (0.01, 0), (0, 0.01), (0.6, 0.39), (0, 0)])
        wanted = ["train"] + ["validation"] * (given[0] > 0) + ["test"] * (given[1] > 0)
        before = Counter(splits_of(hashes, given))
        fractions = filling_fractions(hashes, *given)
        found = Counter(splits_of(hashes, fractions))
        assert all(found[split] for split in wanted[:number])
        assert found.keys() <= set(wanted)
        assert fractions == filling_fractions(hashes[::-1], *given)
        if all(before[split] for split in wanted):
            num_kept += 1
            assert fractions == given
    assert num_kept > 500
