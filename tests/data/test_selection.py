"""Selection: which repeats go, which part stays, and that no title is on two sides."""

import random
from typing import Any

import numpy as np
import pytest

from amazon_desc.data.corpus.near_repeats import NUM_HASHES
from amazon_desc.data.corpus.pairs import PAIR
from amazon_desc.data.corpus.selection import PartBound, choose, is_in
from amazon_desc.data.corpus.splits import HASH_RANGE


def pairs_of(*rows: tuple[int, int, int], **columns: Any) -> np.ndarray:
    """Returns pairs of (title, description, characters of the description)."""
    pairs = np.zeros(len(rows), PAIR)
    pairs["title"], pairs["description"], pairs["description_characters"] = np.array(rows).T
    pairs["part"] = pairs["title"]
    for name, values in columns.items():
        pairs[name] = values
    return pairs


EXAMPLE = pairs_of((7, 1, 9), (7, 2, 20), (7, 1, 9), (5, 3, 4))


def test_the_worked_example():
    kept, reasons, _ = choose(EXAMPLE, "best")
    assert kept.tolist() == [False, True, False, True]
    assert reasons == {"repeated": 1, "another description of a title": 1}
    kept, reasons, _ = choose(EXAMPLE, "all")
    assert kept.tolist() == [True, True, False, True]
    assert reasons == {"repeated": 1}


def test_of_equally_long_descriptions_the_same_one_stays_in_any_order():
    rows = [(7, 4, 9), (7, 2, 9), (7, 3, 9), (8, 1, 5)]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        kept = choose(pairs_of(*rows), "best")[0]
        assert sorted(row for row, k in zip(rows, kept, strict=True) if k) == [(7, 2, 9), (8, 1, 5)]


def test_the_first_of_equal_pairs_stays():
    kept = choose(pairs_of((7, 1, 9), (5, 1, 9), (7, 1, 9), (5, 1, 9)), "all")[0]
    assert kept.tolist() == [True, True, False, False]


def test_nothing_in_nothing_out():
    kept, reasons, _ = choose(np.empty(0, PAIR), "best", num_products=3)
    assert (len(kept), reasons) == (0, {})


@pytest.mark.parametrize("repeated_titles", ["best", "all"])
def test_one_pair_each_is_kept_of_random_repeats(repeated_titles: str):
    generator = np.random.default_rng(0)
    rows = [(t, d, 10 * d) for t, d in generator.integers(1, 12, (500, 2)).tolist()]
    kept, reasons, _ = choose(pairs_of(*rows), repeated_titles)  # type: ignore[arg-type]
    stayed = [row for row, k in zip(rows, kept, strict=True) if k]
    if repeated_titles == "best":
        assert sorted(stayed) == sorted(
            {t: max(r for r in rows if r[0] == t) for t, *_ in rows}.values()
        )
    else:
        assert sorted(stayed) == sorted(set(rows))
    assert len(stayed) + reasons.total() == 500


def test_titles_of_the_test_file_are_only_tested_on():
    pairs = pairs_of((7, 1, 9), (5, 3, 4), (7, 2, 20), (6, 9, 9), is_tested=[1, 0, 0, 0])
    # title 6 stands in the test file too, though cleaning refused it there
    kept, reasons, _ = choose(pairs, "best", test_titles=np.array([6, 7], "u8"))
    assert kept.tolist() == [True, True, False, False]
    assert reasons == {"title in the test file": 2}


def test_a_part_has_the_smallest_hashes_and_is_contained_in_a_larger_one():
    parts = np.random.default_rng(1).permutation(100)
    pairs = pairs_of(*((n + 1, n, 5) for n in range(100)), part=parts)
    smaller: set[int] = set()
    for size in (1, 2, 10, 99, 100, 200):
        kept, reasons, _ = choose(pairs, "best", num_products=size)
        assert sorted(parts[kept]) == list(range(min(size, 100)))
        assert reasons == ({"beyond num_products": 100 - size} if size < 100 else {})
        assert smaller <= set(np.flatnonzero(kept).tolist())
        smaller = set(np.flatnonzero(kept).tolist())


def test_the_test_file_does_not_count_as_part():
    pairs = pairs_of((1, 1, 5), (2, 2, 5), (3, 3, 5), is_tested=[1, 0, 0])
    assert choose(pairs, "best", num_products=1)[0].tolist() == [True, True, False]


def test_a_bound_never_leaves_out_what_is_asked_for_and_comes_late():
    parts = np.random.default_rng(2).permutation(40_000).astype("u8")
    bound = PartBound(50)
    bounds = iter(bound)
    left = []
    for number in range(40):
        used = next(bounds)
        assert (used == HASH_RANGE) == (number < PartBound.DELAY)
        batch = parts[number * 1_000 : (number + 1) * 1_000]
        batch = batch[batch <= used] if used < HASH_RANGE else batch
        left += batch.tolist()
        bound.add(batch)
    assert set(range(50)) <= set(left)
    assert len(left) < 25_000


def test_without_a_number_of_products_nothing_is_left_out():
    bound = PartBound(None)
    bounds = iter(bound)
    for _ in range(50):
        assert next(bounds) == HASH_RANGE
        bound.add(np.arange(10, dtype="u8"))


def test_what_is_in_a_sorted_array():
    ordered = np.array([1, 3, 9], "u8")
    assert is_in(np.array([3, 5, 9, 0, 10], "u8"), ordered).tolist() == [
        *(True, False, True, False, False)
    ]
    assert is_in(np.array([3], "u8"), ordered[:0]).tolist() == [False]
    assert is_in(ordered[:0], ordered).tolist() == []


def sketches_like(*groups: int) -> np.ndarray:
    """Returns sketches that are equal where the groups are, and else have nothing in common."""
    return np.repeat(np.array(groups, "u2")[:, None], NUM_HASHES, axis=1)


ALIKE = pairs_of((1, 1, 9), (2, 2, 20), (3, 3, 12), (4, 4, 5), (5, 5, 30))
GROUPS = sketches_like(7, 7, 7, 8, 9)


def test_of_near_repeats_the_longest_stays():
    kept, reasons, alike = choose(ALIKE, "best", sketches=GROUPS, near_repeats=True)
    assert kept.tolist() == [False, True, False, True, True]
    assert reasons == {"nearly the description of another title": 2}
    assert alike["nearly the description of another title"].tolist() == [[0, 1], [2, 1]]


def test_boilerplate_of_many_titles_goes_whole():
    kept, reasons, _ = choose(ALIKE, "best", sketches=GROUPS, boilerplate=3)
    assert kept.tolist() == [False, False, False, True, True]
    assert reasons == {"nearly the description of many titles": 3}
    kept, reasons, _ = choose(ALIKE, "best", sketches=GROUPS, boilerplate=4, near_repeats=True)
    assert kept.tolist() == [False, True, False, True, True]


def test_near_repeats_of_the_test_file_stay_and_keep_others_out():
    pairs = ALIKE.copy()
    pairs["is_tested"] = [True, False, False, False, True]
    kept, _, _ = choose(pairs, "best", sketches=sketches_like(7, 7, 8, 9, 7), near_repeats=True)
    assert kept.tolist() == [True, False, True, True, True]


def test_repeats_are_not_counted_among_near_repeats():
    pairs = pairs_of((1, 1, 9), (1, 1, 9), (2, 2, 20))
    sketches = sketches_like(7, 7, 8)
    _, reasons, _ = choose(pairs, "best", sketches=sketches, near_repeats=True, boilerplate=2)
    assert reasons == {"repeated": 1}
