"""Keys and values of a batch of texts, in memory of a fixed size that is written in place.

In come a model and how many tokens a text may have, out goes a cache as transformers' models take
it. What is filled is handed out as a view, so nothing is copied for a new token; a text that has
ended makes room for one that has not.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

# What else there is (recurrent states, compressed keys, layers that share them, ...) is not kept.
PLAIN_KINDS = (DynamicLayer, DynamicSlidingWindowLayer)
PLAIN_TYPES = {"full_attention", "sliding_attention"}


def has_plain_cache(model: Any) -> bool:
    """Whether all that a transformers model keeps of a text are keys and values of each token.

    And whether it takes them as most families do: without preparations of its own.
    """
    usual: Any = GenerationMixin
    mine, usual = type(model).prepare_inputs_for_generation, usual.prepare_inputs_for_generation
    if mine is not usual or model.config.is_encoder_decoder:
        return False
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    types = getattr(model.config, "layer_types", None) or PLAIN_TYPES
    kept = DynamicCache(config=model.config).layers
    return PLAIN_TYPES.issuperset(types) and {type(layer) for layer in kept} <= {*PLAIN_KINDS}


class FixedLayer(DynamicLayer):
    """Keys and values of one layer, (texts, heads, tokens, dim) each.

    A sliding layer keeps all tokens too: its mask hides those that the window has left behind.

    Args:
        num_tokens: how many fit
        has_keys_upright: keep the keys with their tokens side by side, as a product of few queries
            with many keys reads them fastest on a CPU
    """

    def __init__(self, num_tokens: int, is_sliding: bool, has_keys_upright: bool):
        super().__init__()
        self.num_tokens, self.num_filled = num_tokens, 0
        self.is_sliding, self.has_keys_upright = is_sliding, has_keys_upright
        self.room: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        num_texts, num_heads, _, dim = key_states.shape
        if self.has_keys_upright:
            keys = key_states.new_empty(num_texts, num_heads, dim, self.num_tokens).mT
        else:
            keys = key_states.new_empty(num_texts, num_heads, self.num_tokens, dim)
        shape = (*value_states.shape[:2], self.num_tokens, value_states.shape[-1])
        self.room, self.is_initialized = [keys, value_states.new_empty(shape)], True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keeps new tokens; returns all that are kept, (texts, heads, filled, dim) each."""
        if not self.room:
            self.lazy_initialization(key_states, value_states)
        begin, self.num_filled = self.num_filled, self.num_filled + key_states.shape[2]
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, begin : self.num_filled] = states
        if begin == 0:
            return key_states, value_states
        keys, values = (room[:, :, : self.num_filled] for room in self.room)
        return keys, values

    def begin_with(self, of_one: FixedLayer, columns: Tensor) -> None:
        """Keeps what a layer keeps of one text as the first of each: (texts, tokens) of which."""
        states = [room[0][:, columns].transpose(0, 1) for room in of_one.room]
        self.update(*states)

    def get_seq_length(self) -> int:
        return self.num_filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_filled + query_length, 0

    def move(self, sources: Tensor, targets: Tensor, num_kept: int) -> None:
        """Copies texts to the places of others, and forgets those from `num_kept` on."""
        for index, room in enumerate(self.room):
            filled = room[:, :, : self.num_filled]
            filled[targets] = filled[sources]
            self.room[index] = room[:num_kept]


def fixed_cache(model: Any, num_tokens: int, has_keys_upright: bool) -> Cache:
    """Returns an empty cache for a model that `has_plain_cache`.

    Args:
        num_tokens: of the longest prompt with its text
    """
    kinds = DynamicCache(config=model.config).layers
    return Cache(
        layers=[
            FixedLayer(num_tokens, isinstance(kind, DynamicSlidingWindowLayer), has_keys_upright)
            for kind in kinds
        ]
    )


def begin_with(cache: Cache, of_one: Cache, columns: Tensor) -> None:
    """Begins an empty cache with tokens of one text's, which `columns` has the numbers of."""
    for layer, of_one_layer in zip(cache.layers, of_one.layers, strict=True):
        assert isinstance(layer, FixedLayer)
        assert isinstance(of_one_layer, FixedLayer)
        layer.begin_with(of_one_layer, columns)


def move(cache: Cache, sources: Tensor, targets: Tensor, num_kept: int) -> None:
    for layer in cache.layers:
        assert isinstance(layer, FixedLayer)
        layer.move(sources, targets, num_kept)
