"""What follows from options: passes, rows and micro-batches as Lightning and the data want them.

In come options as they were given, out go numbers, or a refusal. To Lightning a run is one epoch
without a limit of steps, since it resumes exactly only inside of an epoch; the order of the rows
knows the real epochs, and ends where the steps end.
"""

from __future__ import annotations

from pydoc import locate
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, Precision

from amazon_desc.support.errors import UserError


def num_epochs(max_epochs: int | None) -> int:
    if max_epochs is None or max_epochs < 1:
        raise UserError(
            f"--trainer.max_epochs {max_epochs}: wanted a whole number of at least 1. "
            f"Give the number of passes over the data, for example 1."
        )
    return max_epochs


def num_accumulated(rows_per_step: int, batch_size: int) -> int:
    """Returns the micro-batches of an optimizer step; 1 where nothing is trained, but scored."""
    return max(1, rows_per_step // batch_size)


def max_rows(max_steps: int, rows_per_step: int) -> int | None:
    """Returns how many rows `max_steps` optimizer steps take; None for -1, no limit."""
    if max_steps == -1:
        return None
    if max_steps < 1:
        raise UserError(
            f"--trainer.max_steps {max_steps}: wanted a number of optimizer steps of at least 1, "
            f"or -1 for no limit."
        )
    return max_steps * rows_per_step


def val_check_interval(steps: Any, accumulated: int) -> Any:
    """Returns micro-batches between validations for optimizer steps; shares of a run stay."""
    is_steps = isinstance(steps, int) and not isinstance(steps, bool)
    return steps * accumulated if is_steps else steps


# Of each precision that is not right here: why, and the one that is.
HALF = "LoRA and the optimizer's states would be kept in half precision, which loses small steps"
DOUBLE = "4 bits hold no more than float32 does, and it takes twice the memory that is counted"
ENGINE = "its layers would take the place of those in 4 bits"
WRONG_PRECISIONS = {
    "bf16-true": (HALF, "bf16-mixed"),
    "16-true": (HALF, "16-mixed"),
    "64-true": (DOUBLE, "32-true"),
    "64": (DOUBLE, "32-true"),
    "transformer-engine": (ENGINE, "bf16-mixed"),
    "transformer-engine-float16": (ENGINE, "16-mixed"),
}


def refuse_precision(precision: Any) -> None:
    """Refuses what Lightning knows too, but what computes something else than is wanted here."""
    if str(precision) in WRONG_PRECISIONS:
        why, instead = WRONG_PRECISIONS[str(precision)]
        raise UserError(
            f"--trainer.precision {precision}: wanted bf16-mixed, 16-mixed or 32-true, since {why}."
            f" Set it to {instead}."
        )


def refuse_plugins(plugins: Any) -> None:
    """Refuses plugins of Lightning that would take the place of what is decided here.

    Args:
        plugins: as the parser has them: class and arguments of each
    """
    for plugin in listed(plugins):
        name = str(getattr(plugin, "class_path", type(plugin).__name__))
        kind = locate(name)
        if isinstance(kind, type) and issubclass(kind, Precision):
            raise UserError(
                f"--trainer.plugins {name}: the precision has an option of its own, and 4 bits are "
                f"--model.quantization. Leave the plugin away and set --trainer.precision to "
                f"bf16-mixed, 16-mixed or 32-true."
            )
        if isinstance(kind, type) and issubclass(kind, CheckpointIO):
            raise UserError(
                f"--trainer.plugins {name}: checkpoints are written here in a form that shows "
                f"damage, and in the background already. Leave the plugin away."
            )


def best_precision(accelerator: str) -> str:
    """Returns bf16-mixed where the card has bf16, else 16-mixed; 32-true without a card."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
