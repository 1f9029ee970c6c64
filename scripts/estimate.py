"""Says before a run how much GPU memory it takes and how long; no GPU and no weights are needed.

In: the config and options of a fit, and a card. Out: memory by part, and time, for both paths, as a
table and, with --json, as a file. Memory is counted by amazon_desc/model/cost/memory.py, how fast a
card is stands in card_speeds.py. Rows come from the prepared data, or from --rows.

    python scripts/estimate.py --config configs/qlora.yaml --card h100
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from card_speeds import (
    CARDS,
    WRITTEN_LAYER_SECONDS,
    Card,
    Work,
    fused_seconds,
    plain_seconds,
    scored_seconds,
)
from estimated_rows import Rows, rows_of

from amazon_desc.cli import build
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model.cost.memory import CONTEXT_BYTES, GIB, Memory
from amazon_desc.model.cost.shape import shape_of
from amazon_desc.model.machine import Machine, dtype_of
from amazon_desc.model.plan import Plan, Task, plan, plan_rows
from amazon_desc.model.writing_plan import (
    Engine,
    Texts,
    WritingPlan,
    bytes_to_write,
    plan_writing,
)
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.run.options.micro_batch import task_of_options
from amazon_desc.support.files import write_text
from amazon_desc.support.printing import say
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.writing import texts_of

# What is recomputed, as short as a column wants it.
SHORT = {"none": "kept", "parts": "parts", "mlp": "mlp", "layers": "layers"}


class Run(NamedTuple):
    """What the options of a fit say."""

    task: Task
    rows_per_step: int
    batch_size: int | None
    """None: as many as fit"""
    num_epochs: int
    max_rows: int | None
    val_check_interval: int | float | None
    max_new_tokens: int
    texts: Texts
    """of all scored titles"""
    num_sampled: int
    """titles that are written for at each validation"""
    rows: Rows


class Estimate(NamedTuple):
    """What one way to train takes."""

    way: str
    batch_size: int
    memory: Memory
    fits: bool
    least_bytes: int
    """held where a row at a time is trained and all is recomputed that can be"""
    texts_at_a_time: int
    """of a validation in between, for all titles that are scored"""
    texts_bytes: int
    """held while they are written"""
    step_seconds: float
    tokens_per_second: float
    num_steps: int | None
    training_seconds: float | None
    scoring_seconds: float | None


# Options


def read_options(arguments: list[str], num_rows: int | None, card: Card) -> Run:
    cli = build([*arguments, "--trainer.accelerator=cpu"], run=False)
    data, model = cli.datamodule, cli.model
    assert isinstance(data, DescriptionData)
    assert isinstance(model, DescriptionModule)
    data.trainer = cli.trainer  # prepared data is beside the run folder
    trainer, asked = cli.config["trainer"], cli.config["data"]["batch_size"]
    return Run(
        task=task_of_options(
            model, data, dtype_on(card, trainer["precision"]), needs_weights=False
        ),
        rows_per_step=data.rows_per_step,
        batch_size=None if asked == "auto" else data.batch_size,
        num_epochs=data.num_epochs,
        max_rows=data.max_rows,
        val_check_interval=trainer["val_check_interval"],
        max_new_tokens=model.decoding.max_new_tokens,
        texts=texts_of(model.decoding, model.engine, data, data.num_scored),
        num_sampled=data.num_sampled,
        rows=rows_of(data, num_rows),
    )


# Estimates


def dtype_on(card: Card, precision: Any) -> torch.dtype:
    """Returns in what is computed: left open, in bf16, which a card that is too old does not have.

    This machine, which may have none, would say float32.
    """
    dtype = torch.bfloat16 if precision is None else dtype_of(precision)
    return torch.float16 if card.is_old and dtype == torch.bfloat16 else dtype


def machine_of(card: Card, dtype: torch.dtype) -> Machine:
    obstacle = f"{card.name} is too old for them" if card.is_old else None
    if dtype == torch.float32:
        obstacle = "they compute in bf16 or fp16, not in float32"
    return Machine(round(card.gib * GIB) - CONTEXT_BYTES, obstacle=obstacle)


def planned(run: Run, machine: Machine) -> Plan:
    if run.batch_size is None:
        return plan_rows(run.task, machine, run.rows_per_step)[0]
    return plan(run.task, machine, run.batch_size)


def on_both_paths(run: Run, card: Card) -> dict[str, Estimate]:
    """Returns what each path would take, whatever is in its way."""
    machine = machine_of(card, run.task.dtype)._replace(obstacle=None)
    fused, plain = (
        run._replace(task=run.task._replace(kernels=kernels, obstacle=None))
        for kernels in ("fused", "plain")
    )
    if run.task.recompute in ("parts", "mlp"):  # which the plain path cannot
        plain = plain._replace(task=plain.task._replace(recompute="none"))
    return {
        "fused": estimate(fused, planned(fused, machine), card, machine),
        "plain": estimate(plain, planned(plain, machine), card, machine),
    }


def estimate(run: Run, plan: Plan, card: Card, machine: Machine) -> Estimate:
    task, rows, is_fused = run.task, plan.num_rows, plan.is_fused
    work = Work(rows * task.row_tokens, run.rows.target_share, run.rows.mean_context)
    if is_fused:
        way = f"{'dense' if plan.is_dense else '4-bit'}, {SHORT[plan.recompute]}"
        seconds = fused_seconds(task, work, card, plan.is_dense, plan.recompute)
    else:
        way = "plain layers" if plan.recompute == "layers" else "plain"
        seconds = plain_seconds(task, work, card, plan.recompute)
    step_seconds = seconds * run.rows_per_step / rows
    between = plan.memory.gradients + plan.memory.optimizer  # which stay meanwhile
    there = machine._replace(free=machine.free - between)
    texts, writing = written_with(run, there, is_fused, run.rows.num_scored)
    num_steps = steps_of(run)
    return Estimate(
        way,
        rows,
        plan.memory,
        plan.memory.total <= machine.room,
        planned(run._replace(batch_size=1), machine._replace(free=0)).memory.total,
        writing.at_a_time,
        between + bytes_to_write(task, writing, texts),
        step_seconds,
        run.rows_per_step * task.row_tokens * run.rows.fill / step_seconds,
        num_steps,
        None if num_steps is None else num_steps * step_seconds,
        None if num_steps is None else scoring_seconds(run, work, card, num_steps, is_fused),
    )


def steps_of(run: Run) -> int | None:
    """Returns the optimizer steps of a fit; None where neither data nor options tell."""
    limits = [] if run.max_rows is None else [run.max_rows]
    if run.rows.num_rows is not None:
        limits.append(run.rows.num_rows * run.num_epochs)
    return math.ceil(min(limits) / run.rows_per_step) if limits else None


def scoring_seconds(run: Run, work: Work, card: Card, num_steps: int, is_fused: bool) -> float:
    """Returns the time of all validations, and of the scores of base and tuned weights."""
    num_batches = math.ceil(run.rows.num_scored_tokens / work.num_tokens)
    fit_losses, losses = (
        num_batches * scored_seconds(run.task, work, card, path) for path in (is_fused, False)
    )
    few, many = (
        written_seconds(run, card, is_fused, min(num, run.rows.num_scored))
        for num in (run.num_sampled, run.rows.num_scored)
    )
    interval = run.val_check_interval or num_steps
    between = interval if isinstance(interval, int) else max(1, round(interval * num_steps))
    num_validations = math.ceil(num_steps / between)
    return num_validations * (fit_losses + few) + 2 * (losses + many)


def written_seconds(run: Run, card: Card, is_fused: bool, num_titles: int) -> float:
    """Returns the time of the texts for so many titles, each of them as long as it may be."""
    machine = machine_of(card, run.task.dtype)._replace(obstacle=None)
    asked, plan = written_with(run, machine, is_fused, num_titles)
    num_texts = num_titles * (asked.num_copies if plan.engine == "fused" else 1)
    num_steps = math.ceil(num_texts / plan.at_a_time) * run.max_new_tokens
    return num_steps * shape_of(run.task.config).num_layers * WRITTEN_LAYER_SECONDS[plan.engine]


def written_with(
    run: Run, machine: Machine, is_fused: bool, num_titles: int
) -> tuple[Texts, WritingPlan]:
    """Returns what is written for so many titles, and how."""
    engine: Engine = "fused" if is_fused and not run.texts.has_beams else "plain"
    asked = run.texts._replace(num_texts=max(1, num_titles), engine=engine)
    return asked, plan_writing(run.task._replace(obstacle=None), machine, asked)


# What is said


def taken(run: Run, card: Card) -> tuple[str, str]:
    """Returns the path that fit takes, and why, and what it says of too little memory."""
    found = planned(run, machine_of(card, run.task.dtype))
    if found.is_fused:
        return "fused", "known to be right here" + found.shortage
    return "plain", found.reason.lstrip(":, ") + found.shortage


def part_of_memory(part: str) -> Callable[[Estimate], str]:
    return lambda found: f"{getattr(found.memory, part) / GIB:.2f}"


def duration(seconds: float | None) -> str:
    """Returns hours and minutes. 45 -> 1 min, 5400 -> 1 h 30 min."""
    if seconds is None:
        return "?"
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


LINES: list[tuple[str, Callable[[Estimate], str]]] = [
    ("weights, activations", lambda found: found.way),
    ("rows of a micro-batch", lambda found: str(found.batch_size)),
    *((f"  {part.replace('_', ' ')}", part_of_memory(part)) for part in Memory._fields),
    ("GiB of tensors at a time", lambda found: f"{found.memory.allocated / GIB:.2f}"),
    ("  held for them", lambda found: f"{found.memory.total / GIB:.2f}"),
    ("  fits, with a margin", lambda found: "yes" if found.fits else "no"),
    ("  least that could be held", lambda found: f"{found.least_bytes / GIB:.2f}"),
    ("texts at a time", lambda found: str(found.texts_at_a_time)),
    ("  GiB held for them", lambda found: f"{found.texts_bytes / GIB:.2f}"),
    ("ms an optimizer step", lambda found: f"{found.step_seconds * 1e3:,.1f}"),
    ("tokens a second", lambda found: f"{found.tokens_per_second:,.0f}"),
    ("optimizer steps", lambda found: "?" if found.num_steps is None else f"{found.num_steps:,}"),
    ("training", lambda found: duration(found.training_seconds)),
    ("validations and scores", lambda found: duration(found.scoring_seconds)),
]


def table(run: Run, card: Card, paths: dict[str, Estimate], path: str, reason: str) -> str:
    """Returns what was found, a line each, a column for each path."""
    lines = [
        f"{card.name} ({card.source})",
        f"fit takes the {path} path: {reason}",
        f"rows of {run.task.row_tokens} tokens: {run.rows.source}",
        f"{'':28}" + "".join(f"{name:>16}" for name in paths),
    ]
    for name, text in LINES:
        lines.append(f"{name:28}" + "".join(f"{text(found):>16}" for found in paths.values()))
    return "\n".join(lines)


def plain_values(path: Estimate) -> dict[str, Any]:
    values = path._asdict() | {"memory": path.memory._asdict()}
    return values | {"total_bytes": path.memory.total, "allocated_bytes": path.memory.allocated}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Every option of fit is taken too: python -m amazon_desc fit --help",
        allow_abbrev=False,
    )
    parser.add_argument("--card", choices=sorted(CARDS), default="h100", help="default: h100")
    rows = "rows of an epoch; default: those of the prepared data"
    parser.add_argument("--rows", type=int, metavar="N", help=rows)
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the numbers there too")
    options, rest = parser.parse_known_args(arguments)
    with errors_in_a_sentence(rest, "python -m amazon_desc fit"):
        card = CARDS[options.card]
        run = read_options(rest, options.rows, card)
        paths = on_both_paths(run, card)
        path, reason = taken(run, card)
        say(table(run, card, paths, path, reason))
        if options.json is not None:
            values = {name: plain_values(found) for name, found in paths.items()}
            found = {"card": card._asdict(), "path": path, "reason": reason, "paths": values}
            write_text(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
