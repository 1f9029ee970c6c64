"""TensorBoard's event files -> curves over optimizer steps, and histograms of lengths.

In comes RUN/tensorboard, out goes what is in it and in the folders inside it: a folder such as
`train` is a series of the same tag. `CURVES` and `LENGTHS` say which are read.
Event files are read, never written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from amazon_desc.run.logger import LENGTHS_OF_TEXTS, chart_of


class Place(NamedTuple):
    """Where a curve is found: a tag, and the folder of its series; "" is tensorboard/ itself."""

    tag: str
    series: str = ""


def places_of(name: str) -> tuple[Place, Place]:
    """Returns where a number is by the name it is logged under: today, and in older runs."""
    series, chart = chart_of(name)
    return Place(chart, series), Place(name)


CURVES = {
    "train_loss": places_of("train/loss"),
    "validation_loss": places_of("validation/loss"),
    "validation_perplexity": places_of("validation/perplexity"),
    "learning_rate": places_of("train/learning_rate"),
    "gradient_norm": places_of("train/gradient_norm"),
    "tokens_per_second": places_of("train/tokens_per_second"),
    "mfu": places_of("train/mfu"),
    "peak_memory_gib": places_of("train/peak_memory_gib"),
    "epoch": places_of("epoch"),
}
"""Each curve, and where it is: the first place that has points is taken."""

LENGTHS = {
    name: (Place(f"{LENGTHS_OF_TEXTS}/{name}"), Place(f"data/{name}"))
    for name in ("prompt_tokens", "target_tokens", "example_tokens")
}


class Curve(NamedTuple):
    """Points in the order of their steps; the first optimizer step is 1."""

    steps: list[int]
    values: list[float]


class Histogram(NamedTuple):
    """Counts of lengths up to each end."""

    ends: list[float]
    counts: list[float]
    num: int
    mean: float
    longest: float


@dataclass
class Log:
    """What was logged, by the names of `CURVES` and `LENGTHS`."""

    curves: dict[str, Curve] = field(default_factory=dict)
    lengths: dict[str, Histogram] = field(default_factory=dict)
    num_others: int = 0
    """curves that are in the files and in no table here"""
    num_unread: int = 0
    """folders of event files that could be read in part only"""


def read_log(folder: Path) -> Log:
    """Returns the curves and histograms of a folder of event files; an empty log of none."""
    log, scalars, histograms = Log(), {}, {}
    for series in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        name = series.relative_to(folder).as_posix()
        is_whole = add_series(series, "" if name == "." else name, scalars, histograms)
        log.num_unread += not is_whole
    known = {place for places in CURVES.values() for place in places}
    log.num_others = len(set(scalars) - known)
    for curve, places in CURVES.items():
        found = next((scalars[place] for place in places if place in scalars), None)
        if found is not None:
            log.curves[curve] = found
    log.lengths = {
        name: histograms[place]
        for name, places in LENGTHS.items()
        for place in reversed(places)
        if place in histograms
    }
    return log


def add_series(
    folder: Path, series: str, scalars: dict[Place, Curve], histograms: dict[Place, Histogram]
) -> bool:
    """Adds what the event files of one folder hold; says whether all of it could be read."""
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    kept = dict.fromkeys(accumulator.DEFAULT_SIZE_GUIDANCE, 1) | {accumulator.SCALARS: 0}  # all
    events = accumulator.EventAccumulator(str(folder), size_guidance=kept)
    is_whole = True
    try:
        events.Reload()
    except (OSError, DecodeError):  # what came before is there; a file's cut end raises nothing
        is_whole = False
    tags = events.Tags()
    for tag in tags[accumulator.SCALARS]:
        points = [(event.step + 1, event.value) for event in events.Scalars(tag)]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            steps, values = map(list, zip(*sorted(points, key=lambda of: of[0]), strict=True))
            scalars[Place(tag, series)] = Curve(steps, values)
    for tag in tags[accumulator.HISTOGRAMS]:
        shown = events.Histograms(tag)
        if not shown:  # a run that was resumed has taken them back
            continue
        of = shown[-1].histogram_value
        if of.num > 0:
            ends, counts = list(of.bucket_limit), list(of.bucket)
            mean = of.sum / of.num
            histograms[Place(tag, series)] = Histogram(ends, counts, int(of.num), mean, of.max)
    return is_whole


def thinned(curve: Curve, most: int) -> tuple[Curve, int]:
    """Returns a curve of at most so many points, and of how many points each is the mean.

    Steps 1 2 3 4 5, values 1 3 5 7 9, most 3 -> steps 2 4 5, values 2 6 9, of 2 each.
    """
    width = -(-len(curve.steps) // most)
    means = [sum(part) / len(part) for part in parts(curve.values, width)]
    return Curve([int(part[-1]) for part in parts(curve.steps, width)], means), width


def parts(values: list[Any], width: int) -> Iterator[list[Any]]:
    return (values[start : start + width] for start in range(0, len(values), width))
