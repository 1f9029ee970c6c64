"""What tells model families apart: a row of facts for each family that the fused kernels train.

In comes a transformers configuration, out go its family's row, and what its own numbers say of it.
Plain data for whoever has to know a family (kernels, memory, loading, exports): no torch, and no
model is looked at. How to add a family is in README.md beside this file.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class TextPart:
    """The text model inside of a folder that was published with more, such as a part for images."""

    model_type: str
    """of the folder's configuration; the text model's own stands in it, as its text_config"""
    text_class: str
    """of transformers, for the text model alone"""
    prefixes: tuple[str, ...]
    """what the names of its weights begin with in the folder's files, where it alone has `model.`;
    the last one is also the name of transformers' module in the whole model"""
    heads: tuple[str, ...]
    """what its head is called there, where it alone has `lm_head`"""
    beside: tuple[str, ...]
    """what names of weights begin with that no text goes through"""

    head = "lm_head"

    @property
    def key_mapping(self) -> dict[str, str]:
        """What transformers renames weights by: patterns of the files' names -> the model's."""
        heads = {f"^{re.escape(name)}\\b": self.head for name in self.heads}
        return {f"^{re.escape(prefix)}": "model." for prefix in self.prefixes} | heads

    def is_published(self, name: str) -> bool:
        """Whether a weight or layer is called as in the whole model."""
        return name.startswith((*self.prefixes, *self.beside)) or self.text_name(name) != name

    def text_name(self, name: str) -> str:
        """Returns what a weight or layer of the whole model is called in the text model alone.

        model.language_model.layers.0.mlp -> model.layers.0.mlp; lm_head -> lm_head
        """
        for pattern, replacement in self.key_mapping.items():
            name, num = re.subn(pattern, replacement, name)
            if num:
                break
        return name

    def published_name(self, name: str) -> str:
        """Returns what a weight or layer of the text model is called in the whole model.

        model.layers.0.mlp -> model.language_model.layers.0.mlp; lm_head -> lm_head
        """
        return re.sub(r"^model\.", self.prefixes[-1], name)


@dataclass(frozen=True)
class Family:
    """What the models of a family have in common; `setting` is a name in their configuration.

    All of them are decoders whose layers are attention and a gated MLP, each after an RMSNorm, with
    rotary positions that rotate one half of a head against the other, and with transformers' names
    of projections and norms.
    """

    activation: str = "hidden_act"
    """setting: the activation of the MLP's gate"""
    norm_offset: float = 0.0
    """what every norm adds to its weights: 1 where they are stored as distances from 1"""
    has_head_norms: bool = False
    """heads of queries and keys are normalised before they are rotated"""
    has_post_norms: bool = False
    """the outputs of attention and MLP are normalised before they are added"""
    is_embedding_scaled: bool = False
    """embeddings are multiplied by the square root of their width"""
    logit_cap: str | None = None
    """setting: the c of logits that become c * tanh(logits / c); None: they have no soft cap"""
    score_cap: str | None = None
    """setting: the same for attention's scores"""
    logit_scale: str | None = None
    """setting: what logits are multiplied by; None: nothing"""
    sliding_window: Literal["none", "all layers", "layer_types"] = "none"
    """the layers whose tokens see the last `sliding_window` ones only: none, all, or those that
    `layer_types` calls sliding_attention"""
    biases: tuple[str, ...] = ()
    """projections that have a bias in every model"""
    bias_switches: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(setting, projections that have a bias where it is true) each"""
    overflows_float16: bool = False
    """hidden states of its published models are larger than float16 can hold: there they have
    float32, and products are scaled (overflow.py)"""
    text_part: TextPart | None = None
    """how it is published as a part of more; None: it stands alone"""


ATTENTION_BIAS = ("attention_bias", ATTENTION)

# The usual names of the soft cap of logits.
LOGIT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
# The usual names of what logits are multiplied by, and of what they are divided by.
LOGIT_SCALES, LOGIT_DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)

# By the model_type of a text model's configuration.
FAMILIES = {
    "llama": Family(bias_switches=(ATTENTION_BIAS, ("mlp_bias", MLP))),
    "mistral": Family(sliding_window="all layers"),
    "qwen2": Family(sliding_window="layer_types", biases=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family(
        has_head_norms=True, sliding_window="layer_types", bias_switches=(ATTENTION_BIAS,)
    ),
    "gemma3_text": Family(
        activation="hidden_activation",
        norm_offset=1.0,
        has_head_norms=True,
        has_post_norms=True,
        is_embedding_scaled=True,
        logit_cap="final_logit_softcapping",
        score_cap="attn_logit_softcapping",
        sliding_window="layer_types",
        bias_switches=(ATTENTION_BIAS,),
        # github.com/huggingface/transformers/issues/36822; of 270M too (onnxruntime/issues/26732)
        overflows_float16=True,
        text_part=TextPart(
            "gemma3",
            "Gemma3ForCausalLM",
            prefixes=("language_model.model.", "model.language_model."),
            heads=("language_model.lm_head",),
            beside=(
                *("vision_tower.", "multi_modal_projector."),
                *("model.vision_tower.", "model.multi_modal_projector."),
            ),
        ),
    ),
}


def family_of(config: Any) -> Family | None:
    """Returns the row of a text model's configuration; None: there is none."""
    return FAMILIES.get(config.model_type)


def text_part_of(config: Any) -> TextPart | None:
    """Returns where a folder has its text model, by its configuration; None: it is all there is."""
    parts = (family.text_part for family in FAMILIES.values())
    return next((part for part in parts if part and part.model_type == config.model_type), None)


def activation_of(config: Any) -> str | None:
    """Returns the activation of the MLP; of a family without a row, by the usual names."""
    family = family_of(config)
    usual = ("hidden_act", "hidden_activation", "activation_function")
    names = usual if family is None else (family.activation,)
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)


def windows_of(config: Any) -> list[int | None]:
    """Returns how many tokens a token of each layer sees at most, itself included; None: all.

    A Gemma 3 of 3 layers with sliding_window 512

        layer_types = sliding_attention  full_attention  sliding_attention
        windows     = 512                None            512
    """
    family, num_layers = FAMILIES[config.model_type], config.num_hidden_layers
    if family.sliding_window == "none":
        return [None] * num_layers
    if family.sliding_window == "all layers":
        return [config.sliding_window] * num_layers
    is_sliding = (kind == "sliding_attention" for kind in config.layer_types)
    return [config.sliding_window if slides else None for slides in is_sliding]


def rotary_of(config: Any) -> list[dict[str, Any]]:
    """Returns the parameters of rotary positions: one, or one for each type of layer."""
    parameters = config.rope_parameters
    return [parameters] if "rope_type" in parameters else list(parameters.values())


def biased_of(config: Any) -> frozenset[str]:
    """Returns the projections that have a bias; of a family without a row, none are known."""
    family = family_of(config) or Family()
    switched = [names for name, names in family.bias_switches if getattr(config, name, False)]
    return frozenset(family.biases).union(*switched)


def logit_cap_of(config: Any) -> float | None:
    """Returns the soft cap of the logits; of a family without a row, by its usual names."""
    family = family_of(config)
    names = LOGIT_CAPS if family is None else (family.logit_cap,)
    caps = (getattr(config, name, None) for name in names if name is not None)
    return next((cap for cap in caps if cap is not None), None)


def logit_scale_of(config: Any) -> float:
    """Returns what logits are multiplied by; of a family without a row, by its usual names.

    Cohere with logit_scale 0.0625 -> 0.0625; Granite with logits_scaling 8 -> 0.125; Llama -> 1
    """
    family = family_of(config)
    if family is not None:
        return 1.0 if family.logit_scale is None else getattr(config, family.logit_scale)
    factors = [getattr(config, name, None) or 1.0 for name in LOGIT_SCALES]
    divisors = [getattr(config, name, None) or 1.0 for name in LOGIT_DIVISORS]
    return math.prod(factors) / math.prod(divisors)
