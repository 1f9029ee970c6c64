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

from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.kernels.rotary import Heads, Rotation, angles

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


@triton.jit
def _rows(
    first, kv_head, num_tokens, QUERIES: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr
):
    """Returns token and head of each row of a tile, and whether it is one.

    The heads that share keys stand together: of 2 tokens and heads 4 and 5, the rows

        token = 0 0 1 1    head = 4 5 4 5
    """
    row = tl.arange(0, ROWS)
    token = first + row // GROUP
    return token, kv_head * GROUP + row % GROUP, (row < QUERIES * GROUP) & (token < num_tokens)


@triton.jit
def _columns(DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Returns which columns of a head those of a tile hold, and whether they hold any.

    Half a head fills half a tile, so that halves can be told apart.
    """
    column = tl.arange(0, WIDTH)
    is_column = column < DIM
    if WIDTH > DIM:
        is_column = column % (WIDTH // 2) < DIM // 2
        column = tl.where(column < WIDTH // 2, column, column - (WIDTH - DIM) // 2)
    return column, is_column


@triton.jit
def _load(source, tokens, heads, is_row, stride, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Loads a tile of heads, (rows, WIDTH); zeros outside."""
    column, is_column = _columns(DIM, WIDTH)
    place = source + (tokens.to(tl.int64) * stride + heads * DIM)[:, None] + column[None, :]
    return tl.load(place, mask=is_row[:, None] & is_column[None, :], other=0)


@triton.jit
def _keys(
    qkv, n, kv_head, num_tokens, stride,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Loads keys and values of tokens."""
    is_token = n < num_tokens
    k = _load(qkv, n, NUM_Q + kv_head, is_token, stride, DIM, WIDTH)
    return k, _load(qkv, n, NUM_Q + NUM_KV + kv_head, is_token, stride, DIM, WIDTH)


@triton.jit
def _store(target, values, tokens, heads, is_row, stride, DIM: tl.constexpr, WIDTH: tl.constexpr):
    column, is_column = _columns(DIM, WIDTH)
    place = target + (tokens.to(tl.int64) * stride + heads * DIM)[:, None] + column[None, :]
    is_inside = is_row[:, None] & is_column[None, :]
    tl.store(place, values.to(target.dtype.element_ty), mask=is_inside)


@triton.jit
def _store_rotated_back(
    target, grad, tokens, heads, is_row, stride, cos, sin, positions,
    DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Stores the gradient of heads before they were rotated."""
    HALF: tl.constexpr = DIM // 2
    halves = tl.reshape(grad, (grad.shape[0], 2, WIDTH // 2))
    a, b = tl.split(tl.permute(halves, (0, 2, 1)))
    column = tl.arange(0, WIDTH // 2)[None, :]
    is_inside = is_row[:, None] & (column < HALF)
    position = tl.load(positions + tokens, mask=is_row, other=0)[:, None]
    c, s = angles(cos, sin, position, column, is_inside, HALF)
    place = target + (tokens.to(tl.int64) * stride + heads * DIM)[:, None] + column
    tl.store(place, (a * c + b * s).to(target.dtype.element_ty), mask=is_inside)
    tl.store(place + HALF, (b * c - a * s).to(target.dtype.element_ty), mask=is_inside)


@triton.jit
def _starts(positions, tokens, is_row):
    """Returns where the example of each token begins."""
    return tokens - tl.load(positions + tokens, mask=is_row, other=0).to(tl.int32)


@triton.jit
def _sees(m, start, n, WINDOW: tl.constexpr):
    """Says whether token m, of an example that begins at `start`, sees token n."""
    is_seen = (n <= m) & (n >= start)
    if WINDOW > 0:
        is_seen = is_seen & (n > m - WINDOW)
    return is_seen


@triton.jit
def _first_key(positions, first, WINDOW: tl.constexpr):
    """Returns the first token that any of those from `first` on sees."""
    lowest = first - tl.load(positions + first).to(tl.int32)
    if WINDOW > 0:
        lowest = tl.maximum(lowest, first - WINDOW + 1)
    return lowest


@Kernel
@triton.jit
def _forward(
    qkv, positions, out, log_sums, num_tokens, stride, out_stride, scale,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    WINDOW: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first, kv_head = tl.program_id(0) * QUERIES, tl.program_id(1)
    m, head, is_row = _rows(first, kv_head, num_tokens, QUERIES, NUM_Q // NUM_KV, ROWS)
    start = _starts(positions, m, is_row)
    q = _load(qkv, m, head, is_row, stride, DIM, WIDTH)
    largest = tl.full((ROWS,), _LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, WIDTH), tl.float32)
    for from_key in range(_first_key(positions, first, WINDOW), first + QUERIES, KEYS):
        n = from_key + tl.arange(0, KEYS)
        k, v = _keys(qkv, n, kv_head, num_tokens, stride, NUM_Q, NUM_KV, DIM, WIDTH)
        scores = tl.dot(q, tl.trans(k)) * scale
        is_seen = _sees(m[:, None], start[:, None], n[None, :], WINDOW)
        scores = tl.where(is_seen, scores, 2 * _LOWEST)
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        mean = tl.dot(weights.to(v.dtype), v, mean * shrink[:, None])
        largest = larger
    _store(out, mean / total[:, None], m, head, is_row, out_stride, DIM, WIDTH)
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
    m, head, is_row = _rows(first, kv_head, num_tokens, QUERIES, NUM_Q // NUM_KV, ROWS)
    start = _starts(positions, m, is_row)
    q = _load(qkv, m, head, is_row, stride, DIM, WIDTH)
    d = _load(grad, m, head, is_row, grad_stride, DIM, WIDTH)
    o = _load(out, m, head, is_row, out_stride, DIM, WIDTH)
    delta = tl.sum(d.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(deltas + m * NUM_Q + head, delta, mask=is_row)
    log_sum = tl.load(log_sums + m * NUM_Q + head, mask=is_row, other=0)
    dq = tl.zeros((ROWS, WIDTH), tl.float32)
    for from_key in range(_first_key(positions, first, WINDOW), first + QUERIES, KEYS):
        n = from_key + tl.arange(0, KEYS)
        k, v = _keys(qkv, n, kv_head, num_tokens, stride, NUM_Q, NUM_KV, DIM, WIDTH)
        is_seen = _sees(m[:, None], start[:, None], n[None, :], WINDOW)
        scores = tl.dot(q, tl.trans(k)) * scale - log_sum[:, None]
        weights = tl.exp2(tl.where(is_seen, scores, _LOWEST))
        d_scores = weights * (tl.dot(d, tl.trans(v)) - delta[:, None])
        dq = tl.dot(d_scores.to(k.dtype), k, dq)
    _store_rotated_back(
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
    k, v = _keys(qkv, n, kv_head, num_tokens, stride, NUM_Q, NUM_KV, DIM, WIDTH)
    # Of the blocks of queries from here on, those whose first example has begun by the last key.
    block = first + QUERIES * tl.arange(0, MOST)
    is_near = (block < num_tokens) & (_starts(positions, block, block < num_tokens) <= last)
    if WINDOW > 0:
        is_near = is_near & (block < last + WINDOW)
    num_blocks = tl.sum(is_near.to(tl.int32), 0)
    dk = tl.zeros((KEYS, WIDTH), tl.float32)
    dv = tl.zeros((KEYS, WIDTH), tl.float32)
    for number in range(num_blocks):
        m, head, is_row = _rows(
            first + number * QUERIES, kv_head, num_tokens, QUERIES, NUM_Q // NUM_KV, ROWS
        )
        start = _starts(positions, m, is_row)
        q = _load(qkv, m, head, is_row, stride, DIM, WIDTH)
        d = _load(grad, m, head, is_row, grad_stride, DIM, WIDTH)
        log_sum = tl.load(log_sums + m * NUM_Q + head, mask=is_row, other=0)
        delta = tl.load(deltas + m * NUM_Q + head, mask=is_row, other=0)
        is_seen = _sees(m[None, :], start[None, :], n[:, None], WINDOW) & is_row[None, :]
        scores = tl.dot(k, tl.trans(q)) * scale - log_sum[None, :]
        weights = tl.exp2(tl.where(is_seen, scores, _LOWEST))
        dv = tl.dot(weights.to(d.dtype), d, dv)
        d_scores = weights * (tl.dot(v, tl.trans(d)) - delta[None, :])
        dk = tl.dot(d_scores.to(q.dtype), q, dk)
    is_key = n < num_tokens
    _store_rotated_back(
        grads, dk * slope, n, NUM_Q + kv_head, is_key, grads_stride, cos, sin, positions, DIM, WIDTH
    )
    _store(grads, dv, n, NUM_Q + NUM_KV + kv_head, is_key, grads_stride, DIM, WIDTH)


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
