"""Many small matrices, each copied into its place in a larger one, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.model.kernels.compiling import Kernel

BLOCK = 4096


@Kernel
@triton.jit
def _copy(places, factors, sources, targets, BLOCK: tl.constexpr):
    """`sources` and `targets` only say of which types they are."""
    entry = places + tl.program_id(0) * 5
    source = tl.load(entry).to(sources.dtype)
    target = tl.load(entry + 1).to(targets.dtype)
    # In 32 bits: to divide longer numbers takes longer than all the rest.
    num_values, num_columns = tl.load(entry + 2).to(tl.int32), tl.load(entry + 3).to(tl.int32)
    stride = tl.load(entry + 4)
    factor = tl.load(factors + tl.program_id(0))
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_values
    values = tl.load(source + place, mask=inside) * factor
    out = target + place // num_columns * stride + place % num_columns
    tl.store(out, values.to(targets.dtype.element_ty), mask=inside)


class Copies:
    """Copies that are made at every step.

    Args:
        copies: (contiguous float32 source, target with its columns side by side, factor) each
    """

    def __init__(self, copies: list[tuple[Tensor, Tensor, float]]) -> None:
        self.copies = copies  # they must not move
        rows = [
            [a.data_ptr(), b.data_ptr(), a.numel(), b.shape[1], b.stride(0)] for a, b, _ in copies
        ]
        device = copies[0][0].device
        self.places = torch.tensor(rows, dtype=torch.int64, device=device)
        self.factors = torch.tensor([f for _, _, f in copies], dtype=torch.float32, device=device)
        largest = max(source.numel() for source, _, _ in copies)
        self.grid = (len(copies), triton.cdiv(largest, BLOCK))

    def run(self) -> None:
        source, target, _ = self.copies[0]
        _copy[self.grid](self.places, self.factors, source, target, BLOCK=BLOCK)
