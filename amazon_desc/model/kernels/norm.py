"""RMSNorm (Zhang and Sennrich 2019) with the addition before it, forward and backward.

A sublayer's output y is added to the residual stream h, and the sum is normalised for the next
sublayer: three kernels' traffic in one. Some families normalise y too before it is added.

    h' = h + y, or h + rms(y) * (offset + post)        x = rms(h') * (offset + weight)

Where x is an input of LoRA with dropout, it is written under the mask as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.kernels.dropout import Dropout, arguments, under_mask


class Norm(NamedTuple):
    """Frozen weights of the norm before a sublayer, and of the one after the sublayer before it."""

    weight: Tensor
    """(H)"""
    eps: float
    post: Tensor | None = None
    """(H); None: y is added as it is"""
    offset: float = 0.0
    """what is added to the weights"""


class SavedNorm(NamedTuple):
    """What the backward pass needs."""

    h: Tensor
    """(N, H): the sum"""
    y: Tensor | None
    """(N, H): what was normalised before it was added; None: nothing was"""
    scales: Tensor
    """(2, N) float32: 1 / rms of the sum, and of y"""


@triton.jit
def _scale(values, num_columns, eps):
    return tl.rsqrt(tl.sum(values * values, 0) / num_columns + eps)


@Kernel
@triton.jit(do_not_specialize=["salt"])
def _forward(
    h, y, post, weight, h_out, x_out, masked_out, scales, seed, salt, threshold, mask_scale,
    num_rows, num_columns, x_stride, eps, offset,
    HAS_Y: tl.constexpr, HAS_POST: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    place = row * num_columns + column
    total = tl.load(h + place, mask=inside, other=0).to(tl.float32)
    if HAS_Y:
        added = tl.load(y + place, mask=inside, other=0).to(tl.float32)
        if HAS_POST:
            post_scale = _scale(added, num_columns, eps)
            tl.store(scales + num_rows + row, post_scale)
            factor = tl.load(post + column, mask=inside, other=0).to(tl.float32) + offset
            added = added * post_scale * factor
        total = (total + added).to(h_out.dtype.element_ty)
        tl.store(h_out + place, total, mask=inside)
        total = total.to(tl.float32)
    scale = _scale(total, num_columns, eps)
    tl.store(scales + row, scale)
    factor = tl.load(weight + column, mask=inside, other=0).to(tl.float32) + offset
    x = (total * scale * factor).to(x_out.dtype.element_ty)
    tl.store(x_out + row * x_stride + column, x, mask=inside)
    if HAS_MASK:
        group = tl.arange(0, BLOCK // 8)
        masked = under_mask(x, seed, salt, row, group, num_columns, threshold, mask_scale)
        tl.store(masked_out + place, masked.to(masked_out.dtype.element_ty), mask=inside)


@Kernel
@triton.jit(do_not_specialize=["salt"])
def _backward(
    dx, dh, h, y, post, weight, scales, dh_out, dy_out, x_out, seed, salt, threshold, mask_scale,
    num_rows, num_columns, dh_stride, dh_out_stride, dy_stride, offset,
    HAS_DH: tl.constexpr, HAS_POST: tl.constexpr, HAS_X: tl.constexpr, HAS_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    place = row * num_columns + column
    factor = tl.load(weight + column, mask=inside, other=0).to(tl.float32) + offset
    scale = tl.load(scales + row)
    hat = tl.load(h + place, mask=inside, other=0).to(tl.float32) * scale
    if HAS_X:
        x = (hat * factor).to(x_out.dtype.element_ty)
        if HAS_MASK:
            group = tl.arange(0, BLOCK // 8)
            masked = under_mask(x, seed, salt, row, group, num_columns, threshold, mask_scale)
            x = masked.to(x_out.dtype.element_ty)
        tl.store(x_out + place, x, mask=inside)
    grad = tl.load(dx + place, mask=inside, other=0).to(tl.float32) * factor
    total = scale * (grad - hat * tl.sum(grad * hat, 0) / num_columns)
    if HAS_DH:
        total += tl.load(dh + row * dh_stride + column, mask=inside, other=0).to(tl.float32)
    rounded = total.to(dh_out.dtype.element_ty)
    tl.store(dh_out + row * dh_out_stride + column, rounded, mask=inside)
    if HAS_POST:
        post_scale = tl.load(scales + num_rows + row)
        post_factor = tl.load(post + column, mask=inside, other=0).to(tl.float32) + offset
        post_hat = tl.load(y + place, mask=inside, other=0).to(tl.float32) * post_scale
        post_grad = total * post_factor
        mean = tl.sum(post_grad * post_hat, 0) / num_columns
        dy = (post_scale * (post_grad - post_hat * mean)).to(dy_out.dtype.element_ty)
        tl.store(dy_out + row * dy_stride + column, dy, mask=inside)


def add_norm(
    h: Tensor, y: Tensor | None, norm: Norm, room: int, dropout: Dropout | None = None
) -> tuple[Tensor, Tensor | None, SavedNorm]:
    """Returns the normalised sum, (N, H + room) with `room` columns unwritten, and what to keep.

    Between the two stands the sum under the mask, (N, H); None without dropout.

    Args:
        h: (N, H) the residual stream
        y: (N, H) what is added to it; None before the first layer
    """
    num_rows, num_columns = h.shape
    x = h.new_empty(num_rows, num_columns + room)
    total = h if y is None else torch.empty_like(h)
    masked = None if dropout is None else torch.empty_like(h)
    scales = h.new_empty(2, num_rows, dtype=torch.float32)
    has_post = y is not None and norm.post is not None
    _forward[(num_rows,)](
        h, h if y is None else y, norm.post if has_post else h, norm.weight, total, x,
        x if masked is None else masked, scales, *arguments(dropout, h),
        num_rows, num_columns, x.stride(0), norm.eps, norm.offset,
        HAS_Y=y is not None, HAS_POST=has_post, HAS_MASK=masked is not None,
        **_shape(num_columns),
    )  # fmt: skip
    return x, masked, SavedNorm(total, y if has_post else None, scales)


def add_norm_backward(
    dx: Tensor,
    dh: Tensor | None,
    norm: Norm,
    normed: SavedNorm,
    room: int,
    keeps_x: bool,
    dropout: Dropout | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the gradients of h and of y, and, unless it was kept, x under its mask.

    Where y is added as it is, the two are one tensor. That of y, (N, H + room), is wide.

    Args:
        dx: (N, H) gradient of the normalised sum
        dh: (N, H) that of the sum from what comes later; None after the last layer
    """
    num_rows, num_columns = dx.shape
    dy = dx.new_empty(num_rows, num_columns + room)
    has_post = normed.y is not None
    dh_out = torch.empty_like(dx) if has_post else dy
    x = None if keeps_x else torch.empty_like(dx)
    _backward[(num_rows,)](
        dx, dx if dh is None else dh, normed.h, normed.y if has_post else dx,
        norm.post if has_post else dx, norm.weight, normed.scales, dh_out, dy,
        dx if x is None else x, *arguments(dropout, dx), num_rows, num_columns,
        0 if dh is None else dh.stride(0), dh_out.stride(0), dy.stride(0), norm.offset,
        HAS_DH=dh is not None, HAS_POST=has_post, HAS_X=x is not None,
        HAS_MASK=dropout is not None, **_shape(num_columns),
    )  # fmt: skip
    return dh_out[:, :num_columns], dy, x


def _shape(num_columns: int) -> dict[str, int]:
    block = triton.next_power_of_2(num_columns)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 256))}
