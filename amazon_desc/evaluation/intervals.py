"""How sure a score is: bootstrap over titles, and the paired bootstrap of two scores.

In come a score and what it is when the titles are drawn anew, out go intervals and p-values. The
method is that of sacrebleu's significance.py (Koehn 2004, https://aclanthology.org/W04-3250), with
its seed and number of draws, so that its numbers are ours. What a score is, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 1000
SEED = 12345
"""Those of sacrebleu. All scores are found on the same draws: comparisons are paired."""

_MAX_DRAWN = 2_000_000  # at a time, which bounds the memory


class Interval(NamedTuple):
    """A score, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A difference of two scores on the same titles, the bounds of its 95 % interval, and how
    likely one as large is by chance."""

    difference: float
    low: float
    high: float
    p_value: float


def draws(num_titles: int) -> Iterator[np.ndarray]:
    """Yields NUM_RESAMPLES rows (R, N), in several parts: how often a draw has each title.

    Three titles, of which 2, 0 and 2 are drawn -> [1, 0, 2]
    """
    generator = np.random.default_rng(SEED)
    at_a_time = max(1, min(NUM_RESAMPLES, _MAX_DRAWN // max(1, num_titles)))
    for first in range(0, NUM_RESAMPLES, at_a_time):
        num_rows = min(at_a_time, NUM_RESAMPLES - first)
        drawn = generator.choice(num_titles, size=(num_rows, num_titles), replace=True)
        drawn += num_titles * np.arange(num_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_titles)
        yield counts.reshape(num_rows, num_titles).astype(np.float64)


def bounds(resampled: np.ndarray, centre: float | None = None) -> tuple[float, float]:
    """Returns the bounds of 95 % of the values: of a thousand the 26th from below and from above.

    With a `centre`, they are moved so that it lies where the values' mean does: for a score that
    drawing titles with repeats lowers by itself. [1 .. 40] -> (2, 39); with centre 30.5 (12, 49)

    One that is not finite among the values makes both NaN.
    """
    if not np.isfinite(resampled).all():
        return float("nan"), float("nan")
    values = np.sort(resampled)
    place = len(values) // 40
    shift = 0.0 if centre is None else centre - float(values.mean())
    return float(values[place]) + shift, float(values[-place - 1]) + shift


def p_value(differences: np.ndarray, difference: float) -> float:
    """Returns how likely a difference as large is where there is none.

    Counted are the draws whose difference is farther from the mean of all than `difference` is
    from 0, signs left out: differences [1, -1, 5, -5], whose sizes are 3 in the mean, and the
    difference 1.5 -> (2 + 1) / (4 + 1)

    Where no draw has any, it is 1: sacrebleu, which counts none of them either, says 1 / 1001.
    """
    if not (np.isfinite(differences).all() and np.isfinite(difference)):
        return float("nan")
    if not (differences.any() or difference):
        return 1.0
    sizes = np.abs(differences)
    num_larger = int(np.sum(sizes - sizes.mean() > abs(difference)))
    return (num_larger + 1) / (len(differences) + 1)


Scores = Mapping[str, float]
Resampled = Mapping[str, np.ndarray]
"""Scores (NUM_RESAMPLES,) of all draws by their names."""


def resampled(
    num_titles: int, scores_of: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns each score of all draws; `scores_of`: those (R,) of some draws (R, N)."""
    parts = [scores_of(drawn) for drawn in draws(num_titles)] if num_titles else [{}]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def intervals(
    scores: Scores, drawn: Resampled, centred: Collection[str] = ()
) -> dict[str, Interval]:
    """Returns each score with its interval, which is moved to its value for those `centred`."""
    return {
        name: Interval(value, *bounds(drawn[name], value if name in centred else None))
        for name, value in scores.items()
    }


def comparisons(
    after: tuple[Scores, Resampled],
    before: tuple[Scores, Resampled],
    centred: Collection[str] = (),
) -> dict[str, Comparison]:
    """Returns how each score that both sides have differs: `after` minus `before`."""
    found = {}
    for name in [name for name in after[0] if name in before[0]]:
        difference = after[0][name] - before[0][name]
        with np.errstate(invalid="ignore"):  # of two that are infinite
            differences = after[1][name] - before[1][name]
        low, high = bounds(differences, difference if name in centred else None)
        found[name] = Comparison(difference, low, high, p_value(differences, difference))
    return found
