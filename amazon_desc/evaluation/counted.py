"""What was counted in N texts, or N losses: their scores, how sure they are, and compared.

In come rows, one for each title; out go scores, intervals over titles, and paired comparisons with
the rows of other weights on the same titles. Nothing is counted in a text here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from amazon_desc.evaluation.counts import COLUMN, ROUGE_KEYS
from amazon_desc.evaluation.intervals import (
    Comparison,
    Interval,
    comparisons,
    intervals,
    resampled,
)
from amazon_desc.evaluation.scores import scores_of_losses, scores_of_texts
from amazon_desc.evaluation.variety import Runs

VARIETY = ("distinct1", "distinct2")
"""Scores that drawing titles with repeats lowers by itself: their intervals are centred."""


@dataclass(frozen=True, eq=False)
class CountedTexts:
    """Rows of counts.py, and the runs of one and of two words, of N texts."""

    rows: np.ndarray
    runs: tuple[Runs, Runs]

    def __len__(self) -> int:
        return len(self.rows)

    def scores(self) -> dict[str, float]:
        """Returns each score over all texts, but those of which something is not known."""
        of_sums = scores_of_texts(self.rows.sum(0, keepdims=True), len(self))
        variety = [runs.distinct() for runs in self.runs]
        return {
            **{name: float(values[0]) for name, values in of_sums.items()},
            **dict(zip(VARIETY, variety, strict=True)),
        }

    def intervals(self) -> dict[str, Interval]:
        """Returns each score with its 95 % interval over titles."""
        return intervals(self.scores(), self.resampled, VARIETY)

    def compared_with(self, before: CountedTexts) -> dict[str, Comparison]:
        """Returns how each score that both have differs: this one minus `before`'s.

        The n-th row of both belongs to the same title.

        Raises:
            ValueError: there are not as many texts in both.
        """
        _refuse_unequal(len(self), len(before))
        after = (self.scores(), self.resampled)
        return comparisons(after, (before.scores(), before.resampled), VARIETY)

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """Each score of all draws (NUM_RESAMPLES,), the same draws for all scores and weights."""
        return resampled(len(self), self._scores_of)

    def _scores_of(self, drawn: np.ndarray) -> dict[str, np.ndarray]:
        variety = [runs.resampled(drawn) for runs in self.runs]
        of_sums = scores_of_texts(drawn @ self.rows, len(self))
        return {**of_sums, **dict(zip(VARIETY, variety, strict=True))}

    def records(self) -> list[dict[str, Any]]:
        """Returns for each text rouge1, rouge2, rougeL (F1), is_loop and, if known, is_copied."""
        found: list[dict[str, Any]] = []
        for row in self.rows:
            record: dict[str, Any] = {name: float(row[COLUMN[name]]) for name in ROUGE_KEYS}
            for name in ("is_loop", "is_copied"):
                if not np.isnan(row[COLUMN[name]]):
                    record[name] = bool(row[COLUMN[name]])
            found.append(record)
        return found


@dataclass(frozen=True, eq=False)
class CountedLosses:
    """Losses of N examples, (N, 3): the sum in nats, targets, and those of them that are the
    model's first choice (NaN: not known)."""

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def scores(self) -> dict[str, float]:
        """Returns loss (nats a target), perplexity and, if all numbers are known, accuracy."""
        found = scores_of_losses(self.rows.sum(0, keepdims=True))
        return {name: float(values[0]) for name, values in found.items()}

    def intervals(self) -> dict[str, Interval]:
        """Returns each score with its 95 % interval over examples."""
        return intervals(self.scores(), self.resampled)

    def compared_with(self, before: CountedLosses) -> dict[str, Comparison]:
        """Returns how each score that both have differs: this one minus `before`'s.

        The n-th row of both is the same example's.

        Raises:
            ValueError: there are not as many examples in both.
        """
        _refuse_unequal(len(self), len(before))
        return comparisons((self.scores(), self.resampled), (before.scores(), before.resampled))

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """Each score of all draws (NUM_RESAMPLES,), the same draws for all scores and weights."""
        return resampled(len(self), lambda drawn: scores_of_losses(drawn @ self.rows))

    def records(self) -> list[dict[str, Any]]:
        """Returns for each example loss_sum, num_targets and, if known, num_right."""
        found: list[dict[str, Any]] = []
        for loss_sum, num_targets, num_right in self.rows.tolist():
            record: dict[str, Any] = {"loss_sum": loss_sum, "num_targets": int(num_targets)}
            if num_right == num_right:  # no NaN
                record["num_right"] = int(num_right)
            found.append(record)
        return found


def _refuse_unequal(num_after: int, num_before: int) -> None:
    if num_after != num_before:
        raise ValueError(
            f"{num_after} titles compared with {num_before}: wanted the same titles on both sides, "
            f"in the same order."
        )
