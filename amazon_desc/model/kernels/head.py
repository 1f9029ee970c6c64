"""The head and the loss, at the positions before a target, a part of them at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from amazon_desc.model.cost.memory import LOGITS, positions_at_a_time
from amazon_desc.model.kernels.cross_entropy import cross_entropy_


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    before_targets: Tensor,
    targets: Tensor,
    cap: float | None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Returns the summed loss in nats, () float32, and its gradient (M, H) before targets.

    Args:
        hidden: (N, H)
        weight: (V, H)
        before_targets: (M) int64: which tokens have a target after them
        targets: (M) int64
        cap: soft cap of the logits; None: there is none
        scale: what the logits are multiplied by before that
    """
    chosen = hidden[before_targets]
    grad = torch.empty_like(chosen)
    size = positions_at_a_time(len(weight), LOGITS)
    losses = []
    for start in range(0, len(chosen), size):
        part = slice(start, start + size)
        logits = chosen[part] @ weight.t()
        losses.append(cross_entropy_(logits, targets[part], cap, scale).sum())
        torch.mm(logits, weight, out=grad[part])
    if not losses:  # a micro-batch without a target
        return torch.zeros((), device=hidden.device), grad
    return torch.stack(losses).sum(), grad
