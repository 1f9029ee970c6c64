"""The gradients that an optimizer steps with: set to zero, multiplied and clipped all at once.

In comes an optimizer, its parameters' gradients are changed in place. Hundreds of small matrices
are handed to torch together: one by one they would cost the host more than the step costs a GPU.
"""

# torch exports no other functions that take many tensors.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for p in parameters_of(optimizer) if p.grad is not None]


def zero(optimizer: Optimizer) -> None:
    """Sets the gradients to zero where they are."""
    if gradients := gradients_of(optimizer):
        torch._foreach_zero_(gradients)


def multiply(optimizer: Optimizer, factor: float) -> None:
    torch._foreach_mul_(gradients_of(optimizer), factor)


def norm_of(optimizer: Optimizer) -> Tensor:
    return nn.utils.get_total_norm(gradients_of(optimizer))


def clip(optimizer: Optimizer, norm: Tensor, largest: float | None, algorithm: str | None) -> None:
    """Clips as Lightning does, which refuses to for fused optimizers in mixed precision.

    Args:
        norm: what `norm_of` gave; it is not computed again
        largest: the norm, or with the algorithm `value` each number, that stays; None or 0: all
    """
    if not largest:
        return
    if algorithm == "value":
        nn.utils.clip_grad_value_(parameters_of(optimizer), largest)
    else:
        nn.utils.clip_grads_with_norm_(parameters_of(optimizer), largest, norm)
