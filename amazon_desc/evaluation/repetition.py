"""How much texts repeat themselves.

In come texts, out come plain shares from 0 to 1. A word is what stands between white space, as it
is written. No references are needed: references have shares of their own to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LOOP_NGRAM = 4
LOOP_SHARE = 0.2
"""A text of which a larger share of runs of four words is repeats is counted as a loop."""


def ngrams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yields each run of `size` words. "a b c", 2 -> ("a", "b"), ("b", "c")"""
    words = text.split()
    yield from zip(*(words[first:] for first in range(size)), strict=False)


def repeated_share(text: str, size: int = LOOP_NGRAM) -> float:
    """Returns the share of a text's runs of words that were there before, 0 for a short text.

    "a red mug and a red mug", 2: 6 runs, of which "a red" and "red mug" come again -> 2 / 6
    """
    found = list(ngrams(text, size))
    return 1 - len(set(found)) / len(found) if found else 0.0


def is_loop(text: str) -> bool:
    """Says whether of a text's runs of 4 words more than 0.2 are repeats."""
    return repeated_share(text) > LOOP_SHARE


def share_of_loops(texts: Sequence[str]) -> float:
    """Returns the share of texts that loop: of their runs of 4 words more than 0.2 are repeats.

    ["on and on and on and on and on", "a red mug with a handle"] -> 0.5
    """
    loops = [is_loop(text) for text in texts]
    return sum(loops) / len(loops) if loops else 0.0
