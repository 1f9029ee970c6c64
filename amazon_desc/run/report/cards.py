"""Scored titles of runs -> cards: what each side wrote, and what is to be seen in it.

In come runs whose scored titles were kept, out go at most twenty titles of the first run that has
some, each with the real text and those of every run that wrote for it. Texts are cut, never edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.report.drawing import COLOURS
from amazon_desc.run.report.facts import RunFacts
from amazon_desc.run.report.figures import called
from amazon_desc.run.report.texts import Scored, Text, at_places, chosen, same_titles

MOST_CHARACTERS = 1_500
MOST_OF_A_TITLE = 300
REASONS = {
    "best": "one of the best",
    "worst": "one of the worst",
    "evenly": "",
}


class Written(NamedTuple):
    """A text of a card."""

    label: str
    kind: str
    """real, base or tuned"""
    text: str
    marks: list[str]
    """what is wrong with it"""
    note: str


class Card(NamedTuple):
    """A held-out title."""

    title: str
    reason: str
    written: list[Written]


def cards_of(runs: Sequence[RunFacts], stage: str) -> list[Card]:
    """Returns the cards of a stage; a title that another run did not write for lacks its texts."""
    first = next(index for index, run in enumerate(runs) if stage in run.overviews)
    file = runs[first].folder.scored(stage)
    titles = at_places(file, chosen(runs[first].overviews[stage]))
    wanted = {scored.key for _, scored in titles}
    of_runs = [
        same_titles(run.folder.scored(stage), wanted) if stage in run.overviews else {}
        for run in runs
    ]
    cards = []
    for reason, scored in titles:
        found = [of.get(scored.key) for of in of_runs]
        found[first] = scored
        cards.append(Card(cut(scored.title, MOST_OF_A_TITLE), REASONS[reason], texts(runs, found)))
    return cards


def texts(runs: Sequence[RunFacts], found: Sequence[Scored | None]) -> list[Written]:
    """Returns the real text and those of the runs; a base's that are the same stand once."""
    reference = next(scored.reference for scored in found if scored is not None)
    written = [Written("real text", "real", cut(reference), [], "")]
    bases = [scored.base for scored in found if scored is not None and scored.base is not None]
    is_one_base = len({base.description for base in bases}) == 1
    if is_one_base:
        written.append(text_of("base", "base", bases[0]))
    for index, scored in enumerate(found):
        if scored is None:
            continue
        if scored.base is not None and not is_one_base:
            written.append(text_of(called(runs, index, "base"), "base", scored.base))
        if scored.tuned is not None:
            written.append(
                text_of(called(runs, index, "tuned"), f"run{index % len(COLOURS)}", scored.tuned)
            )
    return written


def text_of(label: str, kind: str, text: Text) -> Written:
    marks = []
    if text.is_copied:
        marks.append("copied passage")
    if text.is_loop:
        marks.append("repeats itself")
    if text.finish_reason == "length":
        marks.append("cut off at its limit")
    notes = []
    if text.rouge is not None:
        notes.append(f"{SCORES[text.score].label} {text.rouge:.2f}")
    if text.num_tokens is not None:
        notes.append(f"{text.num_tokens:.0f} tokens")
    return Written(label, kind, cut(text.description), marks, ", ".join(notes))


def cut(text: str, most: int = MOST_CHARACTERS) -> str:
    """Returns a text of at most so many characters, and how many more there are."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"
