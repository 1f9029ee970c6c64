"""The arithmetic that training takes a token, by part, counted and not tried.

In come a transformers configuration and LoRA settings, out go floating point operations. All that a
step computes is counted, LoRA and attention too, which tells how long it takes; mfu.py counts what
the frozen weights alone ask for, which says how well a card is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from amazon_desc.model.cost.shape import num_lora_weights, shape_of

if TYPE_CHECKING:
    from amazon_desc.model.adapter import LoraSettings


class Flops(NamedTuple):
    """Floating point operations for one trained token; a product of n weights has 2 n."""

    linears: float
    """the frozen matrices: forward, and the gradient of the input; their own has none"""
    head: float
    """the same, before targets only"""
    lora: float
    """forward, gradient of the input, gradient of the weights"""
    attention: float
    """two products forward, four backward"""

    @property
    def total(self) -> float:
        return sum(self)


def flops_by_part(
    config: Any, lora: LoraSettings, target_share: float = 1.0, mean_context: float = 0.0
) -> Flops:
    """Counts the matrix products of a token on a frozen base.

    TinyLlama has 0.969e9 weights in its layers and 0.066e9 in its head: 4 * 1.034e9 operations,
    where every token is a target.

    Args:
        target_share: of all tokens, those before a target, where the head works
        mean_context: tokens that a token attends to, on average: half an example's length
    """
    shape = shape_of(config)
    return Flops(
        linears=4.0 * shape.num_linear_weights,
        head=4.0 * shape.vocabulary * shape.hidden * target_share,
        lora=6.0 * num_lora_weights(shape, lora),
        attention=12.0 * shape.num_layers * shape.queries * mean_context,
    )
