"""Scores -> the sentences that a reader wants first: did it learn, and how sure is that.

In come the scores of a stage, out goes a verdict on the loss, one on the texts, and what is to be
known before either is believed. A difference is called one only where its interval excludes none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.report.facts import RunFacts
from amazon_desc.run.report.score_names import shown_value
from amazon_desc.run.report.scores import SIDES, STAGES, Difference, Interval, StageScores

Mood = Literal["good", "bad", "open"]
SURE = 0.05
FEW_TITLES = 50
# From which share on a reader is warned, or below which.
WARNED_ABOVE = {
    "loops": (0.05, "of the tuned texts repeat themselves"),
    "copied": (0.05, "of the tuned texts have passages of training descriptions"),
    "invented": (0.10, "of the numbers and sizes in the tuned texts are invented"),
}
ENDED_BELOW = 0.90


class Sentence(NamedTuple):
    """A sentence, and whether it is good news; `open` where that cannot be said."""

    mood: Mood
    text: str


def verdicts_on(run: RunFacts) -> list[Sentence]:
    """Returns what is to be said of a run, the most important sentence first."""
    stage = run.best_stage
    if stage is None:
        return [
            Sentence(
                "open",
                "Nothing was measured: how good the tuned weights are is not known. The command "
                "that validates is below.",
            )
        ]
    scores = run.stages[stage]
    found = [sentence for score in ("loss", "rougeL") if (sentence := on(scores, score, stage))]
    if not found:
        found = [Sentence("open", "Base and tuned weights were not both measured.")]
    return [*found, *warnings_of(scores)]


def on(scores: StageScores, score: str, stage: str) -> Sentence | None:
    """Returns what a score says of tuned against base, or None where one of them lacks it.

    The tuned weights are better than the base on loss: 3.010 [2.950, 3.070] against 3.770
    [3.700, 3.840], p < 0.001, on 361 validation titles.
    """
    base, tuned = (scores.of(side, score) for side in SIDES)
    if base is None or tuned is None:
        return None
    label, change = SCORES[score].label, scores.compared.get(score)
    numbers = f"{with_interval(score, tuned)} against {with_interval(score, base)}"
    of = "" if scores.num_titles is None else f", on {counted(scores.num_titles, stage)}"
    mood = mood_of(score, base, tuned, change)
    if not is_sure(change):
        why = unsure_because(score, base, tuned, change)
        direction = "better" if mood == "good" else "worse" if mood == "bad" else "other"
        if mood == "open":
            begin = f"On {label}, nobody can say whether the tuned weights are better than the base"
        else:
            begin = f"On {label}, the tuned weights look {direction} than the base"
        return Sentence("open", f"{begin}: {numbers}{of}. {why}")
    word = "better" if mood == "good" else "worse"
    p_value = shown_p(change.p_value if change else None)
    text = f"The tuned weights are {word} than the base on {label}: {numbers}{p_value}{of}."
    return Sentence(mood, text)


def mood_of(score: str, base: Interval, tuned: Interval, change: Difference | None) -> Mood:
    difference = tuned.value - base.value if change is None else change.value
    if difference == 0 or (change is not None and not is_sure(change)):
        return "open"
    return "good" if (difference < 0) == (SCORES[score].better == "lower") else "bad"


def is_sure(change: Difference | None) -> bool:
    """Whether a difference is more than chance: by its interval, and by its p if there is one."""
    if change is None or change.low <= 0 <= change.high:
        return False
    return change.p_value is None or change.p_value < SURE


def unsure_because(score: str, base: Interval, tuned: Interval, change: Difference | None) -> str:
    if change is not None:
        difference = f"{shown_value(score, change.value, '+')} {bounds(score, change)}"
        return f"The difference, {difference}{shown_p(change.p_value)}, may be chance."
    if not (base.has_bounds and tuned.has_bounds):
        return "How sure that is was not measured."
    assert base.low is not None and base.high is not None  # noqa: PT018 (for the type checker)
    assert tuned.low is not None and tuned.high is not None  # noqa: PT018
    apart = tuned.high < base.low or base.high < tuned.low
    found = "The intervals do not overlap" if apart else "The intervals overlap"
    return f"{found}; the same titles were not compared in pairs."


def warnings_of(scores: StageScores) -> list[Sentence]:
    """Returns what of the tuned texts a reader has to know, whatever the scores say."""
    found = []
    for score, (limit, what) in WARNED_ABOVE.items():
        of = scores.of("tuned", score)
        if of is not None and of.value > limit:
            found.append(Sentence("bad", f"{of.value:.0%} {what}.".replace("%", " %")))
    ended = scores.of("tuned", "ended")
    if ended is not None and ended.value < ENDED_BELOW:
        cut = f"{1 - ended.value:.0%}".replace("%", " %")
        found.append(Sentence("bad", f"{cut} of the tuned texts were cut off at their limit."))
    if scores.num_titles is not None and scores.num_titles < FEW_TITLES:
        few = f"Only {scores.num_titles} titles were scored: another few could say something else."
        found.append(Sentence("open", few))
    return found


def beside_each_other(runs: Sequence[RunFacts]) -> Sentence:
    """Returns which of several runs has the lowest loss, as far as that can be said."""
    stage = next((s for s in STAGES if all(s in run.stages for run in runs)), None)
    of = [(run.stages[stage].of("tuned", "loss") if stage else None) for run in runs]
    losses = [loss for loss in of if loss is not None]
    if stage is None or len(losses) < len(runs):
        return Sentence("open", "The runs were not all measured: they cannot be compared.")
    order = sorted(range(len(runs)), key=lambda index: losses[index].value)
    first, second = order[0], order[1]
    numbers = (
        f"{with_interval('loss', losses[first])} against {with_interval('loss', losses[second])} "
        f"of run {second + 1}"
    )
    scores = [run.stages[stage] for run in runs]
    if not all(scores[0].measured_the_same(other) for other in scores[1:]):
        return Sentence(
            "open",
            f"Run {first + 1} has the lowest {STAGES[stage]} loss, {numbers}; but it is not known "
            f"to be of the same titles, and then it does not compare.",
        )
    best, other = losses[first], losses[second]
    if best.high is None or other.low is None:
        tail = "How sure that is was not measured."
    elif best.high < other.low:
        tail = "The intervals do not overlap."
    else:
        tail = "The intervals overlap: it may be chance."
    text = f"Run {first + 1} has the lowest {STAGES[stage]} loss: {numbers}. {tail}"
    return Sentence("good" if "do not overlap" in tail else "open", text)


def with_interval(score: str, of: Interval) -> str:
    """Returns a score with its interval: 3.010 [2.950, 3.070]."""
    value = shown_value(score, of.value)
    return f"{value} {bounds(score, of)}" if of.has_bounds else value


def bounds(score: str, of: Interval | Difference) -> str:
    return f"[{shown_value(score, of.low)}, {shown_value(score, of.high)}]"


def shown_p(p_value: float | None) -> str:
    """Returns what follows a comparison: ", p = 0.020", or nothing where it was not computed."""
    if p_value is None or not math.isfinite(p_value):
        return ""
    return ", p < 0.001" if p_value < 0.001 else f", p = {p_value:.3f}"


def counted(num_titles: int, stage: str) -> str:
    return f"{num_titles:,} {STAGES[stage]} title{'' if num_titles == 1 else 's'}"
