"""A decoder to write with: LoRA merged into the frozen matrices, everything dense.

In comes a PEFT model, out go the matrices of its layers in the precision of the products. Merged in
float32 and cast last: into 4 bits, or into a base that was rounded before, LoRA would not fit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from amazon_desc.model.families import logit_cap_of, logit_scale_of
from amazon_desc.model.kernels.from_peft import parts_of, projection_of
from amazon_desc.model.kernels.linear import bias_of
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


class MergedLayer(NamedTuple):
    """The weights of one layer."""

    attention_norm: Norm
    mlp_norm: Norm
    qkv: Dense
    out: Dense
    gate_up: Dense
    down: Dense
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
    model: PeftModel, dtype: torch.dtype, num_positions: int, *, has_lora: bool = True
) -> MergedDecoder:
    """Returns the decoder of a model for which supported.obstacle() finds none.

    Args:
        num_positions: of the longest prompt with its text
        has_lora: False: the base alone
    """
    base: Any = model.get_base_model()
    parts = parts_of(model, dtype, num_positions)

    dense = partial(dense_of, dtype=dtype, has_lora=has_lora)
    return MergedDecoder(
        parts.embedding.to(dtype),
        parts.embedding_scale,
        [MergedLayer(**layer.with_linears(dense)) for layer in parts.layers],
        parts.last_norm,
        parts.tables,
        base.get_output_embeddings().weight.detach().to(dtype),
        logit_scale_of(base.config),
        logit_cap_of(base.config),
    )


def dense_of(modules: tuple[Any, ...], dtype: torch.dtype, has_lora: bool) -> Dense:
    """Merges projections of one input into one matrix."""
    projections = [projection_of(module) for module in modules]
    num_outputs, num_inputs = sum(p.shape[0] for p in projections), projections[0].shape[1]
    device = projections[0].weight.device
    weight = torch.empty(num_outputs, num_inputs, dtype=dtype, device=device)
    row = 0
    for p in projections:
        whole = torch.empty(p.shape, dtype=torch.float32, device=device)
        if hasattr(p.weight, "quant_state"):
            dequantize(p.weight, whole)
        else:
            whole.copy_(p.weight)
        if has_lora and p.a is not None and p.b is not None:
            whole.addmm_(p.b.float(), p.a.float(), alpha=p.scale)
        weight[row : row + p.shape[0]] = whole
        row += p.shape[0]
    return Dense(weight, bias_of(projections, dtype))
