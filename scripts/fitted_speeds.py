"""How fast cards are alone and together, fitted to what was measured.

In comes measured_speeds.json, whose rows each have a commit and a command; out come the speed of a
card, what cards lose together, and a sentence for each of these numbers: fitted, or assumed. What
was not measured of a card is reckoned by card_speeds.py, or assumed as it says here.
"""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from card_speeds import CARDS, WRITTEN_LAYER_SECONDS, Work, fused_seconds
from estimated_rows import FILL, MEAN_CONTEXT, TARGET_SHARE
from numpy.typing import NDArray
from random_base import SHAPES
from reckoned_times import Links, Speed, all_reduce_seconds, expected_slowest
from transformers import AutoConfig

from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.cost.shape import num_lora_weights, shape_of
from amazon_desc.model.plan import Task
from amazon_desc.support.errors import UserError

MEASURED = Path(__file__).with_name("measured_speeds.json")

# Where nothing was measured on several cards.
JOINT_SECONDS = 3e-4  # some launches, and two sums of a few numbers
SPREAD = 0.01  # single cards were seen to differ by 3 %
TEXTS_AT_A_TIME = 1024
# A ring cannot be faster than NVLink 4 lets a card send: 900 GB/s in both directions together.
WIRE_BYTES = 450e9
# By which share a benchmark's speed differs when it is run again, on the same cards: assumed.
NOISE = 0.002
MEASURED_RANK = 16  # LoRA's, in all rows


class Row(NamedTuple):
    """A measured speed: what was done, with how many cards, at which commit, by which command."""

    work: str
    base: str
    card: str
    num_cards: int
    tokens_per_second: float
    """of all cards together: trained without padding, or written"""
    commit: str
    command: str
    rank_tokens: int = 0
    """of a step on each card, with padding"""
    dropout: float = 0.0
    """of LoRA"""
    new_tokens: int = 0
    """of a text"""

    @property
    def step_seconds(self) -> float:
        return self.num_cards * self.rank_tokens * FILL / self.tokens_per_second


class Fitted(NamedTuple):
    """The speed of cards, the bandwidth of their ring, and where each number is from."""

    speed: Speed
    links: Links
    sources: dict[str, str]
    checked: list[str]
    """what was measured on several cards, beside what the fitted numbers say"""


def read_rows(path: Path = MEASURED) -> list[Row]:
    """Returns the measured speeds.

    Raises:
        UserError: the file is not there, or a row lacks a field or has an unknown one.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: a JSON list of measured speeds was wanted: {error}") from error
    found = []
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        try:
            found.append(Row(**row))
        except TypeError as error:
            raise UserError(f"{place}: wanted {', '.join(Row._fields)}: {error}") from error
        tokens = found[-1].rank_tokens if found[-1].work == "training" else found[-1].new_tokens
        if found[-1].base not in SHAPES or min(tokens, *found[-1][3:5]) <= 0:
            shapes = ", ".join(SHAPES)
            raise UserError(f"{place}: wanted a base of {shapes}, and numbers above 0: {row}")
    return found


def task_of(base: str, dropout: float, rank: int) -> Task:
    kind, settings = SHAPES[base]
    config = AutoConfig.for_model(kind, **settings)
    lora = LoraSettings(r=rank, alpha=2 * rank, dropout=dropout)
    return Task(config, lora, "nf4", torch.bfloat16, row_tokens=2048, obstacle=None)


def gradient_bytes(task: Task) -> int:
    """Returns what cards exchange: a number in float32 for each that is trained."""
    return 4 * num_lora_weights(shape_of(task.config), task.lora)


# A card alone


def fit_alone(rows: list[Row], task: Task, card: str) -> tuple[float, float, str]:
    """Returns the seconds of a step and of a token on one card, and where they are from.

    Two lengths of a step decide both; one decides the second, and the first is that of layers that
    begin and end. 0.021 s for 2,048 tokens, 0.151 s for 16,384 -> 0.0024 s and 9.07 us
    """
    reckoned = reckoned_alone(task, card)
    alone = [row for row in rows if row.num_cards == 1]
    if not alone:
        return *reckoned, "reckoned by card_speeds.py, not measured"
    tokens = np.array([row.rank_tokens for row in alone], dtype=float)
    seconds = np.array([row.step_seconds for row in alone])
    said = f"measured at {' and '.join(f'{n:,.0f}' for n in np.unique(tokens))} tokens a step"
    if len(np.unique(tokens)) > 1:
        design = np.stack([np.ones_like(tokens), tokens], axis=1) / seconds[:, None]
        of_step, of_token = np.linalg.lstsq(design, np.ones_like(seconds))[0]
        if of_step >= 0:
            return float(of_step), float(of_token), said
    of_step = min(reckoned[0], float(seconds.min()) / 2)
    said += ", the time of a step alone by card_speeds.py"
    return of_step, float(np.mean((seconds - of_step) / tokens)), said


def reckoned_alone(task: Task, card: str) -> tuple[float, float]:
    few, many = (
        fused_seconds(task, Work(num, FILL * TARGET_SHARE, MEAN_CONTEXT), CARDS[card], True, "none")
        for num in (2048, 16_384)
    )
    of_token = (many - few) / (16_384 - 2048)
    return few - 2048 * of_token, of_token


# Several cards


def fit_together(
    rows: list[Row], alone: Speed, links: Links, gradient_bytes: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns what cards lose together, of `joint_seconds`, `spread` and `inside_bytes`.

    What a step takes longer on n cards is joint + spread * slowest(n) * alone + bytes / bandwidth:
    three numbers, fitted by least squares of the relative error, none below what is possible. They
    are taken in that order, as many as rows tell apart; the rest stays as it is given.

    Rows of 2 cards tell the first alone; of 2 and 4 cards also the second; of two lengths of a
    step, short ones above all, the third.
    """
    given = {
        "joint_seconds": alone.joint_seconds,
        "spread": alone.spread,
        "inside_bytes": links.inside_bytes,
    }
    names = list(given)
    said = dict.fromkeys(names, "assumed")
    some = [row for row in rows if 1 < row.num_cards <= links.cards_a_host]
    if not some:
        return given, said
    weights = 1 / np.array([row.step_seconds for row in some])
    design = np.array([effects(row, alone, gradient_bytes) for row in some])
    # Of a step that is longer than alone, all but what messages without a length take.
    empty = np.array([all_reduce_seconds(0, row.num_cards, links) for row in some])
    more = np.array([row.step_seconds - alone.computing(row.rank_tokens) for row in some]) - empty
    lowest = np.array([0.0, 0.0, 1 / WIRE_BYTES])
    values = np.array([given["joint_seconds"], given["spread"], 1 / given["inside_bytes"]])
    fitted = told_apart(design * weights[:, None], values)
    rest = [i for i in range(3) if i not in fitted]
    wanted = (more - design[:, rest] @ values[rest]) * weights
    values[fitted] = bounded(design[:, fitted] * weights[:, None], wanted, lowest[fitted])
    num_cards = sorted({row.num_cards for row in some})
    for i in fitted:
        at_bound = ", at its bound" * bool(values[i] <= lowest[i])
        said[names[i]] = f"fitted at {', '.join(map(str, num_cards))} cards{at_bound}"
    return dict(zip(names, (values[0], values[1], 1 / values[2]), strict=True)), said


def effects(row: Row, alone: Speed, gradient_bytes: float) -> tuple[float, float, float]:
    """Returns the seconds that one unit of each of the three numbers costs a step."""
    ring = 2 * (row.num_cards - 1) / row.num_cards * gradient_bytes
    return 1.0, alone.computing(row.rank_tokens) * expected_slowest(row.num_cards), ring


def told_apart(design: NDArray[np.float64], typical: NDArray[np.float64]) -> list[int]:
    """Returns the columns, first ones first, that noise would not make up.

    Their standard errors, at the noise of a benchmark, are below the numbers' `typical` size.
    """
    found: list[int] = []
    for column in range(design.shape[1]):
        tried = [*found, column]
        scaled = design[:, tried] * typical[tried]
        if np.linalg.matrix_rank(scaled) < len(tried):
            continue
        variances = NOISE**2 * np.diag(np.linalg.inv(scaled.T @ scaled))
        if np.all(variances < 1):
            found.append(column)
    return found


def bounded(
    design: NDArray[np.float64], wanted: NDArray[np.float64], lowest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the least squares solution that is nowhere below `lowest`.

    With three numbers at most, all choices of those that lie at their bound are tried.
    """
    num, best, found = len(lowest), np.inf, lowest
    for free in itertools.chain(*(itertools.combinations(range(num), k) for k in range(num + 1))):
        tried = lowest.copy()
        if free:
            left = wanted - design @ np.where(np.isin(np.arange(num), free), 0, lowest)
            tried[list(free)] = np.linalg.lstsq(design[:, list(free)], left)[0]
        error = float(np.sum((design @ tried - wanted) ** 2))
        if np.all(tried >= lowest) and error < best:
            best, found = error, tried
    return found


def fit(rows: list[Row], base: str, task: Task, card: str, links: Links) -> Fitted:
    """Fits a card alone to its own rows, and cards together to those with most numbers of cards.

    The second may be of another base or dropout: what is lost between cards is no matter of these.
    """
    series: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if row.work == "training" and row.card == card:
            series.setdefault((row.base, row.dropout), []).append(row)
    own = base, task.lora.dropout
    of_own = series.get(own, []) if task.lora.r == MEASURED_RANK else []
    of_step, of_token, said = fit_alone(of_own, task, card)
    speed = Speed(of_step, of_token, JOINT_SECONDS, SPREAD)
    compared = [key for key in series if any(row.num_cards == 1 for row in series[key])]
    widest = max(compared, key=lambda key: (num_counts(series[key]), key == own), default=own)
    together, their_task = series.get(widest, []), task_of(*widest, MEASURED_RANK)
    their = Speed(*fit_alone(together, their_task, card)[:2], JOINT_SECONDS, SPREAD)
    num_bytes = gradient_bytes(their_task)
    values, sources = fit_together(together, their, links, num_bytes)
    links = links._replace(inside_bytes=values.pop("inside_bytes"))
    their = their._replace(**values)
    checked = [check(row, their, links, num_bytes) for row in together if row.num_cards > 1]
    return Fitted(speed._replace(**values), links, {"card": said, **sources}, checked)


def num_counts(rows: list[Row]) -> int:
    return len({row.num_cards for row in rows})


def check(row: Row, speed: Speed, links: Links, gradient_bytes: float) -> str:
    """Returns a measured speed beside what is reckoned of it."""
    alone = speed.computing(row.rank_tokens)
    seconds = alone * (1 + speed.spread * expected_slowest(row.num_cards)) + speed.joint_seconds
    seconds += all_reduce_seconds(gradient_bytes, row.num_cards, links)
    reckoned = row.num_cards * row.rank_tokens * FILL / seconds
    return (
        f"{row.num_cards} cards, {row.rank_tokens:,} tokens a step on each: "
        f"{row.tokens_per_second:,.0f} tokens/s measured, {reckoned:,.0f} reckoned "
        f"({reckoned / row.tokens_per_second - 1:+.1%})"
    )


# Texts


def title_seconds(
    rows: list[Row], task: Task, base: str, card: str, new_tokens: float
) -> tuple[float, str]:
    """Returns the time a card takes for a title, and where it is from.

    The rows with most cards of a host decide, since its processors work for all of them.
    """
    written = [row for row in rows if row.work == "describing" and row.base == base]
    if not written:
        layers = shape_of(task.config).num_layers * WRITTEN_LAYER_SECONDS["fused"]
        return new_tokens * layers / TEXTS_AT_A_TIME, "reckoned by card_speeds.py, not measured"
    own = [row for row in written if row.card == card] or written
    most = max(row.num_cards for row in own)
    rates = [row.tokens_per_second / most for row in own if row.num_cards == most]
    kinds = " and ".join(sorted({row.card for row in own}))
    said = f"measured on {most} of {kinds}"
    return new_tokens / float(np.mean(rates)), said + f", not on {card}" * (card not in kinds)
