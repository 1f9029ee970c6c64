"""metrics.json -> the scores of each stage: values, intervals, differences, and of what.

In comes an entry of metrics.json, of today or of before intervals were kept, out go the numbers
that are there. What is no finite number is not there. Nothing is computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.report.values import entries, mapping, number, text

SIDES = ("base", "tuned")
STAGES = {"test": "test", "validate": "validation"}
"""Stages and what their titles are called; the one that says more comes first."""


class Interval(NamedTuple):
    """A score and, where it was measured, its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_bounds(self) -> bool:
        return self.low is not None and self.high is not None


class Difference(NamedTuple):
    """Tuned minus base on the same titles."""

    value: float
    low: float
    high: float
    p_value: float | None


@dataclass(frozen=True)
class StageScores:
    """What a stage of metrics.json holds."""

    sides: Mapping[str, Mapping[str, Interval]]
    """by side, and then by score"""
    compared: Mapping[str, Difference]
    num_titles: int | None
    num_targets: int | None
    num_resamples: int | None
    seed: int | None
    files: list[dict[str, str]]
    signatures: Mapping[str, str]
    decoding: Mapping[str, Any]

    def of(self, side: str, score: str) -> Interval | None:
        return self.sides[side].get(score)

    @property
    def has_intervals(self) -> bool:
        return any(found.has_bounds for side in SIDES for found in self.sides[side].values())

    def measured_the_same(self, other: StageScores) -> bool:
        """Whether both are known to be of the same titles: as many, out of the same files."""
        mine, others = (
            (scores.num_titles, scores.num_targets, [file["sha256"] for file in scores.files])
            for scores in (self, other)
        )
        return mine == others and self.num_titles is not None and bool(self.files)


def stages_of(metrics: Mapping[str, Any]) -> dict[str, StageScores]:
    """Returns the scores by stage; a stage without a single number is left out."""
    found = {stage: stage_of(mapping(metrics.get(stage))) for stage in STAGES}
    return {stage: scores for stage, scores in found.items() if any(scores.sides.values())}


def stage_of(entry: Mapping[str, Any]) -> StageScores:
    """Returns what an entry holds: {"base": {"loss": 3.1}, "tuned": {"loss": 2.6}, ...}."""
    measured = mapping(entry.get("measured_on"))
    return StageScores(
        sides={side: side_of(entry, side) for side in SIDES},
        compared=differences_of(mapping(entry.get("compared"))),
        num_titles=whole(measured.get("num_titles")),
        num_targets=whole(measured.get("num_targets")),
        num_resamples=whole(measured.get("num_resamples")),
        seed=whole(measured.get("seed")),
        files=[
            {key: text(mapping(file).get(key)) for key in ("use", "name", "sha256")}
            for file in entries(measured.get("files"))
        ],
        signatures={name: text(of) for name, of in mapping(entry.get("signatures")).items()},
        decoding=mapping(entry.get("decoding")),
    )


def side_of(entry: Mapping[str, Any], side: str) -> dict[str, Interval]:
    plain, found = mapping(entry.get(side)), {}
    intervals = mapping(mapping(entry.get("intervals")).get(side))
    for score in SCORES:
        of = mapping(intervals.get(score))
        value = number(of.get("value"))
        value = number(plain.get(score)) if value is None else value
        low, high = number(of.get("low")), number(of.get("high"))
        if value is not None:
            is_whole = low is not None and high is not None
            found[score] = Interval(value, low, high) if is_whole else Interval(value)
    return found


def differences_of(compared: Mapping[str, Any]) -> dict[str, Difference]:
    found = {}
    for score in SCORES:
        of = mapping(compared.get(score))
        value, low, high = (number(of.get(key)) for key in ("difference", "low", "high"))
        if value is not None and low is not None and high is not None:
            found[score] = Difference(value, low, high, number(of.get("p_value")))
    return found


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)
