"""Causal attention inside each example: FlashAttention 2 (Dao 2023), as torch ships it.

Keys and values may have fewer heads than queries. No mask is built: the bounds of the examples say
who sees whom.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Bounds(NamedTuple):
    """Where examples begin and end among the N tokens."""

    starts: Tensor
    """(E + 1) int32: 0, ..., N; where there are fewer examples the last ones are empty"""
    longest: int
    """no example has more tokens"""


class Attended(NamedTuple):
    """What the backward pass needs."""

    output: Tensor
    log_sums: Tensor
    state: tuple[Tensor, Tensor]


def attend(
    q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, scale: float, window: int | None
) -> Attended:
    """Returns (N, num_q, dim) and what to keep.

    Args:
        q: (N, num_q, dim); k and v: (N, num_kv, dim)
        window: how many tokens each one sees at most, itself included; None: all before it
    """
    output, log_sums, seed, offset, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds.starts, bounds.starts, bounds.longest, bounds.longest, 0.0, True, False,
        scale=scale, **_window(window, bounds),
    )  # fmt: skip
    return Attended(output, log_sums, (seed, offset))


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    bounds: Bounds,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v; `grad` is (N, num_q, dim)."""
    return torch.ops.aten._flash_attention_backward(
        grad, q, k, v, attended.output, attended.log_sums, bounds.starts, bounds.starts,
        bounds.longest, bounds.longest, 0.0, True, *attended.state, scale=scale,
        **_window(window, bounds),
    )  # fmt: skip


def _window(window: int | None, bounds: Bounds) -> dict[str, Any]:
    """A window that no example is longer than does nothing, and is slower."""
    if window is None or window >= bounds.longest:
        return {}
    return {"window_size_left": window - 1, "window_size_right": 0}
