"""Gradients that an optimizer steps with: set to zero, multiplied and clipped all at once.

In come the gradients of all parameters, in any number of tensors; they are changed in place.
Hundreds of small matrices are handed to torch together: one by one they would cost the host more
than the step costs a GPU.
"""

# torch exports no other functions that take many tensors.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def zero(gradients: list[Tensor]) -> None:
    """Sets them to zero where they are."""
    if gradients:
        torch._foreach_zero_(gradients)


def multiply(gradients: list[Tensor], factor: float | Tensor) -> None:
    torch._foreach_mul_(gradients, factor)


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
        torch._foreach_clamp_min_(gradients, -largest)
        torch._foreach_clamp_max_(gradients, largest)
    else:  # as torch.nn.utils.clip_grads_with_norm_ does
        multiply(gradients, torch.clamp(largest / (norm + 1e-6), max=1.0))
