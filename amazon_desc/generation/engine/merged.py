"""A decoder to write with: LoRA merged into the frozen matrices, everything dense.

In comes a PEFT model, out go the matrices of its layers in the precision of the products. Merged in
float32 and cast last: into 4 bits, or into a base that was rounded before, LoRA would not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from amazon_desc.model.families import logit_cap_of, logit_scale_of
from amazon_desc.model.kernels.from_peft import parts_of, projection_of
from amazon_desc.model.kernels.linear import Projection, bias_of
from amazon_desc.model.kernels.nf4 import dequantize
from amazon_desc.model.kernels.norm import Norm
from amazon_desc.model.kernels.rotary import Heads

if TYPE_CHECKING:
    from peft import PeftModel


class Dense(NamedTuple):
    """Projections of one input, one under the other."""

    weight: Tensor
    """(n, K)"""
    bias: Tensor | None
    """(n)"""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (N, n) of (N, K)."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Unpacked(NamedTuple):
    """The same, of which the weight is made anew for each product, in a place that all share."""

    projections: list[Projection]
    bias: Tensor | None
    has_lora: bool
    place: Workspace

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (N, n) of (N, K)."""
        weight = self.place.matrix(num_outputs(self.projections), x.shape[1])
        fill(weight, self.projections, self.has_lora, self.place.summed)
        return torch.nn.functional.linear(x, weight, self.bias)


class Workspace:
    """Where a matrix is made: in float32 a projection of it, cast all of it."""

    def __init__(self, groups: Iterable[list[Projection]], dtype: torch.dtype) -> None:
        groups = list(groups)
        device = groups[0][0].weight.device
        most = max(num_outputs(group) * group[0].shape[1] for group in groups)
        self.cast = torch.empty(most, dtype=dtype, device=device)
        most = max(p.shape[0] * p.shape[1] for group in groups for p in group)
        self.sum = torch.empty(most, dtype=torch.float32, device=device)

    def matrix(self, num_rows: int, num_columns: int) -> Tensor:
        return self.cast[: num_rows * num_columns].view(num_rows, num_columns)

    def summed(self, shape: tuple[int, int]) -> Tensor:
        return self.sum[: shape[0] * shape[1]].view(shape)


Linear = Dense | Unpacked


class MergedLayer(NamedTuple):
    """The weights of one layer."""

    attention_norm: Norm
    mlp_norm: Norm
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    heads: Heads
    attention_scale: float
    window: int | None
    rotation: str
    is_gelu: bool


class MergedDecoder(NamedTuple):
    """All that turns ids into logits."""

    embedding: Tensor
    """(V, H)"""
    embedding_scale: float
    layers: list[MergedLayer]
    last_norm: Norm
    tables: dict[str, tuple[Tensor, Tensor]]
    """cosines and sines of the positions by the kind of rotation, (positions, dim / 2) float32"""
    head: Tensor
    """(V, H)"""
    logit_scale: float
    logit_cap: float | None

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def embed(self, ids: Tensor) -> Tensor:
        """Returns (N, H) of (N) ids."""
        h = torch.nn.functional.embedding(ids, self.embedding)
        return h if self.embedding_scale == 1 else h * self.embedding_scale


@torch.no_grad()
def merge(
    model: PeftModel,
    dtype: torch.dtype,
    num_positions: int,
    *,
    has_lora: bool = True,
    is_dense: bool = True,
) -> MergedDecoder:
    """Returns the decoder of a model for which supported.obstacle() finds none.

    Args:
        num_positions: of the longest prompt with its text
        has_lora: False: the base alone
        is_dense: False: a matrix is made, with the same numbers, each time that it is needed, which
            takes less memory and more time
    """
    base: Any = model.get_base_model()
    parts = parts_of(model, dtype, num_positions)
    place = None
    if not is_dense:
        groups = (modules for layer in parts.layers for modules in layer.linears())
        place = Workspace(([projection_of(m) for m in modules] for modules in groups), dtype)

    def linear(modules: tuple[Any, ...]) -> Linear:
        projections = [projection_of(module) for module in modules]
        bias = bias_of(projections, dtype)
        if place is not None:
            return Unpacked(projections, bias, has_lora, place)
        first = projections[0]
        shape = (num_outputs(projections), first.shape[1])
        weight = torch.empty(shape, dtype=dtype, device=first.weight.device)
        fill(weight, projections, has_lora, empty_like(first))
        return Dense(weight, bias)

    return MergedDecoder(
        parts.embedding.to(dtype),
        parts.embedding_scale,
        [MergedLayer(**layer.with_linears(linear)) for layer in parts.layers],
        parts.last_norm,
        parts.tables,
        base.get_output_embeddings().weight.detach().to(dtype),
        logit_scale_of(base.config),
        logit_cap_of(base.config),
    )


def num_outputs(projections: list[Projection]) -> int:
    return sum(projection.shape[0] for projection in projections)


def empty_like(projection: Projection) -> Callable[[tuple[int, int]], Tensor]:
    device = projection.weight.device
    return lambda shape: torch.empty(shape, dtype=torch.float32, device=device)


def fill(
    weight: Tensor,
    projections: list[Projection],
    has_lora: bool,
    summed: Callable[[tuple[int, int]], Tensor],
) -> None:
    """Merges projections of one input into one matrix, (n, K).

    Args:
        summed: gives a place in float32 of a shape
    """
    row = 0
    for p in projections:
        whole = summed(p.shape)
        if hasattr(p.weight, "quant_state"):
            dequantize(p.weight, whole)
        else:
            whole.copy_(p.weight)
        if has_lora and p.a is not None and p.b is not None:
            whole.addmm_(p.b.float(), p.a.float(), alpha=p.scale)
        weight[row : row + p.shape[0]] = whole
        row += p.shape[0]
