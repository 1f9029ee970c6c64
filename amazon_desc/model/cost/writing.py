"""The memory that writing texts needs, counted and not tried.

In come the shape of a decoder and how many texts of what length are written at a time, out go
bytes. The base that is loaded, in 4 bits or not, comes on top.
"""

from __future__ import annotations

from amazon_desc.model.cost.memory import PRODUCTS_BYTES, SHARE_HELD
from amazon_desc.model.cost.shape import Shape

# Of what a token has in a layer, what is there at a time: hidden states before and after a norm,
# what is projected and attended, gate, up and their product.
HIDDEN_AT_A_TIME, INNER_AT_A_TIME = 4, 3
# Bytes of a token of the vocabulary, for each text: its logit, in half precision and in float32,
# and how often the text has it.
LOGIT_BYTES = 2 + 4 + 2


def merged_bytes(shape: Shape, number_bytes: int) -> int:
    """Returns what the matrices of the layers take, dense, with LoRA merged into them."""
    return shape.num_linear_weights * number_bytes


def unpacked_bytes(shape: Shape, number_bytes: int) -> int:
    """Returns what the largest of them take that have one input, in float32 and cast."""
    of_qkv, of_mlp = shape.queries + 2 * shape.keys, 2 * shape.inner
    return max(of_qkv, of_mlp) * shape.hidden * number_bytes + shape.inner * shape.hidden * 4


def cache_bytes(shape: Shape, num_texts: int, num_tokens: int, number_bytes: int) -> int:
    """Returns what keys and values take of so many texts of so many tokens, prompts included."""
    return num_texts * num_tokens * shape.num_layers * 2 * shape.keys * number_bytes


def passing_bytes(shape: Shape, num_texts: int, num_passed: int, number_bytes: int) -> int:
    """Returns what comes and goes: a pass of so many prompt tokens, and the logits of all texts."""
    numbers = HIDDEN_AT_A_TIME * shape.hidden + INNER_AT_A_TIME * shape.inner
    numbers += 2 * shape.queries + 2 * shape.keys
    return num_passed * numbers * number_bytes + num_texts * shape.vocabulary * LOGIT_BYTES


def writing_bytes(
    shape: Shape,
    num_texts: int,
    num_tokens: int,
    num_passed: int,
    number_bytes: int,
    *,
    is_merged: bool,
    state_bytes: int | None = None,
) -> int:
    """Returns all that writing takes beside the loaded base.

    Args:
        state_bytes: of a number between the products; None: as many as in them
    """
    states = state_bytes or number_bytes
    weights = (merged_bytes if is_merged else unpacked_bytes)(shape, number_bytes)
    others = passing_bytes(shape, num_texts, num_passed, states) + PRODUCTS_BYTES
    cache = cache_bytes(shape, num_texts, num_tokens, states)
    return weights + cache + round((1 + SHARE_HELD) * others)
