"""The tiles of attention's kernels: which heads of which tokens they hold, and who sees whom.

In come places in a projection as it lies in memory, out go tiles of it, or gradients into it. All
of it is called from the kernels of attention.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amazon_desc.model.kernels.rotary import angles


@triton.jit
def rows_of(
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
def columns_of(DIM: tl.constexpr, WIDTH: tl.constexpr):
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
def load_heads(source, tokens, heads, is_row, stride, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Loads a tile of heads, (rows, WIDTH); zeros outside."""
    column, is_column = columns_of(DIM, WIDTH)
    place = source + (tokens.to(tl.int64) * stride + heads * DIM)[:, None] + column[None, :]
    return tl.load(place, mask=is_row[:, None] & is_column[None, :], other=0)


@triton.jit
def load_keys(
    qkv, n, kv_head, num_tokens, stride,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Loads keys and values of tokens."""
    is_token = n < num_tokens
    k = load_heads(qkv, n, NUM_Q + kv_head, is_token, stride, DIM, WIDTH)
    return k, load_heads(qkv, n, NUM_Q + NUM_KV + kv_head, is_token, stride, DIM, WIDTH)


@triton.jit
def store_heads(
    target, values, tokens, heads, is_row, stride, DIM: tl.constexpr, WIDTH: tl.constexpr
):
    column, is_column = columns_of(DIM, WIDTH)
    place = target + (tokens.to(tl.int64) * stride + heads * DIM)[:, None] + column[None, :]
    is_inside = is_row[:, None] & is_column[None, :]
    tl.store(place, values.to(target.dtype.element_ty), mask=is_inside)


@triton.jit
def store_rotated_back(
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
def starts_of(positions, tokens, is_row):
    """Returns where the example of each token begins."""
    return tokens - tl.load(positions + tokens, mask=is_row, other=0).to(tl.int32)


@triton.jit
def sees(m, start, n, WINDOW: tl.constexpr):
    """Says whether token m, of an example that begins at `start`, sees token n."""
    is_seen = (n <= m) & (n >= start)
    if WINDOW > 0:
        is_seen = is_seen & (n > m - WINDOW)
    return is_seen


@triton.jit
def first_key(positions, first, WINDOW: tl.constexpr):
    """Returns the first token that any of those from `first` on sees."""
    lowest = first - tl.load(positions + first).to(tl.int32)
    if WINDOW > 0:
        lowest = tl.maximum(lowest, first - WINDOW + 1)
    return lowest
