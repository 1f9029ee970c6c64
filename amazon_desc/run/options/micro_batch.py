"""What the options of a command say of its training: what is planned, and on what device.

In come modules and options as they were given, out go the Task and the Machine that model/plan.py
decides with. The base's weights are not read.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model.machine import machine_of
from amazon_desc.model.plan import Plan, Task, bytes_to_score, choose_rows, plan_rows, task_of
from amazon_desc.model.skeleton import skeleton
from amazon_desc.model.suitability import read_config
from amazon_desc.support.hub import find_backbone
from amazon_desc.training.module import DescriptionModule


def rows_to_train(
    task: Task, trainer: Any, rows_per_step: int, before: int | None
) -> tuple[Plan, str]:
    """Returns the plan of a fit whose micro-batches are left open, and what is said of it.

    Args:
        trainer: its options
        before: rows of a micro-batch that the run had until now
    """
    return plan_rows(task, machine_of(device_of(trainer), task.dtype), rows_per_step, before)


def rows_to_score(task: Task, trainer: Any, rows_per_step: int) -> tuple[int, str]:
    """Returns the rows that are scored at a time, and what is said of it."""
    machine = machine_of(device_of(trainer), task.dtype)
    needed = partial(bytes_to_score, task)
    return choose_rows(rows_per_step, task.row_tokens, needed, machine)


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
    options = (model.quantization, model.kernels, model.recompute)
    return task_of(built, dtype, data.row_tokens, *options)


def device_of(trainer: Any) -> torch.device:
    """Returns the device that the options of a trainer name."""
    if trainer.accelerator in ("cpu", "mps") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", trainer.devices[0] if isinstance(trainer.devices, list) else 0)
