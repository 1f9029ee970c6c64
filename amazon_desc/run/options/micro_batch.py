"""What the options of a command say of its computing: what is planned, and on what device.

In come modules and options as they were given, out go the Task and the Machine that plans are made
of, the rows of a micro-batch, and how predict writes. Nothing is set or said here, and the base's
weights are not read.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model import attention
from amazon_desc.model.machine import dtype_of, machine_of
from amazon_desc.model.plan import Plan, Task, bytes_to_score, choose_rows, plan_rows, task_of
from amazon_desc.model.probe import attention_for
from amazon_desc.model.skeleton import skeleton
from amazon_desc.model.suitability import read_config
from amazon_desc.model.writing_plan import Engine, WritingPlan, plan_writing
from amazon_desc.run.options.devices import device_of
from amazon_desc.support.hub import find_backbone
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.writing import texts_of


class ChosenRows(NamedTuple):
    """The rows of a micro-batch: those that are trained on, or scored, at a time."""

    num_rows: int
    plan: Plan | None = None
    """of a fit, where its rows were left open"""
    reason: str | None = None
    """a sentence that says why they are so many, where they were left open"""


def choose_micro_batch(
    asked: int | Literal["auto"],
    command: str | None,
    model: DescriptionModule,
    data: DescriptionData,
    trainer: Any,
    precision: Any,
    before: int | None,
    world_size: int = 1,
) -> ChosenRows:
    """Decides the rows of a micro-batch.

    Args:
        asked: what the option says
        command: None: nothing is computed
        trainer: its options
        before: rows of a micro-batch that the run had until now
        world_size: processes that share the rows of an optimizer step
    """
    if asked != "auto":
        return ChosenRows(asked)
    most = data.rows_per_step // world_size
    if most == 1 or command not in ("fit", "validate", "test"):
        return ChosenRows(1)
    task = task_of_options(model, data, dtype_of(precision))
    machine = machine_of(device_of(trainer), task.dtype)
    if command == "fit":
        plan, reason = plan_rows(task, machine, most, before)
        return ChosenRows(plan.num_rows, plan, reason)
    needed = partial(bytes_to_score, task)
    num_rows, reason = choose_rows(max(1, most), task.row_tokens, needed, machine)
    return ChosenRows(num_rows, reason=reason)


def choose_engine(
    model: DescriptionModule,
    data: DescriptionData,
    trainer: Any,
    precision: Any,
    before: tuple[Engine, int] | None,
) -> WritingPlan:
    """Decides how predict writes.

    Args:
        trainer: its options
        before: engine and texts at a time of what is resumed
    """
    task = task_of_options(model, data, dtype_of(precision))
    asked = texts_of(model.decoding, model.engine, data, data.num_titles, before)
    return plan_writing(task, machine_of(device_of(trainer), task.dtype), asked)


def task_of_options(
    model: DescriptionModule,
    data: DescriptionData,
    dtype: torch.dtype,
    *,
    needs_weights: bool = True,
) -> Task:
    """Returns what the options say is trained.

    Args:
        needs_weights: False: the base's weights need not even be there
    """
    base = find_backbone(model.backbone, model.revision, needs_weights=needs_weights)
    built = skeleton(read_config(base), model.lora, model.adapter_folder)
    unpacked_tokens = 0 if attention_for(base) == attention.NAME else data.max_seq_length
    options = (model.quantization, model.kernels, model.recompute, unpacked_tokens)
    return task_of(built, dtype, data.row_tokens, *options)
