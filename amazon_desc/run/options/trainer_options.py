"""What follows from options: passes, rows and micro-batches as Lightning and the data want them.

In come options as they were given, out go numbers, or a refusal. To Lightning a run is one epoch
without a limit of steps, since it resumes exactly only inside of an epoch; the order of the rows
knows the real epochs, and ends where the steps end.
"""

from __future__ import annotations

from typing import Any

import torch

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


def best_precision(accelerator: str) -> str:
    """Returns bf16-mixed where the card has bf16, else 16-mixed; 32-true without a card."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
