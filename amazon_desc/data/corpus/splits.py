"""Decides, by a stable hash of its title, on which side of the split a product is.

In comes a title, out goes "train", "validation" or "test". The answer depends on the title alone,
not on the file's order, the other products or the machine; titles that differ only in case or
spacing get the same answer.
"""

from hashlib import blake2b
from typing import Literal

from amazon_desc.data.cleaning.cleaner import normalize_title

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

HASH_RANGE = 1 << 64


def text_hash(text: str, purpose: str) -> int:
    """Returns a number from 0 to 2**64 - 1; different purposes give independent numbers."""
    digest = blake2b(text.encode(), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "big")


def title_hash(title: str, purpose: str) -> int:
    """Returns the hash of what titles are compared by: case and spacing do not matter."""
    return text_hash(normalize_title(title), purpose)


def split_of(title: str, validation_fraction: float, test_fraction: float) -> Split:
    """Returns the side of the split that `title` is on.

    Raising one fraction moves titles out of train only; the test side is cut off first, so it never
    depends on `validation_fraction`.
    """
    return split_at(title_hash(title, "split"), validation_fraction, test_fraction)


def split_at(split_hash: int, validation_fraction: float, test_fraction: float) -> Split:
    """Returns the side of the split that a title with this "split" hash is on."""
    place = split_hash / HASH_RANGE
    if place < test_fraction:
        return "test"
    if place >= 1 - validation_fraction:
        return "validation"
    return "train"
