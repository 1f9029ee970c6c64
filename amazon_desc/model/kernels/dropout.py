"""LoRA's dropout: the inputs of one pair of matrices, zeroed by chance, the rest scaled up.

The mask is a function of seed, salt and place, so it is recomputed instead of being kept, and a
resumed run meets the same one. The kernels that make such inputs write them under the mask too, by
under_mask(). One call of the generator (Philox 4x32 of 7 rounds: Salmon et al. 2011, Parallel
random numbers) gives 16 bits to each of 8 columns, so shares are rounded to 1 / 65,536.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel

BLOCK = 1024
ROWS, COLUMNS, NUM_WARPS = 32, 128, 4  # of a tile of add_product


@triton.jit
def keeps(seed, salt, row, group, num_columns, threshold):
    """Returns which values the mask leaves, in blocks eight times as long as those of `group`.

    Args:
        seed: pointer to an int64
        row: number, or block that `group` is broadcast to
        group: block of numbers of eights of columns
    """
    place = (row * tl.cdiv(num_columns, 8) + group).to(tl.int32)
    zero = place * 0
    # The salt is not added to the seed: seeds of micro-batches are neighbours, as salts are.
    a, b, c, d = tl.philox(tl.load(seed), place, zero + salt, zero, zero, 7)
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    return tl.interleave(words & 0xFFFF, words >> 16) >= threshold


@triton.jit
def under_mask(values, seed, salt, row, group, num_columns, threshold, mask_scale):
    """Returns values under the mask in float32, from keeps() with the same arguments."""
    kept = keeps(seed, salt, row, group, num_columns, threshold)
    return tl.where(kept, values.to(tl.float32) * mask_scale, 0.0)


@Kernel
@triton.jit(do_not_specialize=["salt"])
def _apply(
    source, target, seed, salt, threshold, mask_scale, num_columns, source_stride, target_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    inside = column < num_columns
    values = tl.load(source + row * source_stride + column, mask=inside, other=0)
    values = under_mask(values, seed, salt, row, group, num_columns, threshold, mask_scale)
    place = target + row * target_stride + column
    tl.store(place, values.to(target.dtype.element_ty), mask=inside)


@Kernel
@triton.jit(do_not_specialize=["salt"])
def _add_product(
    left, right, out, seed, salt, threshold, mask_scale, num_rows, num_columns,
    left_stride, right_stride, out_stride,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    group = tl.program_id(1) * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8)[None, :]
    is_row, is_column = row < num_rows, column < num_columns
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, DEPTH, BLOCK):
        inner = start + tl.arange(0, BLOCK)
        left_place = left + row * left_stride + inner[None, :]
        left_block = tl.load(left_place, mask=is_row & (inner < DEPTH)[None, :], other=0)
        right_place = right + inner[:, None] * right_stride + column
        right_block = tl.load(right_place, mask=(inner < DEPTH)[:, None] & is_column, other=0)
        product = tl.dot(left_block, right_block, product)
    grad = under_mask(product, seed, salt, row, group, num_columns, threshold, mask_scale)
    place = out + row * out_stride + column
    inside = is_row & is_column
    total = tl.load(place, mask=inside, other=0).to(tl.float32) + grad
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)


class Dropout:
    """One mask: that of `salt` among those of a seed.

    Args:
        share: of the values that become 0, from 0 to below 1
        seed: () int64 on the device, another one for each micro-batch
        salt: tells the layers of a model apart
    """

    def __init__(self, share: float, seed: Tensor, salt: int) -> None:
        self.seed, self.salt = seed, salt
        self.threshold = min(round(share * 65536), 65535)
        self.mask_scale = 65536 / (65536 - self.threshold)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (N, K) values under the mask."""
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        num_rows, num_columns = x.shape
        _apply[(num_rows, triton.cdiv(num_columns, BLOCK))](
            x, out, *arguments(self, x), num_columns, x.stride(0), out.stride(0), BLOCK=BLOCK
        )
        return out

    def add_product(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Adds left @ right under the mask to `out`, summed up in float32.

        Args:
            left: (N, R)
            right: (R, K)
            out: (N, K); the rows of all three may be apart
        """
        (num_rows, num_columns), depth = out.shape, left.shape[1]
        _add_product[(triton.cdiv(num_rows, ROWS), triton.cdiv(num_columns, COLUMNS))](
            left, right, out, *arguments(self, out), num_rows, num_columns,
            left.stride(0), right.stride(0), out.stride(0),
            DEPTH=depth, ROWS=ROWS, COLUMNS=COLUMNS,
            BLOCK=min(64, max(16, triton.next_power_of_2(depth))), num_warps=NUM_WARPS,
        )  # fmt: skip


def arguments(dropout: Dropout | None, unused: Tensor) -> tuple[Tensor, int, int, float]:
    """Returns seed, salt, threshold and scale as under_mask() takes them."""
    if dropout is None:
        return unused, 0, 0, 1.0
    return dropout.seed, dropout.salt, dropout.threshold, dropout.mask_scale
