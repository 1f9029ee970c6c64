"""Keys and values of what every slot holds, and the attention of one new token a slot to them.

In come queries, keys and values of new tokens as one projection holds them, rotated; keys and
values are kept at their places, and out goes what each slot's token attends to. Keys are read in
blocks that begin at multiples of their size, so a text's sums have one order, whoever is beside it.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.attention_tiles import columns_of
from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.kernels.rotary import Heads

KEYS = 64  # of a block

# Below every score, and still finite: the difference of two infinities is no number.
_LOWEST = tl.constexpr(-1e30)


class Cache:
    """Keys and values of one layer.

    Args:
        length: most tokens of a slot
    """

    def __init__(
        self, heads: Heads, num_slots: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (num_slots, heads.num_kv, length, heads.dim)
        self.heads, self.length = heads, length
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)


@Kernel
@triton.jit
def _keep(
    qkv, slots, positions, keys, values, stride, length,
    NUM_Q: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr, HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot, position = tl.load(slots + row), tl.load(positions + row)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (head < NUM_KV) & (column < DIM) & (slot >= 0)
    source = qkv + row * stride + (NUM_Q + head) * DIM + column
    place = ((slot * NUM_KV + head) * length + position) * DIM + column
    tl.store(keys + place, tl.load(source, mask=inside), mask=inside)
    tl.store(values + place, tl.load(source + NUM_KV * DIM, mask=inside), mask=inside)


@Kernel
@triton.jit
def _attend(
    qkv, positions, keys, values, out, stride, length, scale,
    NUM_KV: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    DIM: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    slot, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    last = tl.load(positions + slot).to(tl.int32)
    row = tl.arange(0, ROWS)
    column, is_column = columns_of(DIM, WIDTH)
    is_inside = (row < GROUP)[:, None] & is_column[None, :]
    q_place = (kv_head * GROUP + row)[:, None] * DIM + column[None, :]
    q = tl.load(qkv + slot * stride + q_place, mask=is_inside, other=0)
    largest = tl.full((ROWS,), _LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, WIDTH), tl.float32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(last - WINDOW + 1, 0) // KEYS * KEYS
    for from_key in range(first, last + 1, KEYS):
        n = from_key + tl.arange(0, KEYS)
        is_seen = n <= last
        if WINDOW > 0:
            is_seen = is_seen & (n > last - WINDOW)
        place = ((slot * NUM_KV + kv_head) * length + n)[:, None] * DIM + column[None, :]
        is_loaded = is_seen[:, None] & is_column[None, :]
        k = tl.load(keys + place, mask=is_loaded, other=0)
        scores = tl.where(is_seen[None, :], tl.dot(q, tl.trans(k)) * scale, 2 * _LOWEST)
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        v = tl.load(values + place, mask=is_loaded, other=0)
        total = total * shrink + tl.sum(weights, 1)
        mean = tl.dot(weights.to(v.dtype), v, mean * shrink[:, None])
        largest = larger
    attended = (mean / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + slot * NUM_KV * GROUP * DIM + q_place, attended, mask=is_inside)


def keep(cache: Cache, qkv: Tensor, slots: Tensor, positions: Tensor) -> None:
    """Keeps keys and values of N tokens.

    Args:
        qkv: (N, (num_q + 2 num_kv) * dim), rotated
        slots: (N) int64; -1: none, the token is padding
        positions: (N) int64: of each token in its slot
    """
    heads = cache.heads
    _keep[(len(qkv),)](
        qkv, slots, positions, cache.keys, cache.values, qkv.stride(0), cache.length,
        NUM_Q=heads.num_q, NUM_KV=heads.num_kv, DIM=heads.dim,
        HEADS=triton.next_power_of_2(heads.num_kv), BLOCK=triton.next_power_of_2(heads.dim),
        num_warps=4,
    )  # fmt: skip


def attend(
    cache: Cache, qkv: Tensor, positions: Tensor, scale: float, window: int | None
) -> Tensor:
    """Returns what each slot's token attends to, (S, num_q * dim); its own key is kept already.

    Args:
        qkv: (S, (num_q + 2 num_kv) * dim), rotated: a token a slot
        positions: (S) int64
        window: how many tokens each one sees at most, itself included; None: all before it
    """
    heads = cache.heads
    group = heads.num_q // heads.num_kv
    out = qkv.new_empty(len(qkv), heads.num_q * heads.dim)
    is_wide = heads.dim > 128
    _attend[(len(qkv), heads.num_kv)](
        qkv, positions, cache.keys, cache.values, out, qkv.stride(0), cache.length,
        scale * math.log2(math.e),
        NUM_KV=heads.num_kv, GROUP=group, ROWS=max(16, triton.next_power_of_2(group)),
        DIM=heads.dim, WIDTH=max(16, triton.next_power_of_2(heads.dim)),
        WINDOW=0 if window is None or window >= cache.length else window,
        KEYS=KEYS // 2 if is_wide else KEYS, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
