"""Bases whose hidden states are larger than float16 goes, on cards that have no bf16.

In comes such a base, loaded in float16, out goes the same base, computing in float32 but for the
products with its frozen matrices. Those are made in float16, where a card is fast: every token is
first scaled by a power of two, which is taken out of the product again, so that neither can
overflow. What is trained has float32 as ever. Which families need it stands in families.py.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amazon_desc.model.families import family_of

# A scaled token is a vector of length 8 to 16. What a product makes of it is at most that times the
# length of a row of the matrix, which may be 4,094 before 65,504 is passed; and numbers that are
# 100,000 times smaller than the token is long still have all digits of float16. Lengths are found
# from 1e-19 to 1e19: smaller ones become zero, and of larger ones nothing is finite, upon which a
# loss scaler halves its scale.
LONGEST_EXPONENT = 4


def overflows(config: Any, dtype: torch.dtype) -> bool:
    """Whether a text model with this configuration is not finite where all of it has `dtype`."""
    family = family_of(config)
    return dtype == torch.float16 and family is not None and family.overflows_float16


def overflow_obstacle(config: Any, dtype: torch.dtype) -> str | None:
    """Returns what is in the way of the fused path, which has all hidden states in `dtype`."""
    if not overflows(config, dtype):
        return None
    return f"hidden states of {config.model_type} overflow float16, in which they compute"


@contextmanager
def norms_in_float32(config: Any, dtype: torch.dtype) -> Iterator[None]:
    """Has transformers load the norms of such a base in float32: their weights are large too."""
    from transformers import PreTrainedModel

    before = PreTrainedModel._keep_in_fp32_modules_strict
    if overflows(config.get_text_config(decoder=True), dtype):
        PreTrainedModel._keep_in_fp32_modules_strict = ["norm"]
    try:
        yield
    finally:
        PreTrainedModel._keep_in_fp32_modules_strict = before


def compute_safely(base: Any) -> None:
    """Has a base that would overflow compute in float32 with products in float16; others stay.

    Again for layers that have taken the place of others since.
    """
    if not overflows(base.config, base.dtype):
        return
    family, embeddings = family_of(base.config), base.get_input_embeddings()
    is_scaled = family is not None and family.is_embedding_scaled
    scale = math.sqrt(embeddings.embedding_dim) if is_scaled else 1.0
    embeddings.forward = Forward(embeddings, partial(embedded, scale))
    linears: list[Any] = [layer for layer in base.modules() if isinstance(layer, nn.Linear)]
    for layer in filter(is_frozen_half, linears):
        layer.forward = Forward(layer, multiplied)


class Forward:
    """The forward of a layer, which does not hold the layer that holds it.

    Else a model's memory would stay for a while after all have let go of it, and a small card has
    no room for the merged weights of two. That of a copied layer is of the copy.
    """

    def __init__(self, layer: nn.Module, compute: Callable[[Any, Tensor], Tensor]) -> None:
        self.layer, self.compute = weakref.ref(layer), compute

    def __call__(self, states: Tensor) -> Tensor:
        return self.compute(self.layer(), states)

    def __deepcopy__(self, memo: dict[int, Any]) -> Forward:
        layer: Any = self.layer()
        return Forward(memo.get(id(layer), layer), self.compute)


def is_frozen_half(layer: nn.Linear) -> bool:
    """Whether a matrix is in float16 or in 4 bits; LoRA's are in float32."""
    return layer.weight.dtype == torch.float16 or is_in_4_bits(layer)


def is_in_4_bits(layer: Any) -> bool:
    """Whether bitsandbytes keeps the weight of a layer, if it has one, in 4 bits."""
    return hasattr(getattr(layer, "weight", None), "quant_state")


def own_precision(base: Any, device: torch.device) -> AbstractContextManager[Any]:
    """Switches autocast off for such a base: it would have all of its products in float16."""
    if not overflows(base.config, base.dtype):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def embedded(scale: float, layer: nn.Embedding, input_ids: Tensor) -> Tensor:
    """Returns embeddings in float32, times the scale that the family has for them."""
    return functional.embedding(input_ids, layer.weight, layer.padding_idx).float() * scale


def multiplied(layer: Any, states: Tensor) -> Tensor:
    """Returns what a linear layer makes of (..., inputs), in float32."""
    product: Tensor = ScaledProduct.apply(states, layer)  # pyright: ignore[reportAssignmentType]
    return product if layer.bias is None else product + layer.bias.float()


class ScaledProduct(torch.autograd.Function):
    """A product with a frozen matrix: float32 in and out, float16 within, forward and backward.

    The gradients of tokens differ by more than one scale for the whole loss could even out, so they
    are scaled one by one as well.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        half, exponents = scaled(states)
        return unscaled(times_transposed(half, layer), exponents)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        half, exponents = scaled(gradients[0])
        return unscaled(half @ half_matrix(ctx.layer), exponents), None


def scaled(states: Tensor) -> tuple[Tensor, Tensor]:
    """Returns vectors (..., N) in float16 and the powers of two (..., 1) they were divided by.

    states    = [[3e5, 4e5], [3e-9, 0]]     5e5 = 0.95 x 2^19, 3e-9 = 0.81 x 2^-28
    exponents = [[15], [-32]]
    half      = [[9.16, 12.2], [12.9, 0]]
    """
    states = states.float()
    lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    exponents = torch.frexp(lengths).exponent - LONGEST_EXPONENT
    return torch.ldexp(states, -exponents).half(), exponents


def unscaled(products: Tensor, exponents: Tensor) -> Tensor:
    return torch.ldexp(products.float(), exponents)


def times_transposed(half: Tensor, layer: Any) -> Tensor:
    """Returns the product of a layer without its bias, in float16."""
    if not is_in_4_bits(layer):
        return functional.linear(half, layer.weight)
    from bitsandbytes.autograd._functions import matmul_4bit

    return matmul_4bit(half, layer.weight, quant_state=layer.weight.quant_state)


def half_matrix(layer: Any) -> Tensor:
    """Returns the matrix of a layer in float16, (outputs, inputs); new where it has 4 bits."""
    if not is_in_4_bits(layer):
        return layer.weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).half()
