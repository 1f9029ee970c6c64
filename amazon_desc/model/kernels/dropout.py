"""LoRA's dropout: the inputs of one pair of matrices, zeroed by chance, the rest scaled up.

The mask is a function of a seed and of the place, so it is made again instead of being kept, and a
run that goes on meets the same one.
"""

# Triton comes with torch for CUDA only.
# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _apply(
    source, target, seed, salt, num_columns, source_stride, target_stride, share,
    ADDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    values = tl.load(source + row * source_stride + column, mask=inside, other=0).to(tl.float32)
    chance = tl.rand(tl.load(seed) + salt, row * num_columns + column)
    values = tl.where(chance < share, 0.0, values / (1 - share))
    place = target + row * target_stride + column
    if ADDS:
        values += tl.load(place, mask=inside, other=0).to(tl.float32)
    tl.store(place, values.to(target.dtype.element_ty), mask=inside)


class Dropout:
    """One mask: that of `salt` among those of a seed.

    Args:
        share: of the values that become 0
        seed: () int64 on the device, another one for each micro-batch
        salt: tells the layers of a model apart
    """

    def __init__(self, share: float, seed: Tensor, salt: int) -> None:
        self.share, self.seed, self.salt = share, seed, salt

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (N, K) values under the mask."""
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        self._run(x, out, adds=False)
        return out

    def add(self, grad: Tensor, out: Tensor) -> None:
        """Adds the gradient of the values to `out`: that of their places which the mask left."""
        self._run(grad, out, adds=True)

    def _run(self, source: Tensor, target: Tensor, adds: bool) -> None:
        num_rows, num_columns = source.shape
        grid = (num_rows, triton.cdiv(num_columns, BLOCK))
        _apply[grid](
            source, target, self.seed, self.salt, num_columns, source.stride(0), target.stride(0),
            self.share, ADDS=adds, BLOCK=BLOCK,
        )  # fmt: skip
