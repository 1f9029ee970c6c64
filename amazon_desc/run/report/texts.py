"""scored/STAGE.jsonl -> the titles that a report shows, and how long all texts are.

In comes a file with a held-out title a line, out go twenty of them, chosen by their place and by
their score alone, and counts of words. A file of any length is read twice, line by line, and only
what is shown is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.run.report.values import line_of, mapping, number, text, truth

NUM_BEST = NUM_WORST = 5
NUM_EVENLY = 10
RANKED_BY = ("rougeL", "rouge1")


class Text(NamedTuple):
    """What one side wrote for a title; None where the file does not say it."""

    description: str
    finish_reason: str
    num_tokens: float | None
    rouge: float | None
    score: str
    """by which of RANKED_BY that is; the first that is there"""
    is_loop: bool | None
    is_copied: bool | None


class Scored(NamedTuple):
    """A held-out title; a side that the file lacks is None."""

    title: str
    reference: str
    base: Text | None
    tuned: Text | None

    @property
    def key(self) -> tuple[str, str]:
        return self.title, self.reference


@dataclass
class Overview:
    """All titles of a file: their number, words of their texts, and the tuned texts' scores."""

    num_titles: int = 0
    damaged: list[int] = field(default_factory=list)
    """places of lines that cannot be read"""
    words: dict[str, Counter[int]] = field(default_factory=dict)
    """by whose: reference, base, tuned; how many texts have so many words"""
    scores: list[tuple[float, int]] = field(default_factory=list)
    """of the tuned texts that have one, with their place in the file"""


def overview_of(file: Path) -> Overview:
    """Returns what is known of all titles of a file.

    Raises:
        OSError: it cannot be read.
    """
    found = Overview()
    for place, scored in enumerate(read_scored(file)):
        if scored is None:
            found.damaged.append(place)
            continue
        found.num_titles += 1
        written = {"base": scored.base, "tuned": scored.tuned}
        texts = {"reference": scored.reference}
        texts |= {side: of.description for side, of in written.items() if of is not None}
        for whose, words in texts.items():
            found.words.setdefault(whose, Counter())[len(words.split())] += 1
        if scored.tuned is not None and scored.tuned.rouge is not None:
            found.scores.append((scored.tuned.rouge, place))
    return found


def chosen(overview: Overview) -> dict[int, str]:
    """Returns the places of the titles to show, and why: best, worst, or evenly over the file.

    Best and worst are of the tuned text. Equal scores go by their place. Of 6 titles with the
    scores 3 1 4 1 5 9, two best, one worst and two evenly: {5: best, 4: best, 1: worst, 0 and 2:
    evenly}.
    """
    ranked = [place for _, place in sorted(overview.scores, key=lambda of: (-of[0], of[1]))]
    num_best = min(NUM_BEST, (len(ranked) + 1) // 2)
    num_worst = min(NUM_WORST, len(ranked) - num_best)
    reasons = dict.fromkeys(ranked[:num_best], "best")
    reasons |= dict.fromkeys(ranked[len(ranked) - num_worst :], "worst")
    taken = {*reasons, *overview.damaged}
    num_lines = overview.num_titles + len(overview.damaged)
    others = [place for place in range(num_lines) if place not in taken]
    num_evenly = min(NUM_BEST + NUM_WORST + NUM_EVENLY - len(reasons), len(others))
    evenly = (others[index * len(others) // num_evenly] for index in range(num_evenly))
    return {**reasons, **dict.fromkeys(evenly, "evenly")}


def at_places(file: Path, places: dict[int, str]) -> list[tuple[str, Scored]]:
    """Returns the titles at these places, best first, worst last, each with its reason."""
    found = {
        place: scored
        for place, scored in enumerate(read_scored(file))
        if place in places and scored is not None
    }
    order = {reason: number for number, reason in enumerate(("best", "evenly", "worst"))}
    best_first = [place for place, reason in places.items() if reason != "evenly"]
    best_first += sorted(place for place, reason in places.items() if reason == "evenly")
    best_first.sort(key=lambda place: order[places[place]])
    return [(places[place], found[place]) for place in best_first if place in found]


def same_titles(file: Path, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Scored]:
    """Returns what another run wrote for these titles; of one that stands twice, the first."""
    found: dict[tuple[str, str], Scored] = {}
    for scored in read_scored(file, lambda of: of.key in wanted):
        if scored is not None:
            found.setdefault(scored.key, scored)
    return found


def read_scored(
    file: Path, is_wanted: Callable[[Scored], bool] = lambda of: True
) -> Iterator[Scored | None]:
    """Yields the titles of a file; None for a line that is damaged or has no title."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                scored = scored_of(line_of(line))
                if scored is None or is_wanted(scored):
                    yield scored


def scored_of(line: dict[str, Any] | None) -> Scored | None:
    title = text((line or {}).get("title"))
    if not line or not title:
        return None
    return Scored(
        title, text(line.get("reference")), text_of(line.get("base")), text_of(line.get("tuned"))
    )


def text_of(value: Any) -> Text | None:
    side = mapping(value)
    if not isinstance(side.get("description"), str):
        return None
    scores = {name: of for name in RANKED_BY if (of := number(side.get(name))) is not None}
    score = next(iter(scores), "")
    return Text(
        description=side["description"],
        finish_reason=text(side.get("finish_reason")),
        num_tokens=number(side.get("num_tokens")),
        rouge=scores.get(score),
        score=score,
        is_loop=truth(side.get("is_loop")),
        is_copied=truth(side.get("is_copied")),
    )
