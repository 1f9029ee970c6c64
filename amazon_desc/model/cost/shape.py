"""The widths of a decoder, and of the LoRA on it.

In come a transformers configuration and LoRA settings, out go the sizes of their matrices, by name
and in number. No weight is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from amazon_desc.model.families import Family, biased_of, family_of

if TYPE_CHECKING:
    from amazon_desc.model.adapter import LoraSettings


class Shape(NamedTuple):
    """What of a decoder's configuration decides its size."""

    num_layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    num_heads: int
    vocabulary: int
    is_tied: bool
    """whether the head is the embedding"""
    has_post_norms: bool
    """whether the outputs of attention and MLP are normalised too"""
    has_head_norms: bool
    """whether heads of queries and keys are normalised"""
    biased: frozenset[str]
    """which of the matrices have a bias"""

    def linears(self) -> dict[str, tuple[int, int]]:
        """Returns the rows and columns of a layer's frozen matrices, by name."""
        return {
            "q_proj": (self.queries, self.hidden),
            "k_proj": (self.keys, self.hidden),
            "v_proj": (self.keys, self.hidden),
            "o_proj": (self.hidden, self.queries),
            "gate_proj": (self.inner, self.hidden),
            "up_proj": (self.inner, self.hidden),
            "down_proj": (self.hidden, self.inner),
        }

    @property
    def num_linear_weights(self) -> int:
        return self.num_layers * sum(rows * columns for rows, columns in self.linears().values())

    @property
    def num_other_weights(self) -> int:
        """Embeddings, the head unless it is tied, biases, norms; those of heads are too small."""
        tables = self.vocabulary * self.hidden * (1 if self.is_tied else 2)
        biases = sum(rows for name, (rows, _) in self.linears().items() if name in self.biased)
        norms = (4 if self.has_post_norms else 2) * self.hidden
        return tables + self.num_layers * (biases + norms) + self.hidden


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def shape_of(config: Any) -> Shape:
    """Returns the shape of a decoder; of a model with vision, that of its text part."""
    config = config.get_text_config(decoder=True)
    hidden, dim = config.hidden_size, head_dim(config)
    family = family_of(config) or Family()
    num_heads = config.num_attention_heads
    return Shape(
        num_layers=config.num_hidden_layers,
        hidden=hidden,
        inner=getattr(config, "intermediate_size", None) or 4 * hidden,
        queries=num_heads * dim,
        keys=(getattr(config, "num_key_value_heads", None) or num_heads) * dim,
        num_heads=num_heads,
        vocabulary=config.vocab_size,
        is_tied=bool(config.tie_word_embeddings),
        has_post_norms=family.has_post_norms,
        has_head_norms=family.has_head_norms,
        biased=biased_of(config),
    )


# LoRA


def trained_linears(shape: Shape, lora: LoraSettings) -> dict[str, tuple[int, int]]:
    """Returns the matrices of a layer that have LoRA."""
    if lora.target_modules == "all-linear":
        return shape.linears()
    last = {target.rsplit(".", 1)[-1] for target in lora.target_modules}
    return {name: size for name, size in shape.linears().items() if name in last}


def num_lora_weights(shape: Shape, lora: LoraSettings) -> int:
    """Returns how many numbers are trained: LoRA's pairs, and with DoRA a norm for each row."""
    sizes = trained_linears(shape, lora).values()
    pairs = lora.r * sum(rows + columns for rows, columns in sizes)
    norms = sum(rows for rows, _ in sizes) if lora.use_dora else 0
    return shape.num_layers * (pairs + norms)


class Block(NamedTuple):
    """Projections of one input, as the fused path has them: one matrix with room for LoRA."""

    rows: int
    columns: int
    room: int

    @property
    def matrix(self) -> int:
        return (self.rows + self.room) * (self.columns + self.room)


def fused_blocks(shape: Shape, lora: LoraSettings) -> Iterator[Block]:
    linears, trained = shape.linears(), trained_linears(shape, lora)
    for names in (
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ):
        rank = lora.r * sum(name in trained for name in names)
        rows = sum(linears[name][0] for name in names)
        yield Block(rows, linears[names[0]][1], -(-rank // 8) * 8)
