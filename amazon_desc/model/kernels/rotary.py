"""Rotary positions (Su et al. 2021) on queries and keys as one projection holds them.

Half a head is rotated against the other half, as transformers does it. Some families normalise
each head before it is rotated. Values pass through untouched. Attention's backward pass rotates
gradients back; those of the norms are found here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel


class Heads(NamedTuple):
    """How queries, keys and values stand side by side: (N, (num_q + 2 num_kv) * dim)."""

    num_q: int
    num_kv: int
    dim: int
    norms: tuple[Tensor, Tensor] | None = None
    """(dim) each: the weights of queries' and keys' norms"""
    eps: float = 0.0
    norm_offset: float = 0.0
    """what is added to the norms' weights"""

    @property
    def num_rotated(self) -> int:
        return self.num_q + self.num_kv

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries (N, num_q, dim), keys and values (N, num_kv, dim) as views."""
        sizes = [self.num_q * self.dim, self.num_kv * self.dim, self.num_kv * self.dim]
        parts = qkv[:, : sum(sizes)].split(sizes, 1)
        return tuple(part.unflatten(1, (-1, self.dim)) for part in parts)  # pyright: ignore


@triton.jit
def _load(place, mask):
    return tl.load(place, mask=mask, other=0).to(tl.float32)


@triton.jit
def angles(cos, sin, position, column, mask, HALF: tl.constexpr):
    """Loads cosines and sines of tokens' positions, in float32."""
    place = position * HALF + column
    return _load(cos + place, mask), _load(sin + place, mask)


@triton.jit
def _scale(a, b, eps, HALF: tl.constexpr):
    """Returns 1 / rms of each head, of its two halves."""
    return tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]


@triton.jit
def _factors(q_norm, k_norm, is_query, column, mask, OFFSET: tl.constexpr):
    q = tl.load(q_norm + column, mask=mask & is_query, other=0).to(tl.float32)
    k = tl.load(k_norm + column, mask=mask & (is_query == 0), other=0).to(tl.float32)
    return OFFSET + q + k  # one of the two is loaded


@Kernel
@triton.jit
def _forward(
    source, target, cos, sin, positions, q_norm, k_norm, source_stride, target_stride, eps,
    NUM_Q: tl.constexpr, NUM_ROTATED: tl.constexpr, HALF: tl.constexpr,
    HAS_NORMS: tl.constexpr, OFFSET: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    mask = (head < NUM_ROTATED) & (column < HALF)
    place = head * 2 * HALF + column
    c, s = angles(cos, sin, tl.load(positions + row), column, mask, HALF)
    a = _load(source + row * source_stride + place, mask)
    b = _load(source + row * source_stride + place + HALF, mask)
    if HAS_NORMS:
        scale = _scale(a, b, eps, HALF)
        is_query = head < NUM_Q
        a = a * scale * _factors(q_norm, k_norm, is_query, column, mask, OFFSET)
        b = b * scale * _factors(q_norm, k_norm, is_query, column + HALF, mask, OFFSET)
    out = target + row * target_stride + place
    tl.store(out, (a * c - b * s).to(target.dtype.element_ty), mask=mask)
    tl.store(out + HALF, (b * c + a * s).to(target.dtype.element_ty), mask=mask)


@Kernel
@triton.jit
def _norm_backward(
    grads, source, q_norm, k_norm, grads_stride, source_stride, eps,
    NUM_Q: tl.constexpr, NUM_ROTATED: tl.constexpr, HALF: tl.constexpr,
    OFFSET: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    mask, is_query = (head < NUM_ROTATED) & (column < HALF), head < NUM_Q
    place = head * 2 * HALF + column
    a = _load(source + row * source_stride + place, mask)
    b = _load(source + row * source_stride + place + HALF, mask)
    scale = _scale(a, b, eps, HALF)
    a, b = a * scale, b * scale
    out = grads + row * grads_stride + place
    da = _load(out, mask) * _factors(q_norm, k_norm, is_query, column, mask, OFFSET)
    db = _load(out + HALF, mask) * _factors(q_norm, k_norm, is_query, column + HALF, mask, OFFSET)
    mean = ((tl.sum(da * a, 1) + tl.sum(db * b, 1)) / (2 * HALF))[:, None]
    tl.store(out, (scale * (da - a * mean)).to(grads.dtype.element_ty), mask=mask)
    tl.store(out + HALF, (scale * (db - b * mean)).to(grads.dtype.element_ty), mask=mask)


class Rotation(NamedTuple):
    """Cosines and sines of every position, and the positions of this batch's tokens."""

    cos: Tensor
    """(positions, dim / 2) float32"""
    sin: Tensor
    positions: Tensor
    """(N) int64"""


def rotate(qkv: Tensor, heads: Heads, rotation: Rotation) -> Tensor:
    """Returns `qkv` (N, columns) with queries and keys rotated; without norms it is changed."""
    target = qkv if heads.norms is None else torch.empty_like(qkv)
    q_norm, k_norm = heads.norms or (qkv, qkv)
    _forward[(qkv.shape[0],)](
        qkv, target, *rotation, q_norm, k_norm, qkv.stride(0), target.stride(0), heads.eps,
        HAS_NORMS=heads.norms is not None, **_shape(heads),
    )  # fmt: skip
    if target is not qkv:
        heads.split(target)[2].copy_(heads.split(qkv)[2])
    return target


def norm_heads_backward(grads: Tensor, qkv: Tensor, heads: Heads) -> None:
    """Turns the gradient of heads that were normalised into that of the projection, in place.

    Args:
        grads: (N, at least the projection's columns)
        qkv: the projection
    """
    assert heads.norms is not None
    _norm_backward[(grads.shape[0],)](
        grads, qkv, *heads.norms, grads.stride(0), qkv.stride(0), heads.eps, **_shape(heads)
    )  # fmt: skip


def _shape(heads: Heads) -> dict[str, Any]:
    return {
        "NUM_Q": heads.num_q,
        "NUM_ROTATED": heads.num_rotated,
        "HALF": heads.dim // 2,
        "OFFSET": heads.norm_offset,
        "HEADS": triton.next_power_of_2(heads.num_rotated),
        "BLOCK": triton.next_power_of_2(heads.dim // 2),
        "num_warps": 4,
    }
