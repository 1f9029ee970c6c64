"""Chooses what is learnt from, once every usable pair is known: which repeats go, which part stays.

In come what is known of all pairs, and the rules, out go the pairs that are kept, and a count of
the others by the reason why they are not. No text is read here: pairs are compared by their hashes.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from amazon_desc.data.corpus.near_repeats import leaders_of
from amazon_desc.data.corpus.splits import HASH_RANGE

# One description a title, the longest; or every different one.
RepeatedTitles = Literal["best", "all"]

REPEATED = "repeated"
OTHER_DESCRIPTION = "another description of a title"
NEAR_REPEAT = "nearly the description of another title"
BOILERPLATE = "nearly the description of many titles"
IN_TEST_FILE = "title in the test file"
BEYOND_PART = "beyond num_products"

NO_TITLES = np.empty(0, "u8")


class Chosen(NamedTuple):
    """What is learnt from."""

    kept: np.ndarray
    """(N,) bool"""
    reasons: Counter[str]
    """how many pairs are not kept, by reason"""
    alike: dict[str, np.ndarray]
    """by reason, (M, 2): the pairs left out since their description is nearly that of another, with
    the numbers of those others"""


def choose(
    pairs: np.ndarray,
    repeated_titles: RepeatedTitles,
    num_products: int | None = None,
    test_titles: np.ndarray = NO_TITLES,
    sketches: np.ndarray | None = None,
    near_repeats: bool = False,
    boilerplate: int | None = None,
) -> Chosen:
    """Returns which pairs are kept, and how many are not by reason.

    Of pairs with one title and one description the first stays. Of several descriptions of a title
    "best" keeps the longest (of equally long ones the one with the smallest hash, so that the order
    of the files does not matter):

        title           = [7, 7, 7, 5]
        description     = [1, 2, 1, 3]        number 2 repeats number 0
        characters      = [9, 20, 9, 4]
        kept with best  = [0, 1, 0, 1]
        kept with all   = [1, 1, 0, 1]

    Titles of the test file, `test_titles` (sorted), are kept for its pairs only. `num_products`
    keeps the pairs of the other files with the smallest `part`, a hash of the title, so a larger
    part contains every smaller one.

    With `sketches` of the descriptions (N, NUM_HASHES), `near_repeats` keeps the longest of those
    that are nearly the same, before parts are chosen, and `boilerplate` none that so many titles
    have. Pairs of the test file stay, and stand for others.
    """
    kept = np.ones(len(pairs), dtype=bool)
    reasons: Counter[str] = Counter()
    alike: dict[str, np.ndarray] = {}

    def drop(is_dropped: np.ndarray, reason: str) -> None:
        reasons[reason] += int(np.count_nonzero(kept & is_dropped))
        kept[is_dropped] = False

    drop(~pairs["is_tested"] & is_in(pairs["title"], test_titles), IN_TEST_FILE)
    is_repeat, is_best = repeats(pairs)
    drop(is_repeat, REPEATED)
    if repeated_titles == "best":
        drop(~is_best, OTHER_DESCRIPTION)
    if sketches is not None:
        leaders, num_alike = groups(pairs, kept, sketches)
        is_other = leaders != np.arange(len(pairs))
        rules = {
            BOILERPLATE: num_alike >= (boilerplate or np.inf),
            NEAR_REPEAT: is_other & near_repeats,
        }
        for reason, is_asked in rules.items():
            is_dropped = kept & is_asked & ~pairs["is_tested"]
            others = np.flatnonzero(is_dropped & is_other)
            alike[reason] = np.stack([others, leaders[others]], axis=1)
            drop(is_dropped, reason)
    if num_products is not None:
        candidates = np.flatnonzero(kept & ~pairs["is_tested"])
        by_part = np.lexsort((pairs["description"][candidates], pairs["part"][candidates]))
        is_beyond = np.zeros(len(pairs), dtype=bool)
        is_beyond[candidates[by_part[num_products:]]] = True
        drop(is_beyond, BEYOND_PART)
    return Chosen(kept, +reasons, alike)


def groups(
    pairs: np.ndarray, kept: np.ndarray, sketches: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns of each pair the one that stands for it, and how many that one stands for, (N,) each.

    Of those that are kept; another stands for itself.
    """
    numbers = np.flatnonzero(kept)
    leaders = np.arange(len(pairs))
    leaders[numbers] = numbers[leaders_of(sketches[numbers], by_length(pairs[numbers]))]
    return leaders, np.bincount(leaders[numbers], minlength=len(pairs))[leaders]


def by_length(pairs: np.ndarray) -> np.ndarray:
    """Returns the numbers of pairs: those of the test file first, then the longest description.

    The order of the files does not matter.
    """
    return np.lexsort(
        (
            pairs["title"],
            pairs["description"],
            -pairs["description_characters"],
            ~pairs["is_tested"],
        )
    )


def is_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Returns which values are in `ordered`, which is sorted.

    values = [3, 5, 9], ordered = [1, 3, 9]  ->  [True, False, True]
    """
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[places] == values


def repeats(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pairs repeat an earlier one, and which are the best of their title."""
    # lexsort's last key counts first, and equal ones stay in their order.
    order = np.lexsort(
        (
            pairs["description"],
            -pairs["description_characters"],
            pairs["title"],
            pairs["is_tested"],
        )
    )
    ordered = pairs[order]
    same_title = np.zeros(len(pairs), dtype=bool)
    same_title[1:] = (ordered["title"][1:] == ordered["title"][:-1]) & (
        ordered["is_tested"][1:] == ordered["is_tested"][:-1]
    )
    same_pair = same_title.copy()
    same_pair[1:] &= ordered["description"][1:] == ordered["description"][:-1]
    is_repeat, is_best = np.empty_like(same_pair), np.empty_like(same_title)
    is_repeat[order] = same_pair
    is_best[order] = ~same_title
    return is_repeat, is_best


class PartBound:
    """The largest `part` hash that can still be asked for, from the pairs seen so far.

    Each bound is used a fixed number of batches later, so what is left out, and with it what is
    written, does not depend on how many processes work ahead.
    """

    DELAY = 16

    def __init__(self, num_products: int | None) -> None:
        self.num_products = num_products
        self.smallest = np.empty(0, "u8")
        self.bounds = [HASH_RANGE] * self.DELAY

    def add(self, parts: np.ndarray) -> None:
        """Takes in the `part` hashes of one batch."""
        bound = HASH_RANGE
        if self.num_products is not None:
            self.smallest = np.union1d(self.smallest, parts)[: self.num_products]
            if len(self.smallest) == self.num_products:
                bound = int(self.smallest[-1])
        self.bounds.append(bound)

    def __iter__(self) -> Iterator[int]:
        """Yields the bound for each batch in turn."""
        while True:
            yield self.bounds.pop(0)
