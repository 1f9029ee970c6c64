"""Causal attention inside each example, forward and backward, without a mask in memory.

In come queries, keys and values as one projection holds them, side by side, queries and keys
rotated by their positions, and each token's position in its example: these alone say who sees whom.
Keys and values may have fewer heads than queries. Out of the backward pass come gradients that are
rotated back. The algorithm is FlashAttention's (Dao 2023, https://arxiv.org/abs/2307.08691), over
tokens instead of examples: examples that are far shorter than a row cost what they are long, and
every sum has one order, so a run that is repeated gives the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.attention_tiles import (
    first_key,
    load_heads,
    load_keys,
    rows_of,
    sees,
    starts_of,
    store_heads,
    store_rotated_back,
)
from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.kernels.rotary import Heads, Rotation

# Below every score, and still finite: the difference of two infinities is no number.
_LOWEST = tl.constexpr(-1e30)

LARGE_SHARED_MEMORY = (
    160 * 1024
)  # bytes of shared memory: an A100 has that, smaller cards have 100 KB


class Visibility(NamedTuple):
    """Who sees whom, and how scores are scaled."""

    positions: Tensor
    """(N) int64: of each token in its example"""
    longest: int
    """no example has more tokens"""
    scale: float
    window: int | None
    """how many tokens each one sees at most, itself included; None: all before it"""


class SavedAttention(NamedTuple):
    """What the backward pass needs."""

    output: Tensor
    """(N, num_q * dim + room)"""
    log_sums: Tensor
    """(N, num_q) float32, to the base 2"""


@Kernel
@triton.jit
def _forward(
    qkv, positions, out, log_sums, num_tokens, stride, out_stride, scale,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    WINDOW: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first, kv_head = tl.program_id(0) * QUERIES, tl.program_id(1)
    m, head, is_row = rows_of(first, kv_head, num_tokens, QUERIES, NUM_Q // NUM_KV, ROWS)
    start = starts_of(positions, m, is_row)
    q = load_heads(qkv, m, head, is_row, stride, DIM, WIDTH)
    largest = tl.full((ROWS,), _LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, WIDTH), tl.float32)
    for from_key in range(first_key(positions, first, WINDOW), first + QUERIES, KEYS):
        n = from_key + tl.arange(0, KEYS)
        k, v = load_keys(qkv, n, kv_head, num_tokens, stride, NUM_Q, NUM_KV, DIM, WIDTH)
        scores = tl.dot(q, tl.trans(k)) * scale
        is_seen = sees(m[:, None], start[:, None], n[None, :], WINDOW)
        scores = tl.where(is_seen, scores, 2 * _LOWEST)
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        mean = tl.dot(weights.to(v.dtype), v, mean * shrink[:, None])
        largest = larger
    store_heads(out, mean / total[:, None], m, head, is_row, out_stride, DIM, WIDTH)
    tl.store(log_sums + m * NUM_Q + head, largest + tl.log2(total), mask=is_row)


@Kernel
@triton.jit
def _query_gradients(
    qkv, cos, sin, positions, out, grad, log_sums, deltas, grads, num_tokens,
    stride, out_stride, grad_stride, grads_stride, scale, slope,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    WINDOW: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Also writes, for the keys' turn, the sums of gradient times output: (N, num_q) `deltas`."""
    first, kv_head = tl.program_id(0) * QUERIES, tl.program_id(1)
    m, head, is_row = rows_of(first, kv_head, num_tokens, QUERIES, NUM_Q // NUM_KV, ROWS)
    start = starts_of(positions, m, is_row)
    q = load_heads(qkv, m, head, is_row, stride, DIM, WIDTH)
    d = load_heads(grad, m, head, is_row, grad_stride, DIM, WIDTH)
    o = load_heads(out, m, head, is_row, out_stride, DIM, WIDTH)
    delta = tl.sum(d.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(deltas + m * NUM_Q + head, delta, mask=is_row)
    log_sum = tl.load(log_sums + m * NUM_Q + head, mask=is_row, other=0)
    dq = tl.zeros((ROWS, WIDTH), tl.float32)
    for from_key in range(first_key(positions, first, WINDOW), first + QUERIES, KEYS):
        n = from_key + tl.arange(0, KEYS)
        k, v = load_keys(qkv, n, kv_head, num_tokens, stride, NUM_Q, NUM_KV, DIM, WIDTH)
        is_seen = sees(m[:, None], start[:, None], n[None, :], WINDOW)
        scores = tl.dot(q, tl.trans(k)) * scale - log_sum[:, None]
        weights = tl.exp2(tl.where(is_seen, scores, _LOWEST))
        d_scores = weights * (tl.dot(d, tl.trans(v)) - delta[:, None])
        dq = tl.dot(d_scores.to(k.dtype), k, dq)
    store_rotated_back(
        grads, dq * slope, m, head, is_row, grads_stride, cos, sin, positions, DIM, WIDTH
    )


@Kernel
@triton.jit
def _key_gradients(
    qkv, cos, sin, positions, grad, log_sums, deltas, grads, num_tokens,
    stride, grad_stride, grads_stride, scale, slope,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    WINDOW: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    MOST: tl.constexpr,
):  # fmt: skip
    first, kv_head = tl.program_id(0) * KEYS, tl.program_id(1)
    last = first + KEYS - 1
    n = first + tl.arange(0, KEYS)
    k, v = load_keys(qkv, n, kv_head, num_tokens, stride, NUM_Q, NUM_KV, DIM, WIDTH)
    # Of the blocks of queries from here on, those whose first example has begun by the last key.
    block = first + QUERIES * tl.arange(0, MOST)
    is_near = (block < num_tokens) & (starts_of(positions, block, block < num_tokens) <= last)
    if WINDOW > 0:
        is_near = is_near & (block < last + WINDOW)
    num_blocks = tl.sum(is_near.to(tl.int32), 0)
    dk = tl.zeros((KEYS, WIDTH), tl.float32)
    dv = tl.zeros((KEYS, WIDTH), tl.float32)
    for number in range(num_blocks):
        m, head, is_row = rows_of(
            first + number * QUERIES, kv_head, num_tokens, QUERIES, NUM_Q // NUM_KV, ROWS
        )
        start = starts_of(positions, m, is_row)
        q = load_heads(qkv, m, head, is_row, stride, DIM, WIDTH)
        d = load_heads(grad, m, head, is_row, grad_stride, DIM, WIDTH)
        log_sum = tl.load(log_sums + m * NUM_Q + head, mask=is_row, other=0)
        delta = tl.load(deltas + m * NUM_Q + head, mask=is_row, other=0)
        is_seen = sees(m[None, :], start[None, :], n[:, None], WINDOW) & is_row[None, :]
        scores = tl.dot(k, tl.trans(q)) * scale - log_sum[None, :]
        weights = tl.exp2(tl.where(is_seen, scores, _LOWEST))
        dv = tl.dot(weights.to(d.dtype), d, dv)
        d_scores = weights * (tl.dot(v, tl.trans(d)) - delta[None, :])
        dk = tl.dot(d_scores.to(q.dtype), q, dk)
    is_key = n < num_tokens
    store_rotated_back(
        grads, dk * slope, n, NUM_Q + kv_head, is_key, grads_stride, cos, sin, positions, DIM, WIDTH
    )
    store_heads(grads, dv, n, NUM_Q + NUM_KV + kv_head, is_key, grads_stride, DIM, WIDTH)


def attend(qkv: Tensor, heads: Heads, visibility: Visibility, room: int) -> SavedAttention:
    """Returns the attended values, `room` columns after them unwritten, and what to keep.

    Args:
        qkv: (N, (num_q + 2 num_kv) * dim)
    """
    num_tokens = len(qkv)
    output = qkv.new_empty(num_tokens, heads.num_q * heads.dim + room)
    log_sums = qkv.new_empty(num_tokens, heads.num_q, dtype=torch.float32)
    shape = _shape(heads, visibility, rows=64)
    _forward[(triton.cdiv(num_tokens, shape["QUERIES"]), heads.num_kv)](
        qkv, visibility.positions, output, log_sums, num_tokens, qkv.stride(0), output.stride(0),
        visibility.scale * math.log2(math.e), **shape,
    )  # fmt: skip
    return SavedAttention(output, log_sums)


def attend_backward(
    grad: Tensor,
    qkv: Tensor,
    attended: SavedAttention,
    heads: Heads,
    rotation: Rotation,
    visibility: Visibility,
    room: int,
) -> Tensor:
    """Returns the gradients of queries, keys and values side by side, `room` columns after them.

    Args:
        grad: (N, num_q * dim) that of the attended values
        qkv: queries and keys are rotated; the gradients are of what they were before
    """
    num_tokens = len(qkv)
    grads = qkv.new_empty(num_tokens, (heads.num_rotated + heads.num_kv) * heads.dim + room)
    deltas = torch.empty_like(attended.log_sums)
    shape = _shape(heads, visibility, rows=64)
    scales = (visibility.scale * math.log2(math.e), visibility.scale)
    _query_gradients[(triton.cdiv(num_tokens, shape["QUERIES"]), heads.num_kv)](
        qkv, *rotation, attended.output, grad, attended.log_sums, deltas, grads, num_tokens,
        qkv.stride(0), attended.output.stride(0), grad.stride(0), grads.stride(0), *scales, **shape,
    )  # fmt: skip
    # More rows would not fit registers.
    shape = _shape(heads, visibility, rows=min(128, 8192 // heads.dim))
    # The last token that sees a key, counted from the block's first.
    reach = visibility.longest + shape["KEYS"]
    most = triton.next_power_of_2(triton.cdiv(reach, shape["QUERIES"]))
    _key_gradients[(triton.cdiv(num_tokens, shape["KEYS"]), heads.num_kv)](
        qkv, *rotation, grad, attended.log_sums, deltas, grads, num_tokens,
        qkv.stride(0), grad.stride(0), grads.stride(0), *scales, **shape, MOST=most,
    )  # fmt: skip
    return grads


def queries_at_a_time(heads: Heads, visibility: Visibility) -> int:
    """Returns how many tokens' queries a program of the forward pass has."""
    return _shape(heads, visibility, rows=64)["QUERIES"]


def _shape(heads: Heads, visibility: Visibility, rows: int) -> dict[str, int]:
    """Returns the sizes that a kernel is compiled for.

    Args:
        rows: of a tile, on a card with plenty of shared memory
    """
    # A window that no example is longer than does nothing.
    window = visibility.window or 0
    window = 0 if window >= visibility.longest else window
    is_wide, is_small = heads.dim > 128, _shared_memory(visibility.positions) < LARGE_SHARED_MEMORY
    rows = rows // 2 if is_small else rows
    group = heads.num_q // heads.num_kv
    queries = max(1, 2 ** int(math.log2(rows / group)))
    return {
        "NUM_Q": heads.num_q,
        "NUM_KV": heads.num_kv,
        "DIM": heads.dim,
        "WIDTH": max(16, triton.next_power_of_2(heads.dim)),
        "WINDOW": window,
        "QUERIES": queries,
        "ROWS": max(16, triton.next_power_of_2(queries * group)),
        "KEYS": 16 if is_wide else 32,
        "num_warps": 4,
        "num_stages": 1 if is_small else 2 if is_wide else 3,
    }


def _shared_memory(tensor: Tensor) -> int:
    """Returns the bytes that one program may have."""
    if not tensor.is_cuda:
        return LARGE_SHARED_MEMORY
    return torch.cuda.get_device_properties(tensor.device).shared_memory_per_block_optin
