"""How texts are written, decided once: by which engine, how many at a time, with what weights.

In come a base with its LoRA, what is asked for and what the machine has, out goes a WritingPlan
that says why. What a plan means is carried out in generation/. Memory is counted, not tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from amazon_desc.model.cost.memory import GIB
from amazon_desc.model.cost.shape import shape_of
from amazon_desc.model.cost.writing import writing_bytes
from amazon_desc.model.machine import Machine
from amazon_desc.model.plan import Task, bytes_loaded
from amazon_desc.support.errors import UserError

Engine = Literal["fused", "plain"]
EngineOption = Literal["auto", "fused", "plain"]

# Texts at a time, from the fastest. On a card arithmetic is the limit from some hundreds on.
FUSED_TEXTS = (1024, 512, 256, 128, 64, 32, 16)
PLAIN_TEXTS_ON_CARD = (256, 128, 64, 32, 16, 8, 4, 2, 1)
PLAIN_TEXTS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
# On a CPU so many gain nothing where their arithmetic takes far longer than what a step costs
# anyway; then more than these, whose texts come out together, only come out later.
PLAIN_TEXTS_OF_LARGE, LARGE_STEP_WEIGHTS = 32, 2**28
# Batches of the plain engine whose prompts are sorted by length together.
BATCHES_SORTED = 4
# Titles of the fused engine that are handed out, and written to a file, at a time.
HANDED_OUT = 128
# Tokens of packed prompts that the fused engine passes at a time.
PREFILLED = 4096


class Texts(NamedTuple):
    """What is written, and what is asked for."""

    num_texts: int
    """in all"""
    num_tokens: int
    """of the longest prompt with its text, in full"""
    engine: EngineOption = "auto"
    at_a_time: int | Literal["auto"] = "auto"
    num_copies: int = 1
    """beams, or candidates, of each text"""
    has_beams: bool = False
    before: tuple[Engine, int] | None = None
    """engine and texts at a time of what is resumed"""


class WritingPlan(NamedTuple):
    """How to write."""

    engine: Engine
    reason: str
    """why it is the plain one; empty: it is not"""
    at_a_time: int
    """texts; of the fused engine, its slots"""
    is_merged: bool
    """whether the weights are kept dense, with LoRA merged into them; else they are unpacked from
    4 bits for each product"""
    is_exact: bool
    """whether numbers have float32: then a text is the same whoever is beside it, by any engine"""
    shortage: str = ""
    """what is said where even so it would not fit; empty: it does"""

    @property
    def titles_together(self) -> int:
        """Titles that have to be written for together, to give the same texts again.

        Where numbers have float32, and by the fused engine, a text is the same whoever is beside
        it.
        """
        return 1 if self.is_exact or self.engine == "fused" else BATCHES_SORTED * self.at_a_time

    @property
    def titles_at_a_time(self) -> int:
        """Titles that are handed out together, when the last of them is there."""
        return HANDED_OUT if self.engine == "fused" else max(self.at_a_time, self.titles_together)

    def __str__(self) -> str:
        weights = "merged" if self.is_merged else "unpacked for each product"
        return (
            f"Texts: {self.engine} engine{self.reason}; {self.at_a_time} at a time, weights "
            f"{weights}{self.shortage}."
        )


def plan_writing(task: Task, machine: Machine, texts: Texts) -> WritingPlan:
    """Decides how texts are written.

    Args:
        task: what is loaded; what it asks of training does not count

    Raises:
        UserError: what is asked for cannot be.
    """
    why_not = machine.obstacle or task.obstacle
    if why_not is None and texts.has_beams:
        why_not = "they write no beams"
    if texts.engine == "fused" and why_not is not None:
        raise UserError(
            f"--model.engine fused: it needs the fused kernels, and {why_not}. Set it to auto or "
            f"plain."
        )
    engine, reason, choice = "fused", "", FUSED_TEXTS
    if texts.engine == "plain" or why_not is not None:
        engine = "plain"
        reason = ", as asked for" if texts.engine == "plain" else f" (fused kernels: {why_not})"
        choice = PLAIN_TEXTS_ON_CARD if machine.has_card else texts_on_cpu(task)
    way = WritingPlan(engine, reason, 0, True, task.dtype == torch.float32)
    return fitting(task, machine, texts, way, numbers_at_a_time(texts, engine, choice))


def texts_on_cpu(task: Task) -> list[int]:
    """Returns how many texts may be written at a time there, from the fastest on.

    800,000 weights in the layers: 256, 128, ...; 2 million: 128, 64, ...; 100 million: 32, 16, ...
    """
    num_weights = shape_of(task.config).num_linear_weights
    most = max(PLAIN_TEXTS_OF_LARGE, LARGE_STEP_WEIGHTS // num_weights)
    return [number for number in PLAIN_TEXTS if number <= most]


def numbers_at_a_time(texts: Texts, engine: Engine, choice: Sequence[int]) -> list[int]:
    """Returns how many texts may be written at a time, from the best on.

    Of 300 texts: 512, 256, 128, ... for the fused engine. As many as before, if texts are resumed
    that it wrote: then they are the same in half precision too.
    """
    if texts.at_a_time != "auto":
        return [texts.at_a_time]
    if texts.before is not None and texts.before[0] == engine:
        return [texts.before[1]]
    wanted = texts.num_texts * (texts.num_copies if engine == "fused" else 1)
    return [number for number in choice if number < 2 * wanted] or [choice[-1]]


def fitting(
    task: Task, machine: Machine, texts: Texts, way: WritingPlan, numbers: list[int]
) -> WritingPlan:
    """Returns the first number that fits, merged if that does; else the leanest, which says so."""
    plans = [way._replace(at_a_time=n, is_merged=m) for n, m in leaner(numbers)]
    for plan in plans:
        if bytes_to_write(task, plan, texts) <= machine.room:
            return plan
    leanest = plans[-1]
    needed = bytes_to_write(task, leanest, texts)
    return leanest._replace(
        shortage=f"; {needed / GIB:.1f} GiB needed, {machine.free / GIB:.1f} GiB free: if memory "
        f"runs out, lower --data.generation_batch_size or --model.decoding.max_new_tokens"
    )


def leaner(numbers: list[int]) -> Iterator[tuple[int, bool]]:
    """Yields texts at a time and whether weights are merged: fewer texts first, then unpacked.

    Unpacking takes a step as long as a hundred texts do, whatever their number.
    """
    few = min(64, max(numbers))
    yield from ((number, True) for number in numbers if number >= few)
    yield from ((number, False) for number in numbers)


def bytes_to_write(task: Task, plan: WritingPlan, texts: Texts) -> int:
    """Returns what is taken with the base that is loaded."""
    shape = shape_of(task.config)
    num_texts = plan.at_a_time * texts.num_copies if plan.engine == "plain" else plan.at_a_time
    longest = texts.num_tokens
    num_passed = PREFILLED if plan.engine == "fused" else num_texts * longest
    needed = writing_bytes(
        shape,
        num_texts,
        longest,
        num_passed,
        task.number_bytes,
        is_merged=plan.is_merged,
        state_bytes=task.state_bytes,
    )
    return bytes_loaded(task) + needed
