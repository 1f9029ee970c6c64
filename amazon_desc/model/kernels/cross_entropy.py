"""Cross-entropy of logits and its gradient, in place, a row of the vocabulary a program.

In come logits in bf16 or fp16, out go the losses, and in the logits' place their gradient: a second
matrix of that size would be the largest of all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel

BLOCK = 4096


@triton.jit
def _shaped(logits, scale, cap, HAS_CAP: tl.constexpr):
    logits = logits * scale
    if HAS_CAP:
        logits = cap * (2 * tl.sigmoid(2 * logits / cap) - 1)
    return logits


@Kernel
@triton.jit
def _cross_entropy(
    logits,
    targets,
    losses,
    num_columns,
    stride,
    scale,
    cap,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    # Before the barriers of the sums below: after the last, other warps write gradients over it.
    target = tl.load(targets + row)
    wanted = _shaped(tl.load(start + target).to(tl.float32), scale, cap, HAS_CAP)
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(0, num_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < num_columns
        values = tl.load(start + column, mask=inside, other=float("-inf")).to(tl.float32)
        values = tl.where(inside, _shaped(values, scale, cap, HAS_CAP), float("-inf"))
        larger = tl.maximum(largest, tl.max(values, 0))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(values - larger), 0)
        largest = larger
    log_sum = largest + tl.log(total)
    tl.store(losses + row, log_sum - wanted)
    for first in range(0, num_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < num_columns
        values = tl.load(start + column, mask=inside).to(tl.float32)
        values = _shaped(values, scale, cap, HAS_CAP)
        grad = tl.exp(values - log_sum) - tl.where(column == target, 1.0, 0.0)
        if HAS_CAP:
            grad = grad * (1 - (values / cap) * (values / cap))
        tl.store(start + column, (grad * scale).to(logits.dtype.element_ty), mask=inside)


def cross_entropy_(
    logits: Tensor, targets: Tensor, cap: float | None, scale: float = 1.0
) -> Tensor:
    """Returns the loss in nats of each row, (M) float32; the logits become their gradient.

    Args:
        logits: (M, V)
        targets: (M) int64
        cap: after that they become cap * tanh(logits / cap); None: they stay
        scale: what the logits are multiplied by first
    """
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    _cross_entropy[(len(logits),)](
        logits, targets, losses, logits.shape[1], logits.stride(0), scale, cap or 1.0,
        HAS_CAP=cap is not None, BLOCK=BLOCK, num_warps=16,
    )  # fmt: skip
    return losses
