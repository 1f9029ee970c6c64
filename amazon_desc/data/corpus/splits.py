"""Decides, by a stable hash of its title, on which side of the split a product is.

In comes the hash of a title, out goes "train", "validation" or "test". The answer depends on the
title alone, not on the file's order, the other products or the machine. What is hashed is what
titles are compared by, see `normalize_title`: case and spacing do not matter.
"""

from hashlib import blake2b
from typing import Literal

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
