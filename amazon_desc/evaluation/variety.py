"""How varied texts are together: distinct-n, and what it is when texts are drawn anew.

In come texts, or their runs of words as numbers, out come shares from 0 to 1. No references are
needed: references have a variety of their own to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from amazon_desc.evaluation.repetition import ngrams


def distinct(texts: Sequence[str], size: int = 2) -> float:
    """Returns the share of different ones among all runs of words of all texts (distinct-n).

    Li et al. 2016, https://aclanthology.org/N16-1014. It falls as there are more texts, so only
    equally many compare.

    ["a red mug", "a red cup"], 2: "a red" twice, "red mug" and "red cup" -> 3 / 4
    """
    return Runs.of([ngram_ids(text, size) for text in texts]).distinct()


def ngram_ids(text: str, size: int) -> list[int]:
    """Returns a number for each run of `size` words, the same in every process: 64 bits of a hash.

    "a red red", 1 -> [a's, red's, red's]
    """
    return [
        int.from_bytes(
            blake2b("\0".join(run).encode("utf-8", "surrogatepass"), digest_size=8).digest(),
            "little",
            signed=True,
        )
        for run in ngrams(text, size)
    ]


@dataclass(frozen=True)
class Runs:
    """The runs of words of N texts: `ids` of all, one text's after the other's, and how many of
    them belong to each text, `lengths` (N,)."""

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Runs:
        ids = [number for text in texts for number in text]
        return cls(np.array(ids, np.int64), np.array([len(text) for text in texts], np.int64))

    def distinct(self) -> float:
        return len(np.unique(self.ids)) / len(self.ids) if len(self.ids) else 0.0

    def resampled(self, draws: np.ndarray) -> np.ndarray:
        """Returns distinct-n of each draw (R, N), which says how often it has each of the texts.

            ids = [7, 8, 7], lengths = [2, 1], draws = [[1, 1], [2, 0], [0, 2]]
            distinct = [2 / 3, 2 / 4, 1 / 2]

        A text that is drawn twice brings no new run, so these lie below the value of the texts
        themselves: what they say is how far it varies, not where it is.
        """
        text_of_run = np.repeat(np.arange(len(self.lengths)), self.lengths)
        names, numbers = np.unique(self.ids, return_inverse=True)
        pairs = np.unique(np.stack([numbers, text_of_run]), axis=1)
        num_texts_of = np.bincount(pairs[0], minlength=len(names))
        # A run that one text alone has is there when that text is: most are, and they only add up.
        is_shared = num_texts_of[pairs[0]] > 1
        num_own = np.bincount(pairs[1][~is_shared], minlength=len(self.lengths))
        is_drawn = draws > 0
        num_different = (is_drawn @ num_own.astype(np.float64)).astype(np.float64)
        if is_shared.any():
            shared, texts = pairs[:, is_shared]
            starts = np.flatnonzero(np.diff(shared, prepend=-1))
            for number, drawn in enumerate(is_drawn):
                num_different[number] += np.logical_or.reduceat(drawn[texts], starts).sum()
        num_runs = draws @ self.lengths
        return np.divide(num_different, num_runs, out=np.zeros(len(draws)), where=num_runs > 0)
