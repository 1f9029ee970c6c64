"""A model to write with: dense matrices with LoRA merged, all else shared with the trained one.

In comes a PEFT model, out goes transformers' own without a trace of PEFT or bitsandbytes, or how
much memory it would take. The given model is left as it is: training can go on after it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from amazon_desc.model.merging import base_layer_of, is_lora, is_mergeable, merged_weight
from amazon_desc.model.overflow import compute_safely, is_in_4_bits

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@torch.no_grad()
def merged(model: PeftModel, *, has_lora: bool = True) -> PreTrainedModel:
    """Returns a model in eval mode that computes what the given one computes now.

    A layer with more than plain LoRA (DoRA, a bias, several adapters, ...) stays as it is. What is
    trained afterwards is not in it: make another one.

    Args:
        has_lora: False: what the base alone computes, whatever its adapter is
    """
    base: Any = model.get_base_model()
    # what deepcopy finds here it takes as it stands, instead of a copy
    taken: dict[int, Any] = {id(kept): kept for kept in chain(base.parameters(), base.buffers())}
    for part in foreign_parts(base):
        if is_made_dense(part, has_lora):
            taken[id(part)] = made_dense(part, dtype_of(part, base.dtype), has_lora)
        elif not has_lora and (without := without_adapter(part)) is not None:
            taken[id(part)] = copy.deepcopy(without, taken)
    made = copy.deepcopy(base, taken).eval()
    compute_safely(made)
    return made


def num_bytes_of_merged(model: PeftModel, *, has_lora: bool = True) -> int:
    """Returns the memory that `merged` takes beside the given model, in bytes.

    Two layers of 64 inputs and 32 outputs in bf16, one of them with LoRA in float32 only
    -> 4,096 + 8,192; a dense one without LoRA is shared and takes nothing
    """
    base: Any = model.get_base_model()
    made = [part for part in foreign_parts(base) if is_made_dense(part, has_lora)]
    layers = [(base_layer_of(part), dtype_of(part, base.dtype)) for part in made]
    return sum(num_weights(layer) * dtype.itemsize for layer, dtype in layers)


def foreign_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yields what PEFT or bitsandbytes have put into a transformers model, from the outside."""
    for part in module.children():
        if is_wrapper(part) or is_in_4_bits(part):
            yield part
        else:
            yield from foreign_parts(part)


def is_wrapper(part: nn.Module) -> bool:
    return hasattr(part, "base_layer") or hasattr(part, "original_module")


def is_made_dense(part: nn.Module, has_lora: bool) -> bool:
    is_changed = (has_lora and is_lora(part)) or is_in_4_bits(base_layer_of(part))
    return is_changed and is_mergeable(part, has_lora=has_lora)


def made_dense(part: nn.Module, dtype: torch.dtype, has_lora: bool) -> nn.Linear:
    """Returns a linear layer that computes what a part does."""
    weight, bias = merged_weight(part, dtype, has_lora=has_lora), base_layer_of(part).bias
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return layer


def dtype_of(part: nn.Module, of_model: torch.dtype) -> torch.dtype:
    """Returns the precision in which a part multiplies."""
    weight = base_layer_of(part).weight
    return of_model if is_in_4_bits(base_layer_of(part)) else weight.dtype


def num_weights(layer: Any) -> int:
    weight = layer.weight
    return weight.quant_state.shape.numel() if is_in_4_bits(layer) else weight.numel()


def without_adapter(part: Any) -> nn.Module | None:
    """Returns what wrappers of PEFT wrap; None: there are none, or one holds its adapter merged.

    The experts of a mixture have several, one around the other.
    """
    inner = part
    while is_wrapper(inner):
        if getattr(inner, "merged", False):
            return None
        inner = getattr(inner, "original_module", None) or inner.base_layer
    return None if inner is part else inner
