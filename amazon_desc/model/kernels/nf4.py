"""NF4 with double quantisation -> bf16 or fp16, in one pass, into a part of a wider matrix.

In comes a 4-bit weight as bitsandbytes keeps it, out goes a dense matrix. bitsandbytes itself needs
two kernels and a temporary for the scales. Format: Dettmers et al. 2023, QLoRA,
https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel

BYTES_PER_PROGRAM = 1024


@Kernel
@triton.jit
def _dequantize(
    packed,  # (num_values / 2) uint8: two values a byte, the first in the high half
    absmax8,  # (num_values / BLOCK) uint8: which entry of code2 is a block's scale
    code2,  # (256) float32
    absmax2,  # (blocks / BLOCK2) float32: the scale of the scales
    offset,  # () float32: what was taken off the scales
    code4,  # (16) float32
    out,
    num_values,
    num_columns,
    stride,
    BLOCK: tl.constexpr,
    BLOCK2: tl.constexpr,
    BYTES: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BYTES
    byte_place = start + tl.arange(0, BYTES)
    byte = tl.load(packed + byte_place, mask=byte_place * 2 < num_values, other=0)
    block = start * 2 // BLOCK + tl.arange(0, BYTES * 2 // BLOCK)
    is_block = block * BLOCK < num_values
    scale8 = tl.load(absmax8 + block, mask=is_block, other=0).to(tl.int32)
    scale2 = tl.load(absmax2 + block // BLOCK2, mask=is_block, other=0)
    scale = tl.load(code2 + scale8) * scale2 + tl.load(offset)
    high = tl.load(code4 + (byte >> 4).to(tl.int32))
    low = tl.load(code4 + (byte & 15).to(tl.int32))
    values = tl.reshape(tl.interleave(high, low), (BYTES * 2 // BLOCK, BLOCK)) * scale[:, None]
    place = start * 2 + tl.arange(0, BYTES * 2)
    target = out + place // num_columns * stride + place % num_columns
    values = tl.reshape(values, (BYTES * 2,)).to(out.dtype.element_ty)
    tl.store(target, values, mask=place < num_values)


def dequantize(weight: Any, out: Tensor) -> None:
    """Writes a bitsandbytes 4-bit weight (rows, columns) into `out`, whose rows may be apart.

    Args:
        weight: a Params4bit in NF4 with compressed statistics
        out: (rows, columns) bf16 or fp16, columns side by side
    """
    state = weight.quant_state
    assert state.quant_type == "nf4", state.quant_type
    assert state.nested, "double quantisation"
    assert tuple(state.shape) == tuple(out.shape)
    num_values = out.numel()
    grid = (triton.cdiv(num_values, 2 * BYTES_PER_PROGRAM),)
    _dequantize[grid](
        weight.data,
        state.absmax,
        state.state2.code,
        state.state2.absmax,
        state.offset,
        state.code,
        out,
        num_values,
        out.shape[1],
        out.stride(0),
        BLOCK=state.blocksize,
        BLOCK2=state.state2.blocksize,
        BYTES=BYTES_PER_PROGRAM,
        num_warps=4,
    )
