"""Rotary positions (Su et al. 2021) on queries and keys as one projection holds them.

Half a head is rotated against the other half, as transformers does it. Gemma normalises each head
before it is rotated. Forward and backward; values pass through untouched.
"""

# Triton comes with torch for CUDA only.
# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Heads(NamedTuple):
    """How queries, keys and values stand side by side: (N, (num_q + 2 num_kv) * dim)."""

    num_q: int
    num_kv: int
    dim: int
    norms: tuple[Tensor, Tensor] | None = None
    """(dim) each: the weights of queries' and keys' norms; Gemma only"""
    eps: float = 0.0

    @property
    def num_rotated(self) -> int:
        return self.num_q + self.num_kv

    def split(self, both: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries (N, num_q, dim), keys and values (N, num_kv, dim) as views."""
        sizes = [self.num_q * self.dim, self.num_kv * self.dim, self.num_kv * self.dim]
        parts = both[:, : sum(sizes)].split(sizes, 1)
        return tuple(part.unflatten(1, (-1, self.dim)) for part in parts)  # pyright: ignore


@triton.jit
def _load(place, mask):
    return tl.load(place, mask=mask, other=0).to(tl.float32)


@triton.jit
def _factors(q_norm, k_norm, is_query, column, mask):
    q = tl.load(q_norm + column, mask=mask & is_query, other=0).to(tl.float32)
    k = tl.load(k_norm + column, mask=mask & (is_query == 0), other=0).to(tl.float32)
    return 1 + q + k  # one of the two is loaded


@triton.jit
def _forward(
    source, target, cos, sin, positions, q_norm, k_norm, source_stride, target_stride, eps,
    NUM_Q: tl.constexpr, NUM_ROTATED: tl.constexpr, HALF: tl.constexpr,
    HAS_NORMS: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    mask = (head < NUM_ROTATED) & (column < HALF)
    place = head * 2 * HALF + column
    position = tl.load(positions + row)
    c = _load(cos + position * HALF + column, mask)
    s = _load(sin + position * HALF + column, mask)
    a = _load(source + row * source_stride + place, mask)
    b = _load(source + row * source_stride + place + HALF, mask)
    if HAS_NORMS:
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        is_query = head < NUM_Q
        a = a * scale * _factors(q_norm, k_norm, is_query, column, mask)
        b = b * scale * _factors(q_norm, k_norm, is_query, column + HALF, mask)
    out = target + row * target_stride + place
    tl.store(out, (a * c - b * s).to(target.dtype.element_ty), mask=mask)
    tl.store(out + HALF, (b * c + a * s).to(target.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    dq, dk, dv, source, target, cos, sin, positions, q_norm, k_norm,
    source_stride, target_stride, eps,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, HALF: tl.constexpr,
    HAS_NORMS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = column < HALF
    is_query = head < NUM_Q
    mask = (head < NUM_Q + NUM_KV) & inside
    q_place = dq + row * NUM_Q * 2 * HALF + head * 2 * HALF + column
    k_place = dk + row * NUM_KV * 2 * HALF + (head - NUM_Q) * 2 * HALF + column
    q_mask, k_mask = mask & is_query, mask & (head >= NUM_Q)
    a = _load(q_place, q_mask) + _load(k_place, k_mask)
    b = _load(q_place + HALF, q_mask) + _load(k_place + HALF, k_mask)
    position = tl.load(positions + row)
    c = _load(cos + position * HALF + column, mask)
    s = _load(sin + position * HALF + column, mask)
    place = head * 2 * HALF + column
    da, db = a * c + b * s, b * c - a * s
    if HAS_NORMS:
        a = _load(source + row * source_stride + place, mask)
        b = _load(source + row * source_stride + place + HALF, mask)
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        a, b = a * scale, b * scale
        da = da * _factors(q_norm, k_norm, is_query, column, mask)
        db = db * _factors(q_norm, k_norm, is_query, column + HALF, mask)
        mean = ((tl.sum(da * a, 1) + tl.sum(db * b, 1)) / (2 * HALF))[:, None]
        da, db = scale * (da - a * mean), scale * (db - b * mean)
    out = target + row * target_stride + place
    tl.store(out, da.to(target.dtype.element_ty), mask=mask)
    tl.store(out + HALF, db.to(target.dtype.element_ty), mask=mask)
    kv_head = tl.arange(0, KV_HEADS)[:, None]
    kv_mask = (kv_head < NUM_KV) & inside
    kv_place = kv_head * 2 * HALF + column
    values = dv + row * NUM_KV * 2 * HALF + kv_place
    out = target + row * target_stride + (NUM_Q + NUM_KV) * 2 * HALF + kv_place
    tl.store(out, tl.load(values, mask=kv_mask), mask=kv_mask)
    tl.store(out + HALF, tl.load(values + HALF, mask=kv_mask), mask=kv_mask)


class Rotation(NamedTuple):
    """Cosines and sines of every position, and the positions of this batch's tokens."""

    cos: Tensor
    """(positions, dim / 2) float32"""
    sin: Tensor
    positions: Tensor
    """(N) int64"""


def rotate(both: Tensor, heads: Heads, rotation: Rotation) -> Tensor:
    """Returns `both` (N, columns) with queries and keys rotated; without norms it is changed."""
    target = both if heads.norms is None else torch.empty_like(both)
    q_norm, k_norm = heads.norms or (both, both)
    _forward[(both.shape[0],)](
        both, target, *rotation, q_norm, k_norm, both.stride(0), target.stride(0), heads.eps,
        NUM_Q=heads.num_q, NUM_ROTATED=heads.num_rotated, HALF=heads.dim // 2,
        HAS_NORMS=heads.norms is not None, **_shape(heads),
    )  # fmt: skip
    if target is not both:
        heads.split(target)[2].copy_(heads.split(both)[2])
    return target


def rotate_backward(
    grads: tuple[Tensor, Tensor, Tensor], both: Tensor, heads: Heads, rotation: Rotation, room: int
) -> Tensor:
    """Returns the gradient of the projection, (N, columns + room).

    Args:
        grads: of queries, keys and values, contiguous
        both: the projection before it was rotated; only read where heads have norms
    """
    num_rows = both.shape[0]
    columns = (heads.num_rotated + heads.num_kv) * heads.dim
    target = both.new_empty(num_rows, columns + room)
    q_norm, k_norm = heads.norms or (both, both)
    _backward[(num_rows,)](
        *grads, both, target, *rotation, q_norm, k_norm, both.stride(0), target.stride(0),
        heads.eps, NUM_Q=heads.num_q, NUM_KV=heads.num_kv, HALF=heads.dim // 2,
        HAS_NORMS=heads.norms is not None, KV_HEADS=triton.next_power_of_2(heads.num_kv),
        **_shape(heads),
    )  # fmt: skip
    return target


def _shape(heads: Heads) -> dict[str, int]:
    return {
        "HEADS": triton.next_power_of_2(heads.num_rotated),
        "BLOCK": triton.next_power_of_2(heads.dim // 2),
        "num_warps": 4,
    }
