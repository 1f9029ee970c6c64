"""Runs -> the figures of a report: what is drawn, how it is called, and what it shows in words.

In come what is known of the runs, out go figures with a label for those who do not see them and a
caption. A figure of which nothing is there is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.report import drawing
from amazon_desc.run.report.curves import Curve, Histogram, thinned
from amazon_desc.run.report.drawing import COLOURS, DASHES, GREY, Dot, Line, Row
from amazon_desc.run.report.facts import RunFacts
from amazon_desc.run.report.score_names import AGAINST_REFERENCE, SHARES
from amazon_desc.run.report.scores import STAGES, Interval

MOST_POINTS = 200
NUM_BINS = 30
STEP = "optimizer step"

# A curve of its own: its name, heading, axis, and what it says.
SINGLE = (
    ("learning_rate", "Learning rate", "learning rate", "How large the steps were."),
    ("gradient_norm", "Gradient norm", "norm", "Before clipping; a sudden peak is a bad step."),
    ("tokens_per_second", "Speed", "tokens/s", "Without padding, and without validations."),
    ("mfu", "Use of the card", "share", "Share of the card's limit that training used."),
    ("peak_memory_gib", "Memory", "GiB", "The most that tensors held of the card's memory so far."),
)


class Figure(NamedTuple):
    """A figure of a page."""

    title: str
    svg: str
    label: str
    """what is on it, for those who do not see it"""
    caption: str


def colour_of(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def dashes_of(index: int) -> str:
    return DASHES[index % len(DASHES)]


def called(runs: Sequence[RunFacts], index: int, what: str) -> str:
    """Returns the name of a line: what it is, and of which run if there are several."""
    return what if len(runs) == 1 else f"{what}, run {index + 1}"


def curve_figures(runs: Sequence[RunFacts]) -> list[Figure]:
    """Returns losses, and each other curve that is there."""
    loss = loss_figure(runs)
    found = [] if loss is None else [loss]
    for name, title, axis, caption in SINGLE:
        lines, said = [], []
        for index, run in enumerate(runs):
            curve = run.log.curves.get(name)
            if curve is not None:
                label = called(runs, index, axis)
                line = line_of(curve, label, colour_of(index), dashes_of(index))
                lines.append(line)
                said.append(f"{label} from {short(curve.values[0])} to {short(curve.values[-1])}")
        if lines:
            svg = drawing.chart(name.replace("_", "-"), lines, STEP, axis)
            found.append(Figure(title, svg, f"{title}: {'; '.join(said)}.", caption))
    return found


def loss_figure(runs: Sequence[RunFacts]) -> Figure | None:
    lines, said, captions = [], [], []
    for index, run in enumerate(runs):
        colour = colour_of(index)
        train, held_out = (run.log.curves.get(f"{of}_loss") for of in ("train", "validation"))
        for curve, what, dashes, marker in (
            (train, "training", ":", ""),
            (held_out, "validation", "-", "o"),
        ):
            if curve is not None:
                label = called(runs, index, what)
                lines.append(line_of(curve, label, colour, dashes, marker))
                said.append(f"{label} from {curve.values[0]:.3f} to {curve.values[-1]:.3f}")
        if held_out is not None:
            captions.append(called(runs, index, lowest(held_out)) + ".")
    if not lines:
        return None
    caption = " ".join(captions) + " Validation is on products that were not trained on."
    svg = drawing.chart("loss", lines, STEP, "nats a target token")
    return Figure("Loss", svg, f"Loss: {'; '.join(said)}.", caption.strip())


def lowest(curve: Curve) -> str:
    """Returns where a validation loss was lowest, and whether it rose after that."""
    value = min(curve.values)
    place = curve.values.index(value)
    found = f"Lowest validation loss: {value:.3f} at step {curve.steps[place]:,}"
    is_last = place == len(curve.values) - 1
    return found if is_last else f"{found}, higher after it; the adapter is that of the lowest"


def line_of(curve: Curve, label: str, colour: str, dashes: str = "-", marker: str = "") -> Line:
    points, _ = thinned(curve, MOST_POINTS)
    few = marker if len(points.steps) <= NUM_BINS else ""
    return Line(label, points.steps, points.values, colour, dashes, few)


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def length_figures(runs: Sequence[RunFacts], stage: str | None) -> list[Figure]:
    """Returns how long the data's examples and the written texts are."""
    return [
        figure for figure in (data_lengths(runs), text_lengths(runs, stage)) if figure is not None
    ]


def data_lengths(runs: Sequence[RunFacts]) -> Figure | None:
    """Prompts and descriptions of the data; of several runs with other data, whole examples."""
    of = [run.log.lengths for run in runs]
    if all(lengths == of[0] for lengths in of):
        parts = (("prompt_tokens", "prompt"), ("target_tokens", "description"))
        found = [(of[0][name], what) for name, what in parts if name in of[0]]
    else:
        found = [
            (lengths["example_tokens"], f"example, run {index + 1}")
            for index, lengths in enumerate(of)
            if "example_tokens" in lengths
        ]
    found = [(of, what) for of, what in found if drawing.can_be_drawn(*of.ends, *of.counts)]
    if not found:
        return None
    lines, said = [], []
    for index, (histogram, what) in enumerate(found):
        lines.append(outline(histogram, what, index))
        mean, longest = f"{histogram.mean:.0f}", f"{histogram.longest:,.0f}"
        said.append(f"{what} {mean} tokens on average, at most {longest}")
    caption = (
        f"{found[0][0].num:,} usable pairs of title and description, held-out ones too: "
        f"{'; '.join(said)}."
    )
    svg = drawing.stairs("data-lengths", lines, "tokens", "pairs a token of length")
    return Figure("Lengths of the data", svg, f"Lengths: {'; '.join(said)}.", caption)


def outline(histogram: Histogram, label: str, index: int) -> Line:
    """Returns a histogram as pairs a token of length: its bins are not all of one width."""
    edges = [min(0.0, histogram.ends[0]), *histogram.ends]
    bins = zip(histogram.counts, edges, histogram.ends, strict=False)
    rates = [count / max(end - start, 1e-9) for count, start, end in bins]
    first = next((number for number, rate in enumerate(rates) if rate > 0), 0)
    return Line(label, edges[first:], rates[first:], colour_of(index), dashes_of(index))


def text_lengths(runs: Sequence[RunFacts], stage: str | None) -> Figure | None:
    """Words of the references and of what was written for the same titles."""
    words: list[tuple[str, Counter[int], str, str]] = []
    for index, run in enumerate(runs):
        overview = run.overviews.get(stage or "")
        for side in ("reference", "base", "tuned") if overview else ():
            of = overview.words.get(side) if overview else None
            label = "real" if side == "reference" else side
            if not of or (side != "tuned" and any(of == found for _, found, *_ in words)):
                continue  # the same titles' real texts, or the same base's
            colour = colour_of(index) if side == "tuned" else GREY
            dashes = {"reference": "-", "base": ":", "tuned": dashes_of(index)}[side]
            name = called(runs, index, label) if side == "tuned" else label
            words.append((name, of, colour, dashes))
    if not words:
        return None
    edges = bins([of for _, of, *_ in words])
    lines = [
        Line(label, edges, shares(of, edges), colour, dashes) for label, of, colour, dashes in words
    ]
    said = [f"{label} {mean_of(of):.0f} words on average" for label, of, *_ in words]
    caption = f"Held-out titles: {'; '.join(said)}."
    svg = drawing.stairs("text-lengths", lines, "words", "share of texts")
    return Figure("Lengths of the texts", svg, f"Lengths of texts: {'; '.join(said)}.", caption)


def bins(counters: Sequence[Counter[int]]) -> list[float]:
    """Returns the edges of bins of one width for all, up to the longest text."""
    longest = max(max(counter) for counter in counters)
    width = max(1, -(-(longest + 1) // NUM_BINS))
    return [float(width * number) for number in range(-(-(longest + 1) // width) + 1)]


def shares(counter: Counter[int], edges: Sequence[float]) -> list[float]:
    width, counts = edges[1], [0] * (len(edges) - 1)
    for words, num_texts in counter.items():
        counts[int(words // width)] += num_texts
    return [count / counter.total() for count in counts]


def mean_of(counter: Counter[int]) -> float:
    return sum(words * num for words, num in counter.items()) / counter.total()


def score_figures(runs: Sequence[RunFacts], stage: str) -> list[Figure]:
    """Returns the scores of a stage with their intervals, in two figures."""
    found = []
    for number, (title, names, is_share, caption) in enumerate(
        (
            ("Against the real texts", AGAINST_REFERENCE, False, "Each row has its own scale."),
            ("The texts themselves", SHARES, True, "Shares, from 0 to 1."),
        )
    ):
        rows = [
            Row(SCORES[name].label, dots) for name in names if (dots := dots_of(runs, stage, name))
        ]
        if rows:
            svg = drawing.whiskers(f"{stage}-scores-{number}", rows, is_share)
            label = f"{title}, {STAGES[stage]} titles: " + "; ".join(map(told, rows)) + "."
            more = " A line is the 95 % interval." if any(map(has_whiskers, rows)) else ""
            found.append(Figure(title, svg, label, f"{caption}{more}"))
    return found


def has_whiskers(row: Row) -> bool:
    return any(dot.low is not None for dot in row.dots)


def told(row: Row) -> str:
    return f"{row.label} " + ", ".join(f"{dot.label} {short(dot.value)}" for dot in row.dots)


def dots_of(runs: Sequence[RunFacts], stage: str, score: str) -> list[Dot]:
    """Returns the dots of a score, of each side once: runs of one base have it in common."""
    found: list[Dot] = []
    for label, of, index in columns_of(runs, stage, score):
        if of is not None and drawing.can_be_drawn(*of):
            colour = GREY if index is None else colour_of(index)
            found.append(Dot(label, of.value, of.low, of.high, colour))
    return found


def columns_of(
    runs: Sequence[RunFacts], stage: str, score: str
) -> list[tuple[str, Interval | None, int | None]]:
    """Returns label and score of each side of each run that was measured.

    The number says of which run the tuned weights are; a base's has none.
    """
    measured = [(index, run.stages[stage]) for index, run in enumerate(runs) if stage in run.stages]
    is_one_base = all(
        scores.sides["base"] == measured[0][1].sides["base"] for _, scores in measured
    )
    found: list[tuple[str, Interval | None, int | None]] = []
    for number, (index, scores) in enumerate(measured):
        if number == 0 or not is_one_base:
            label = "base" if is_one_base else called(runs, index, "base")
            found.append((label, scores.of("base", score), None))
        found.append((called(runs, index, "tuned"), scores.of("tuned", score), index))
    return found
