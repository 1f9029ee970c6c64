"""Decides, by a stable hash of its title, on which side of the split a product is.

In comes the hash of a title, out goes "train", "validation" or "test". The answer depends on the
title alone, not on the file's order, the other products or the machine; only where a split would
get nothing, on all titles. What is hashed is what titles are compared by, see `normalize_title`:
case and spacing do not matter.
"""

from hashlib import blake2b
from math import nextafter
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

HASH_RANGE = 1 << 64


def text_hash(text: str, purpose: str) -> int:
    """Returns a number from 0 to 2**64 - 1; different purposes give independent numbers."""
    digest = blake2b(text.encode(), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "big")


def split_at(split_hash: int, validation_fraction: float, test_fraction: float) -> Split:
    """Returns the side of the split that a title with this "split" hash is on.

    Raising one fraction moves titles out of train only; the test side is cut off first, so it never
    depends on `validation_fraction`.
    """
    place = split_hash / HASH_RANGE
    if place < test_fraction:
        return "test"
    if place >= 1 - validation_fraction:
        return "validation"
    return "train"


def filling_fractions(
    split_hashes: np.ndarray, validation_fraction: float, test_fraction: float
) -> tuple[float, float]:
    """Returns fractions for validation and test that leave no split empty.

    They are those that are given if no split is empty. If one is, it gets the title whose hash is
    nearest to it. Of one title nothing is held out, and of two nothing for test if there is
    validation; a fraction of zero stays zero.

        places, of 1                  = [0.2,   0.3,   0.5,   0.9]
        split, with 0.01 and 0.01     = [train, train, train, train]
        split, with what is returned  = [test,  train, train, validation]

    Args:
        split_hashes: (N,) "split" hashes of the titles, those of repeats too
    """
    places = np.unique(split_hashes) / float(HASH_RANGE)
    is_tested = places < test_fraction
    num_tested = int(is_tested.sum())
    num_validated = int((~is_tested & (places >= 1 - validation_fraction)).sum())
    min_validated = int(validation_fraction > 0 and len(places) > 1)
    min_tested = int(test_fraction > 0 and len(places) > 1 + min_validated)
    validated, tested = max(num_validated, min_validated), max(num_tested, min_tested)
    most = max(len(places) - 1, 0)  # one stays to train on
    tested = min(tested, max(most - validated, min_tested))
    validated = min(validated, most - tested)
    if validated != num_validated:
        validation_fraction = _reaching_down_to(places[-validated]) if validated else 0.0
    if tested != num_tested:
        test_fraction = nextafter(places[tested - 1], 1) if tested else 0.0
    return float(validation_fraction), float(test_fraction)


def _reaching_down_to(place: float) -> float:
    """The fraction whose split begins at a place, or below it by no more than is rounded away."""
    fraction = 1 - place
    while 1 - fraction > place:
        fraction = nextafter(fraction, 2)
    return fraction
