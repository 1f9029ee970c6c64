"""Attention over packed rows, example by example: the same numbers as under a mask, for less work.

In come queries, keys and values of packed rows, out goes what each token attends to in its own
example. A masked row of 2,048 tokens costs 2,048² products a head, its examples of 256 together an
eighth of that. Where nothing is packed (generation), transformers' own function does the work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

NAME = "amazon_desc_packed"

# transformers' own, which knows all that a family's attention does (soft caps, sinks, ...). It gets
# each example as a row of its own.
UNPACKED = "eager"


class Layout(NamedTuple):
    """Where the tokens of B packed rows of T tokens stand when each example is a row of its own."""

    tokens: Tensor
    """(E, L) int64: for each of E examples the places of its tokens in the B·T flattened ones; L is
    the longest example's length, and after a shorter one its last token is repeated"""
    places: Tensor
    """(B, T) int64: for each token its place in the E·L flattened ones; 0 for padding"""


def register() -> str:
    """Makes the function known to transformers; returns the name to load a base with."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def is_packed(config: Any) -> bool:
    """Whether a loaded base attends over packed rows; if not, each example has to be a row."""
    return config._attn_implementation == NAME


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attends inside examples; query, key and value are (B, heads, T, head_dim).

    Without `packed`, or where an example is longer than a sliding window, the mask decides. Padding
    after an example comes later than its tokens, so a causal mask keeps them from seeing it.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if options.get("softcap") is not None:  # some versions of transformers would leave it out
        raise NotImplementedError("sdpa attention has no soft cap")
    window = options.get("sliding_window")
    if packed is None or (window is not None and packed.tokens.shape[1] > window):
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    query, key, value = (spread(states, packed.tokens) for states in (query, key, value))
    output, _ = sdpa_attention_forward(module, query, key, value, None, **options)
    # (E, L, heads, dim) -> (B, T, heads, dim)
    return output.flatten(0, 1)[packed.places], None


def spread(states: Tensor, tokens: Tensor) -> Tensor:
    """Gathers (B, heads, T, dim) into (E, heads, L, dim)."""
    return states.transpose(1, 2).flatten(0, 1)[tokens].transpose(1, 2)
