"""One pass through all layers: of the prompts that begin, or of one new token for each slot.

In come token ids with their places, out go hidden states; keys and values are kept on the way. The
kernels are those that train. Prompts are packed; each begins where a tile of attention's queries
does, so that a prompt's sums have one order wherever it stands.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from amazon_desc.generation.engine.cache import Cache, attend, keep
from amazon_desc.generation.engine.merged import MergedDecoder, MergedLayer
from amazon_desc.model.kernels.attention import Visibility, queries_at_a_time
from amazon_desc.model.kernels.attention import attend as attend_packed
from amazon_desc.model.kernels.gate import gated
from amazon_desc.model.kernels.norm import add_norm
from amazon_desc.model.kernels.rotary import Rotation, rotate


class Prompts(NamedTuple):
    """N tokens of packed prompts."""

    ids: Tensor
    """(N) int64"""
    positions: Tensor
    """(N) int64: of each token in its prompt; padding has 0 and is a prompt of its own"""
    slots: Tensor
    """(N) int64: where a prompt is kept; -1: it is padding"""


def prefill(decoder: MergedDecoder, caches: list[Cache], prompts: Prompts, longest: int) -> None:
    """Keeps keys and values of packed prompts, none of them longer than `longest` tokens."""
    h, y = decoder.embed(prompts.ids), None
    for layer, cache in zip(decoder.layers, caches, strict=True):
        qkv, h = project(decoder, layer, h, y, prompts.positions)
        keep(cache, qkv, prompts.slots, prompts.positions)
        if layer is decoder.layers[-1]:  # its keys were all that was wanted
            return
        visibility = visibility_of(layer, prompts.positions, longest)
        h, y = finish(layer, h, attend_packed(qkv, layer.heads, visibility, 0).output)


def visibility_of(layer: MergedLayer, positions: Tensor, longest: int) -> Visibility:
    return Visibility(positions, longest, layer.attention_scale, layer.window)


def alignment(decoder: MergedDecoder, longest: int) -> int:
    """Returns of what number of tokens the beginnings of packed prompts are multiples."""
    return max(
        queries_at_a_time(layer.heads, visibility_of(layer, decoder.embedding, longest))
        for layer in decoder.layers
    )


def decode(
    decoder: MergedDecoder, caches: list[Cache], ids: Tensor, positions: Tensor, slots: Tensor
) -> Tensor:
    """Returns the normalised hidden states of one token for each slot, (S, H).

    Args:
        ids: (S) int64
        positions: (S) int64: of the token in its slot
        slots: (S) int64: 0, 1, 2, ...
    """
    h, y = decoder.embed(ids), None
    for layer, cache in zip(decoder.layers, caches, strict=True):
        qkv, h = project(decoder, layer, h, y, positions)
        keep(cache, qkv, slots, positions)
        attended = attend(cache, qkv, positions, layer.attention_scale, layer.window)
        h, y = finish(layer, h, attended)
    return add_norm(h, y, decoder.last_norm, room=0)[0]


def project(
    decoder: MergedDecoder, layer: MergedLayer, h: Tensor, y: Tensor | None, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns queries, keys and values of a layer, rotated, and the residual stream with y."""
    x, _, normed = add_norm(h, y, layer.attention_norm, room=0)
    cos, sin = decoder.tables[layer.rotation]
    return rotate(layer.qkv(x), layer.heads, Rotation(cos, sin, positions)), normed.h


def finish(layer: MergedLayer, h: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the residual stream before the layer's last product is added, and that product."""
    x, _, normed = add_norm(h, layer.out(attended), layer.mlp_norm, room=0)
    act, _ = gated(layer.gate_up(x), layer.is_gelu, room=0)
    return normed.h, layer.down(act)
