"""What was scored, read again: the titles and texts of RUN/scored, counted as they were then.

In come files that `validate` or `test` wrote, out go counts that give scores with intervals and
compare one run with another on the same titles, or the seeds of one with those of another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amazon_desc.evaluation.counted import VARIETY, CountedLosses, CountedTexts
from amazon_desc.evaluation.intervals import Comparison, Interval, comparisons, intervals
from amazon_desc.evaluation.metrics import TargetLoss, TextScores
from amazon_desc.support.errors import UserError


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of what several seeds score on the same titles: drawn together, title by title."""

    parts: Sequence[Counted]

    def scores(self) -> dict[str, float]:
        return mean_of([part.scores() for part in self.parts])

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        return mean_of([part.resampled for part in self.parts])


Counted = CountedTexts | CountedLosses | Mean


def mean_of(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean of each score that all parts have."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: sum(part[name] for part in parts) / len(parts) for name in names}


@dataclass(frozen=True)
class Scored:
    """The texts of one side, and the losses of the real descriptions, title by title."""

    source: str
    """what it was read from, as messages name it"""
    titles: list[str]
    texts: Counted
    losses: Counted

    def intervals(self) -> dict[str, Interval]:
        found = [intervals(of.scores(), of.resampled, VARIETY) for of in (self.losses, self.texts)]
        return found[0] | found[1]

    def compared_with(self, before: Scored) -> dict[str, Comparison]:
        """Returns the differences to another side or run, title by title.

        Raises:
            UserError: they were scored on other titles, or in another order.
        """
        self.refuse_other_titles(before)
        pairs = ((self.losses, before.losses), (self.texts, before.texts))
        found = [
            comparisons(
                (after.scores(), after.resampled), (other.scores(), other.resampled), VARIETY
            )
            for after, other in pairs
        ]
        return found[0] | found[1]

    def refuse_other_titles(self, other: Scored) -> None:
        if self.titles != other.titles:
            raise UserError(
                f"{self.source} has {len(self.titles)} titles and {other.source} "
                f"{len(other.titles)}, and not the same ones in the same order: wanted runs that "
                f"were scored on the same. Score them with the same data files, --data.num_scored "
                f"and fractions that are held out."
            )


def read_scored(file: Path, side: str) -> Scored:
    """Returns what `base` or `tuned` weights made of the titles of a file.

    Raises:
        UserError: it is not there, or not such a file.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return counted(str(file), records, side)
    except FileNotFoundError as error:
        raise UserError(
            f"{file} is not there: wanted the titles that a run was scored on. Make it with "
            f"`python -m amazon_desc {file.stem} --config {file.parents[1] / 'config.yaml'}`."
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{file} is not what {file.stem} writes ({error!r}). Score the run again with "
            f"`python -m amazon_desc {file.stem} --config {file.parents[1] / 'config.yaml'}`."
        ) from error


def counted(source: str, records: Sequence[dict[str, Any]], side: str) -> Scored:
    written = [record[side] for record in records]
    titles = [record["title"] for record in records]
    texts, losses = TextScores(), TargetLoss()
    texts.update(
        titles,
        [of["description"] for of in written],
        [record["reference"] for record in records],
        [of["finish_reason"] == "stop" for of in written],
        [of["is_copied"] for of in written],
    )
    losses.update(
        *(
            torch.tensor([of[name] for of in written], dtype=torch.float64)
            for name in ("loss_sum", "num_targets", "num_right")
        )
    )
    return Scored(source, titles, texts.counted(), losses.counted())


def together(seeds: Sequence[Scored]) -> Scored:
    """Returns the means of what several seeds scored.

    Raises:
        UserError: they were not scored on the same titles.
    """
    first, *others = seeds
    for other in others:
        other.refuse_other_titles(first)
    texts, losses = Mean([of.texts for of in seeds]), Mean([of.losses for of in seeds])
    return Scored(f"{first.source} and others", first.titles, texts, losses)
