"""Gradients that an optimizer steps with: set to zero, multiplied and clipped.

In come the gradients of all parameters, in any number of tensors; they are changed in place. The
fused path has one tensor of all, so it is no loss that torch has no public function for many.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def zero(gradients: list[Tensor]) -> None:
    """Sets them to zero where they are."""
    for gradient in gradients:
        gradient.zero_()


def multiply(gradients: list[Tensor], factor: float | Tensor) -> None:
    for gradient in gradients:
        gradient.mul_(factor)


def norm_of(gradients: list[Tensor]) -> Tensor:
    """Returns the norm of all together, () float32."""
    return nn.utils.get_total_norm(gradients)


def clip(
    gradients: list[Tensor], norm: Tensor, largest: float | None, algorithm: str | None
) -> None:
    """Clips as Lightning does, which refuses to for fused optimizers in mixed precision.

    Args:
        norm: what `norm_of` gave; it is not computed again
        largest: the norm, or with the algorithm `value` each number, that stays; None or 0: all
    """
    if not largest:
        return
    if algorithm == "value":
        for gradient in gradients:
            gradient.clamp_(-largest, largest)
    else:  # as torch.nn.utils.clip_grads_with_norm_ does
        multiply(gradients, torch.clamp(largest / (norm + 1e-6), max=1.0))
