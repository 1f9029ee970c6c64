"""One layer's weights, dense, with its LoRA merged: wherever a model leaves its adapter behind.

In comes a linear layer, as it is or wrapped by PEFT, out goes its matrix. What is more than plain
LoRA is not merged, and is said not to be. How a model is put together from it is not known here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def is_mergeable(module: nn.Module, *, has_lora: bool = True) -> bool:
    """Whether `merged_weight` gives all that a layer computes, its bias aside.

    With `has_lora` that is all that it computes now: a layer whose adapter is switched off, or one
    of several, is not plain LoRA.
    """
    if not is_lora(module):
        return has_matrix(module)
    if not has_matrix(base_layer_of(module)):
        return False
    return is_plain(module) if has_lora else not getattr(module, "merged", False)


def is_lora(module: nn.Module) -> bool:
    """Whether a layer is wrapped by PEFT's LoRA, of any kind."""
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def is_plain(module: Any) -> bool:
    """Whether all that a wrapped layer adds to its base is scale B A x of its one adapter."""
    from peft.tuners import lora

    kinds: list[type] = [lora.Linear]
    if (in_4_bits := getattr(lora, "Linear4bit", None)) is not None:
        kinds.append(in_4_bits)
    names = list(module.active_adapters)
    if type(module) not in kinds or len(names) != 1 or module.disable_adapters or module.merged:
        return False
    (name,) = names
    is_more = (
        name not in module.lora_A
        or module.lora_variant.get(name) is not None
        or module.lora_bias.get(name, False)
        or getattr(module, "lora_magnitude_vector", None)
    )
    return not is_more


def has_matrix(module: Any) -> bool:
    """Whether a layer is nothing but a matrix, dense or in 4 bits, and a bias."""
    if is_transposed(module) or type(module) is nn.Linear:
        return True
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    # a matrix that was repacked for AVX512-BF16 is no longer read as it was written
    is_packed = getattr(state, "packing_format_for_cpu", False)
    return type(module).__name__ == "Linear4bit" and state is not None and not is_packed


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer is transformers' Conv1D (GPT-2), whose matrix lies the other way."""
    from transformers.pytorch_utils import Conv1D

    return type(module) is Conv1D


def base_layer_of(module: Any) -> Any:
    return module.base_layer if is_lora(module) else module


@torch.no_grad()
def merged_weight(module: Any, dtype: torch.dtype, *, has_lora: bool = True) -> Tensor:
    """Returns W + scale B A of a layer for which `is_mergeable`: (outputs, inputs), a new tensor.

    Summed in float32 and cast last: into 4 bits, or into a base that was rounded before, LoRA
    would not fit. The layer stays as it is.

        W = [[1, 0], [0, 1]], B = [[1], [0]], A = [[0, 3]], scale = 2  ->  [[1, 6], [0, 1]]
    """
    base = base_layer_of(module)
    whole = dense_weight(base)
    if has_lora and is_lora(module):
        (name,) = module.active_adapters
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        whole.addmm_(b.float(), a.float(), alpha=module.scaling[name])
    return whole.to(dtype)


def dense_weight(module: Any) -> Tensor:
    """Returns the matrix of a layer that is not wrapped: (outputs, inputs) float32, a new one."""
    weight = module.weight
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        state = copy.copy(state)
        state.dtype = torch.float32
        return dequantize_4bit(weight.data, state)
    matrix = weight.data.t() if is_transposed(module) else weight.data
    return matrix.to(torch.float32, copy=True).contiguous()
