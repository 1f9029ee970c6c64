"""How a base is trained, decided once: on which path, what is recomputed, how many rows at a time.

In come what is trained, what is asked for and what the machine has, out goes a Plan that says why.
Whoever trains, or reckons what training takes, asks here; execution.py carries a plan out. Memory
is counted, not tried. The rows of a micro-batch divide those of an optimizer step: order and steps
are the same with any of them; the last bits are not, so a resumed run keeps the rows it had as
long as they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from amazon_desc.model.adapter import LoraSettings, settings_of
from amazon_desc.model.cost.memory import GIB, Memory, Mode, memory
from amazon_desc.model.kernels import supported
from amazon_desc.model.machine import Machine
from amazon_desc.model.overflow import overflow_obstacle, overflows
from amazon_desc.model.recomputation import Recompute, RecomputeOption
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

Kernels = Literal["auto", "fused", "plain"]

WEIGHTS = {
    ("nf4", True): "dense beside their 4 bits",
    ("nf4", False): "in 4 bits only",
    ("none", True): "once more in one matrix with LoRA's",
    ("none", False): "as they are",
}
RECOMPUTED: dict[Recompute, str] = {
    "none": "activations kept",
    "parts": "what is quick to compute recomputed",
    "mlp": "what is quick to compute and the MLP's first product recomputed",
    "layers": "layers recomputed",
}


class Task(NamedTuple):
    """What is trained, besides how many rows at a time, and what is asked for."""

    config: Any
    """transformers' configuration of the decoder"""
    lora: LoraSettings
    quantization: Literal["nf4", "none"]
    dtype: torch.dtype
    """of the products"""
    row_tokens: int
    obstacle: str | None
    """what about the model is in the way of the fused path"""
    kernels: Kernels = "auto"
    recompute: RecomputeOption = "auto"
    unpacked_tokens: int = 0
    """of the longest example, where each is a row on the plain path; 0: they share packed rows"""
    can_recompute_layers: bool = True
    """on the plain path: transformers can, for the most families"""

    @property
    def number_bytes(self) -> int:
        return self.dtype.itemsize

    @property
    def state_bytes(self) -> int:
        """Of a number between the products of the plain path."""
        return 4 if overflows(self.config, self.dtype) else self.number_bytes


class Plan(NamedTuple):
    """How to train."""

    task: Task
    num_rows: int
    """of a micro-batch"""
    is_fused: bool
    reason: str
    """why the plain path is taken; empty: it is not"""
    is_dense: bool
    """fused only: the frozen matrices are kept dense beside their 4 bits"""
    recompute: Recompute
    shortage: str = ""
    """what is said where even so a step would not fit; empty: it does"""

    @property
    def memory(self) -> Memory:
        return counted(self.task, self.num_rows, mode_of(self), self.is_dense)

    def __str__(self) -> str:
        if self.is_fused:
            weights = WEIGHTS[self.task.quantization, self.is_dense]
            return (
                f"Kernels: fused; weights {weights}, {RECOMPUTED[self.recompute]}{self.shortage}."
            )
        recomputed = f"; {RECOMPUTED['layers']}" if self.recompute == "layers" else ""
        unpacked = "; each example is a row of its own" if self.task.unpacked_tokens else ""
        return f"Kernels: plain{self.reason}{recomputed}{unpacked}{self.shortage}."


def task_of(
    model: PeftModel,
    dtype: torch.dtype,
    row_tokens: int,
    quantization: Literal["nf4", "none"],
    kernels: Kernels = "auto",
    recompute: RecomputeOption = "auto",
    unpacked_tokens: int = 0,
) -> Task:
    """Returns what there is to plan for a model, loaded or only its skeleton."""
    base: Any = model.get_base_model()
    return Task(
        base.config,
        settings_of(model),
        quantization,
        dtype,
        row_tokens,
        overflow_obstacle(base.config, dtype) or supported.obstacle(model),
        kernels,
        recompute,
        unpacked_tokens,
        base.supports_gradient_checkpointing,
    )


def plan(task: Task, machine: Machine, num_rows: int) -> Plan:
    """Decides how micro-batches of so many rows are trained.

    Raises:
        UserError: what is asked for cannot be.
    """
    why_not = machine.obstacle or task.obstacle
    if task.kernels == "fused" and why_not is not None:
        raise UserError(f"--model.kernels fused: {why_not}. Set it to auto or plain.")
    if task.kernels != "plain" and why_not is None:
        fused = [Plan(task, num_rows, True, "", *way) for way in ways(task.recompute)]
        return fitting(fused, machine)
    reason = ", as asked for" if task.kernels == "plain" else f": {why_not}"
    if task.recompute in ("parts", "mlp"):
        raise UserError(
            f"--model.recompute {task.recompute}: only fused kernels can do that, but they are "
            f"plain{reason}. Set it to none or layers."
        )
    if task.recompute == "layers" and not task.can_recompute_layers:
        raise UserError(
            f"--model.recompute layers: transformers cannot do that for {task.config.model_type}. "
            f"Set it to auto or none; to save memory, lower --data.row_tokens."
        )
    again: list[Recompute] = ["none", "layers"] if task.recompute == "auto" else [task.recompute]
    plain = [Plan(task, num_rows, False, reason, False, recompute) for recompute in again]
    return fitting(plain if task.can_recompute_layers else plain[:1], machine)


def fitting(plans: list[Plan], machine: Machine) -> Plan:
    """Returns the first that fits; where none does, the last, which then says so."""
    for found in plans:
        if found.memory.total <= machine.room:
            return found
    leanest = plans[-1]
    option = "batch_size" if leanest.num_rows > 1 else "row_tokens"
    return leanest._replace(
        shortage=f"; {leanest.memory.total / GIB:.1f} GiB needed, {machine.free / GIB:.1f} GiB "
        f"free: if memory runs out, lower --data.{option}"
    )


def plan_rows(
    task: Task, machine: Machine, rows_per_step: int, before: int | None = None
) -> tuple[Plan, str]:
    """Decides the rows of a micro-batch too; returns the plan, and a sentence on its rows.

    Args:
        before: rows of a micro-batch that the run had until now
    """
    leanest = plan(task, machine, 1)
    if leanest.is_fused:
        # What is quick to recompute costs little, other things would cost more than a larger
        # micro-batch gains.
        recompute = "parts" if task.recompute == "auto" else task.recompute
        leanest = leanest._replace(is_dense=False, recompute=recompute)

    def bytes_to_train(num_rows: int) -> int:
        return leanest._replace(num_rows=num_rows).memory.total

    num_rows, sentence = choose_rows(
        rows_per_step, task.row_tokens, bytes_to_train, machine, before
    )
    return plan(task, machine, num_rows), sentence


def bytes_loaded(task: Task) -> int:
    """Returns what the base and its LoRA take, however they are trained."""
    return counted(task, 1, "plain", is_dense=False).loaded


def bytes_to_score(task: Task, num_rows: int) -> int:
    """Returns what base and micro-batch take where nothing is trained: on the plain path."""
    needed = counted(task, num_rows, "plain", is_dense=False)
    return needed.loaded + needed.workspace + needed.scoring


def ways(recompute: RecomputeOption) -> list[tuple[bool, Recompute]]:
    """Returns the ways of the fused path, the fastest first, the leanest last: is_dense, recompute.

    Args:
        recompute: what is recomputed, if that is decided
    """
    if recompute != "auto":
        return [(True, recompute), (False, recompute)]
    lean: list[Recompute] = ["none", "parts", "mlp", "layers"]
    return [(True, "none"), *((False, again) for again in lean)]


def mode_of(found: Plan) -> Mode:
    if found.is_fused:
        return found.recompute
    return "plain layers" if found.recompute == "layers" else "plain"


def counted(task: Task, num_rows: int, mode: Mode, is_dense: bool) -> Memory:
    return memory(
        task.config,
        task.lora,
        num_rows * task.row_tokens,
        mode,
        is_dense=is_dense,
        quantization=task.quantization,
        number_bytes=task.number_bytes,
        state_bytes=task.state_bytes,
        unpacked_tokens=0 if not mode.startswith("plain") else task.unpacked_tokens,
    )


def choose_rows(
    rows_per_step: int,
    row_tokens: int,
    needed: Callable[[int], int],
    machine: Machine,
    before: int | None = None,
) -> tuple[int, str]:
    """Chooses the rows of a micro-batch; returns them, and a sentence that says why.

    Args:
        rows_per_step: of an optimizer step; what is chosen divides it
        needed: rows of a micro-batch -> bytes
        before: what the run had until now
    """

    def fits(rows: int) -> bool:
        has_few_tokens = machine.most_tokens is None or rows * row_tokens <= machine.most_tokens
        return has_few_tokens and needed(rows) <= machine.room

    if before and rows_per_step % before == 0 and needed(before) <= machine.room:
        rows, why = before, "as before"
    else:
        rows = largest_divisor(rows_per_step, fits)
        why = f"{needed(rows) / GIB:.1f} GiB needed, {machine.free / GIB:.1f} GiB free"
        if needed(rows) > machine.room:
            why += "; if memory runs out, lower --data.row_tokens"
        if before and before != rows:
            why += f"; before it had {before}, so the last bits may differ"
    return rows, f"Micro-batches: {rows} of the {rows_per_step} rows of a step ({why})."


def largest_divisor(number: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest divisor that fits, or 1. Of 12, where up to 5 fit: 4."""
    divisors = (d for d in range(number, 1, -1) if number % d == 0)
    return next((d for d in divisors if fits(d)), 1)
