"""The weights of a tuned model as its users' tools know them, one at a time.

In comes a loaded PEFT model, out goes each weight once: transformers' name of the text model, and
float32 on the CPU, LoRA merged. A matrix is made when it is asked for, so there is never a second
model in memory. Precision, files and other tools' names are the business of those who write them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from amazon_desc.generation.plain.merged import is_wrapper
from amazon_desc.model.merging import base_layer_of, is_mergeable, is_transposed, merged_weight
from amazon_desc.model.overflow import is_in_4_bits
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel


class Weight(NamedTuple):
    """One weight of the tuned model, not made yet."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    """gives it in float32 on the CPU; not to be written to, since it may be the model's own"""

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


def weights_of(model: PeftModel) -> list[Weight]:
    """Returns all weights in the order of the model's layers; a tied head is its embedding.

    A Llama of one layer, its head tied:

        base_model.model.model.embed_tokens.weight                     -> model.embed_tokens.weight
        ...model.layers.0.self_attn.q_proj.base_layer.weight (4 bits)  \\
        ...model.layers.0.self_attn.q_proj.lora_A.default.weight        > model.layers.0.self_attn.
        ...model.layers.0.self_attn.q_proj.lora_B.default.weight       /    q_proj.weight
        ...
        base_model.model.lm_head.weight                                -> (left out)

    Raises:
        UserError: a layer holds something that cannot be merged; it is named.
    """
    seen: set[int] = set()
    return list(weights_in(model.get_base_model(), "", seen))


def merged_weights(weights: Sequence[Weight]) -> Iterator[tuple[str, Tensor]]:
    """Yields name and float32 tensor of each weight; each is made when its turn comes."""
    for weight in weights:
        yield weight.name, weight.make()


def weights_in(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[Weight]:
    """Yields those of a module and of all in it.

    Args:
        prefix: the module's name, with a dot after it
        seen: the parameters that have come already, by id
    """
    if is_foreign(module):
        yield from weights_of_linear(module, prefix, seen)
        return
    for name, tensor in own_tensors(module):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if not tensor.is_floating_point():
            raise refusal(prefix + name, f"numbers of {tensor.dtype}")
        yield Weight(prefix + name, tuple(tensor.shape), partial(as_float32, tensor))
    for name, child in module.named_children():
        yield from weights_in(child, f"{prefix}{name}.", seen)


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields what a state_dict would hold of a module alone."""
    yield from module.named_parameters(recurse=False)
    passing = module._non_persistent_buffers_set  # torch has no other way to ask
    yield from (pair for pair in module.named_buffers(recurse=False) if pair[0] not in passing)


def weights_of_linear(layer: Any, prefix: str, seen: set[int]) -> Iterator[Weight]:
    """Yields matrix and bias of a layer that PEFT wraps, or bitsandbytes keeps in 4 bits."""
    name = prefix.removesuffix(".")
    if not is_mergeable(layer):
        raise refusal(name, extra_of(layer))
    base = base_layer_of(layer)
    if id(base.weight) in seen:  # the reader would take the embedding for it, and lose LoRA
        raise refusal(name, "LoRA on a head that is tied to the embedding")
    seen.add(id(base.weight))
    state = getattr(base.weight, "quant_state", None)
    shape = tuple(base.weight.shape if state is None else state.shape)
    yield Weight(f"{prefix}weight", shape, partial(matrix_of, layer))
    if base.bias is not None:
        bias = base.bias
        yield Weight(f"{prefix}bias", tuple(bias.shape), partial(as_float32, bias))


@torch.no_grad()
def matrix_of(layer: Any) -> Tensor:
    """Returns a merged matrix as its class keeps it: GPT-2's lie the other way."""
    merged = merged_weight(layer, torch.float32).cpu()
    return merged.t().contiguous() if is_transposed(base_layer_of(layer)) else merged


def as_float32(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32)


def is_foreign(module: Any) -> bool:
    """Whether a module is none of transformers' own: of PEFT, or of bitsandbytes."""
    return is_wrapper(module) or is_in_4_bits(module)


def extra_of(layer: Any) -> str:
    """Returns what a layer has that is not plain LoRA, in a user's words."""
    kind = type(layer).__name__
    if kind.startswith("TrainableTokens"):
        return "trained rows of the embedding (trainable_token_indices)"
    if hasattr(layer, "original_module"):
        return "a whole copy of the layer (modules_to_save)"
    if getattr(layer, "lora_magnitude_vector", None):
        return "DoRA"
    if any(getattr(layer, "lora_bias", {}).values()):
        return "a bias of LoRA (lora_bias)"
    return f"a layer of the class {kind}"


def refusal(name: str, found: str) -> UserError:
    return UserError(
        f"the adapter cannot be merged: {name}: wanted plain LoRA on a linear layer, found "
        f"{found}. Export it with --to adapter, which keeps it as it is."
    )
