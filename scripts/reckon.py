"""Reckons the time and price of many products on many cards: to fine-tune on, and to describe.

In: how many products, which base, card and network, how often cards fail; measured speeds lie in
measured_speeds.json. Out: a table, a column for each number of cards, by closed formula
(reckoned_times.py) and by simulation (simulated_times.py), and, with --json, a file. Nothing is
run. Whether a model learns as much in larger steps is not told.

    python scripts/reckon.py --products 100000000 --cards 1 8 64 512
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from card_speeds import CARDS
from estimated_rows import FILL, MEAN_CONTEXT, TARGET_SHARE
from fitted_speeds import Fitted, fit, read_rows, task_of, title_seconds
from reckon_options import (
    as_given,
    build_parser,
    describing_of,
    links_of,
    refuse_what_is_not,
    training_of,
)
from reckoned_times import (
    Describing,
    Times,
    Training,
    describing_times,
    num_steps_of,
    segments_of,
    step_times,
    tokens_of_rank,
    training_times,
)
from simulated_times import (
    Stragglers,
    simulated_describing,
    simulated_steps,
    simulated_training,
)

from amazon_desc.model.cost.arithmetic import flops_by_part
from amazon_desc.model.plan import Task
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.support.files import write_text
from amazon_desc.support.printing import say

# Played out: steps in a row; whole fits, which failures make differ, with so many checkpoints in
# all; whole descriptions.
NUM_STEPS, NUM_FITS, NUM_SEGMENTS, NUM_DESCRIPTIONS = 200, 2000, 100_000, 10


class Column(NamedTuple):
    """What was found for a number of cards."""

    num_cards: int
    times: Times
    simulated: float
    """seconds, the mean of what was played out"""
    deviation: float
    """of these"""
    step_tokens: float = 0.0
    num_steps: int = 0
    step: Times = Times()
    simulated_step: float = 0.0
    num_checkpoints: int = 0

    @property
    def card_hours(self) -> float:
        return self.num_cards * self.times.total / 3600


def trained(
    job: Training, num_cards: int, stragglers: Stragglers, rng: np.random.Generator
) -> Column:
    """Returns what a fit takes, by formula and played out."""
    step = step_times(job, num_cards)
    segments = segments_of(job, num_cards, step.total)
    steps = simulated_steps(job, num_cards, NUM_STEPS, stragglers, rng)
    num_fits = max(5, min(NUM_FITS, NUM_SEGMENTS // len(segments)))
    runs = [simulated_training(job, num_cards, segments, steps, rng) for _ in range(num_fits)]
    return Column(
        num_cards,
        training_times(job, num_cards),
        statistics.mean(runs),
        statistics.stdev(runs),
        tokens_of_rank(job, num_cards) * num_cards,
        num_steps_of(job, num_cards),
        step,
        steps.mean,
        len(segments),
    )


def described(
    job: Describing, num_cards: int, stragglers: Stragglers, rng: np.random.Generator
) -> Column:
    """Returns what all texts take, by formula and played out."""
    runs = [simulated_describing(job, num_cards, stragglers, rng) for _ in range(NUM_DESCRIPTIONS)]
    times = describing_times(job, num_cards)
    return Column(num_cards, times, statistics.mean(runs), statistics.stdev(runs))


# What is said

Line = tuple[str, Callable[[Column], str]]


def minutes(part: str) -> Line:
    return f"  {part}", lambda found: f"{getattr(found.times, part) / 60:,.1f}"


def milliseconds(part: str) -> Line:
    return f"  {part}", lambda found: f"{getattr(found.step, part) * 1e3:,.2f}"


def end_lines(price: float) -> list[Line]:
    """Returns the lines that both tables end with."""
    return [
        ("  simulated", lambda found: f"{found.simulated / 60:,.1f}"),
        ("  simulated less reckoned", lambda f: f"{f.simulated / f.times.total - 1:+.1%}"),
        ("  deviation of simulations", lambda found: f"{found.deviation / 60:,.1f}"),
        ("  share of computing", lambda f: f"{f.times.computing / f.times.total:.1%}"),
        ("hours of all cards", lambda found: f"{found.card_hours:,.1f}"),
        (f"price, at {price:g} an hour", lambda found: f"{price * found.card_hours:,.0f}"),
    ]


STEP_LINES: list[Line] = [
    ("tokens of a step", lambda found: f"{found.step_tokens:,.0f}"),
    ("optimizer steps", lambda found: f"{found.num_steps:,}"),
    ("checkpoints", lambda found: f"{found.num_checkpoints:,}"),
    ("ms a step", lambda found: f"{found.step.total * 1e3:,.2f}"),
    *map(milliseconds, ("computing", "straggling", "exchanging", "joint")),
    ("  simulated", lambda found: f"{found.simulated_step * 1e3:,.2f}"),
]
TOTAL: Line = ("minutes in all", lambda found: f"{found.times.total / 60:,.1f}")


def blocks_line(job: Describing) -> Line:
    num = job.num_titles / job.block_titles
    return "blocks a card", lambda found: f"{num / found.num_cards:,.1f}"


def table(lines: Sequence[Line], columns: Sequence[Column]) -> str:
    """Returns a line for each number, a column for each number of cards."""
    cards: Line = ("cards", lambda found: f"{found.num_cards:,}")
    return "\n".join(
        f"{name:28}" + "".join(f"{text(found):>14}" for found in columns)
        for name, text in [cards, *lines]
    )


def about_training(job: Training, task: Task, card: str, fitted: Fitted) -> str:
    """Returns what is reckoned with, and where it is from."""
    share, speed, links = FILL * TARGET_SHARE, fitted.speed, fitted.links
    flops = flops_by_part(task.config, task.lora, share, MEAN_CONTEXT).total
    said = fitted.sources
    return "\n".join(
        [
            f"Fine-tuning on {CARDS[card].name}: {job.num_tokens:.4g} tokens with padding, "
            f"{flops / 1e9:.2f} Gflop each, {flops * job.num_tokens / 1e18:,.0f} Eflop in all",
            f"a card: {speed.step_seconds * 1e3:.2f} ms a step and {speed.token_seconds * 1e6:.2f} "
            f"us a token ({said['card']})",
            f"several: {speed.joint_seconds * 1e3:.2f} ms more a step ({said['joint_seconds']}), "
            f"a spread of {speed.spread:.2%} ({said['spread']}),",
            f"  {job.gradient_bytes / 1e6:.1f} MB of gradients, {links.inside_bytes / 1e9:.0f} "
            f"GB/s in a host ({said['inside_bytes']}), {links.outside_bytes / 1e9:.1f} GB/s out "
            f"of each of {links.num_nics} NICs (assumed)",
            *(f"  {line}" for line in fitted.checked),
        ]
    )


def plain_values(found: Column) -> dict[str, Any]:
    values = {**found._asdict(), "times": found.times._asdict(), "step": found.step._asdict()}
    return {**values, "total": found.times.total, "card_hours": found.card_hours}


def reckon(arguments: list[str]) -> None:
    options = build_parser((__doc__ or "").partition("\n")[0]).parse_args(arguments)
    refuse_what_is_not(options)
    rng, kind = np.random.default_rng(options.seed), options.stragglers
    rows = read_rows(options.measured)
    task = task_of(options.base, options.dropout, options.rank)
    fitted = fit(rows, options.base, task, options.card, links_of(options))
    fitted = as_given(options, fitted)
    job = training_of(options, task, fitted)
    fits = [trained(job, num, kind, rng) for num in options.cards]
    seconds, source = title_seconds(rows, task, options.base, options.card, options.new_tokens)
    texts = describing_of(options, seconds, fitted.speed.spread)
    descriptions = [described(texts, num, kind, rng) for num in options.cards]
    say(about_training(job, task, options.card, fitted))
    parts = map(minutes, Times._fields)
    say(table([*STEP_LINES, TOTAL, *parts, *end_lines(options.price)], fits))
    say(f"\nDescribing: {1 / seconds:,.0f} titles a second and card ({source})")
    some = ("starting", "computing", "straggling", "failing")
    parts = map(minutes, some)
    say(table([blocks_line(texts), TOTAL, *parts, *end_lines(options.price)], descriptions))
    if options.json is not None:
        found = {
            "card": options.card,
            "speed": fitted.speed._asdict(),
            "links": fitted.links._asdict(),
            "sources": fitted.sources,
            "training": [plain_values(column) for column in fits],
            "title_seconds": seconds,
            "describing": [plain_values(column) for column in descriptions],
        }
        write_text(options.json, json.dumps(found, indent=1) + "\n")


def main(arguments: list[str]) -> None:
    with errors_in_a_sentence(arguments, "python scripts/reckon.py"):
        reckon(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
