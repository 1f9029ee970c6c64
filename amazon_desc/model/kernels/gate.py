"""The gate of an MLP: act(gate) * up, forward and backward, on the two projections side by side.

SwiGLU (Llama): act = silu        GeGLU (Gemma): act = gelu, its tanh form
Shazeer 2020, https://arxiv.org/abs/2002.05202. Where LoRA after it has dropout, the output is
written under the mask as well.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.kernels.dropout import Dropout, arguments, under_mask

BLOCK = 1024

_SQRT_2_OVER_PI = tl.constexpr(0.7978845608028654)
_CUBIC = tl.constexpr(0.044715)


@triton.jit
def _act(gate, IS_GELU: tl.constexpr):
    """Returns act(gate) and its derivative."""
    if IS_GELU:
        inner = _SQRT_2_OVER_PI * (gate + _CUBIC * gate * gate * gate)
        tanh = 2 * tl.sigmoid(2 * inner) - 1
        slope = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * gate * gate)
        value = 0.5 * gate * (1 + tanh)
        derivative = 0.5 * (1 + tanh) + 0.5 * gate * (1 - tanh * tanh) * slope
    else:
        sigmoid = tl.sigmoid(gate)
        value = gate * sigmoid
        derivative = sigmoid * (1 + gate * (1 - sigmoid))
    return value, derivative


@triton.jit
def _load(gate_up, row, column, num_columns):
    """Returns gate and up in float32."""
    inside = column < num_columns
    place = gate_up + row * 2 * num_columns + column
    gate = tl.load(place, mask=inside).to(tl.float32)
    up = tl.load(place + num_columns, mask=inside).to(tl.float32)
    return gate, up


@Kernel
@triton.jit(do_not_specialize=["salt"])
def _forward(
    gate_up, out, masked_out, seed, salt, threshold, mask_scale, num_columns, out_stride,
    IS_GELU: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    gate, up = _load(gate_up, row, column, num_columns)
    value, _ = _act(gate, IS_GELU)
    product = (value * up).to(out.dtype.element_ty)
    tl.store(out + row * out_stride + column, product, mask=inside)
    if HAS_MASK:
        group = tl.program_id(1) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
        masked = under_mask(product, seed, salt, row, group, num_columns, threshold, mask_scale)
        masked_place = masked_out + row * num_columns + column
        tl.store(masked_place, masked.to(masked_out.dtype.element_ty), mask=inside)


@Kernel
@triton.jit(do_not_specialize=["salt"])
def _backward(
    gate_up, grad, grads, recomputed, seed, salt, threshold, mask_scale, num_columns, grads_stride,
    IS_GELU: tl.constexpr, RECOMPUTES: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    gate, up = _load(gate_up, row, column, num_columns)
    d = tl.load(grad + row * num_columns + column, mask=inside).to(tl.float32)
    value, slope = _act(gate, IS_GELU)
    out = grads + row * grads_stride + column
    tl.store(out, (d * up * slope).to(grads.dtype.element_ty), mask=inside)
    tl.store(out + num_columns, (d * value).to(grads.dtype.element_ty), mask=inside)
    if RECOMPUTES:
        product = (value * up).to(recomputed.dtype.element_ty)
        if HAS_MASK:
            group = tl.program_id(1) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
            masked = under_mask(product, seed, salt, row, group, num_columns, threshold, mask_scale)
            product = masked.to(recomputed.dtype.element_ty)
        tl.store(recomputed + row * num_columns + column, product, mask=inside)


def gated(
    gate_up: Tensor, is_gelu: bool, room: int, dropout: Dropout | None = None
) -> tuple[Tensor, Tensor | None]:
    """Returns (N, I + room), `room` columns unwritten, of gate and up side by side, (N, 2 I).

    With dropout also the output under the mask, (N, I); else None.
    """
    num_rows, num_columns = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(num_rows, num_columns + room)
    masked = None if dropout is None else gate_up.new_empty(num_rows, num_columns)
    grid = (num_rows, triton.cdiv(num_columns, BLOCK))
    _forward[grid](
        gate_up, out, out if masked is None else masked, *arguments(dropout, gate_up), num_columns,
        out.stride(0), IS_GELU=is_gelu, HAS_MASK=masked is not None, BLOCK=BLOCK,
    )  # fmt: skip
    return out, masked


def gated_backward(
    gate_up: Tensor,
    grad: Tensor,
    is_gelu: bool,
    room: int,
    keeps_out: bool,
    dropout: Dropout | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Returns the gradient of gate and up, (N, 2 I + room), and, unless it was kept, the output.

    Args:
        grad: (N, I) gradient of the output
        dropout: the output is recomputed under its mask; None: as it is
    """
    num_rows, num_columns = grad.shape
    grads = gate_up.new_empty(num_rows, 2 * num_columns + room)
    out = None if keeps_out else torch.empty_like(grad)
    grid = (num_rows, triton.cdiv(num_columns, BLOCK))
    _backward[grid](
        gate_up, grad, grads, grad if out is None else out, *arguments(dropout, gate_up),
        num_columns, grads.stride(0),
        IS_GELU=is_gelu, RECOMPUTES=out is not None, HAS_MASK=dropout is not None, BLOCK=BLOCK,
    )  # fmt: skip
    return grads, out
