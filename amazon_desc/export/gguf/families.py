"""Which models can be GGUF, under which names, and what llama.cpp has to know of their shape.

In comes transformers' configuration of a text model, out go the tensors of the file (name, shape,
what is done to the weights) and its settings, or a refusal that says what does not fit. The rules
are those of llama.cpp's convert_hf_to_gguf.py; names and keys are the `gguf` package's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amazon_desc.export.gguf.package import gguf_package
from amazon_desc.model.families import FAMILIES, activation_of, rotary_of
from amazon_desc.support.errors import UserError

# By transformers' model_type: llama.cpp's name of the architecture. Its Mistral is a Llama.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "gemma3_text": "gemma3"}
ACTIVATIONS = {"llama": "silu", "gemma3": "gelu_pytorch_tanh"}
# llama.cpp's Gemma 3: five layers with a sliding window, then one without.
LAYERS_A_FULL_ONE = 6
# llama.cpp takes another attention scale for the one with so many layers, Gemma 3 27B.
LAYERS_OF_27B = 62


@dataclass(frozen=True)
class Target:
    """A tensor of the file: what a weight of transformers' model becomes."""

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    """so many heads' rows are put into llama.cpp's order of rotation; 0: none"""
    offset: float = 0.0
    """added to the weights"""

    def of(self, weight: Tensor) -> Tensor:
        """Returns the weights as the file has them; rows beyond its own are left out."""
        weight = weight[: self.shape[0]]
        if self.heads:
            weight = permuted(weight, self.heads)
        return weight + self.offset if self.offset else weight


def permuted(weight: Tensor, heads: int) -> Tensor:
    """Returns the rows of queries or keys in llama.cpp's order: pairs that rotate stand together.

    transformers rotates row i of a head with row i + width / 2; one head of 4 rows:

        rows   = 0 1 2 3     (0 with 2, 1 with 3)
        result = 0 2 1 3
    """
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def check_config(config: Any) -> None:
    """Refuses a model that llama.cpp would run as another one, or not at all.

    Raises:
        UserError: what does not fit, and what would.
    """
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"GGUF: wanted a model out of Llama, Mistral and Gemma 3 (text), found "
            f"{config.model_type}. Export it as merged instead, or convert that with llama.cpp's "
            f"convert_hf_to_gguf.py."
        )
    for setting, found, wanted in differences(config):
        raise UserError(
            f"GGUF: llama.cpp's {ARCHITECTURES[config.model_type]} does not compute this model: "
            f"{setting} is {found}, and it takes {wanted}. Export it as merged instead."
        )


def differences(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Yields settings that llama.cpp has other ideas of: name, value, what it takes."""
    arch = ARCHITECTURES[config.model_type]
    if (activation := activation_of(config)) != ACTIVATIONS[arch]:
        yield "the activation", activation, ACTIVATIONS[arch]
    for rotary in rotary_of(config):
        if (kind := rotary["rope_type"]) not in ("default", "linear", "llama3"):
            yield "rope_type", kind, "default, linear or llama3"
        if (share := rotary.get("partial_rotary_factor", 1.0)) != 1:
            yield "partial_rotary_factor", share, "1"
    if arch == "gemma3":
        yield from differences_of_gemma(config)


def differences_of_gemma(config: Any) -> Iterator[tuple[str, Any, str]]:
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := getattr(config, name, None)) is not None:
            yield name, cap, "none"
    if config.attention_bias:
        yield "attention_bias", True, "false"
    if getattr(config, "use_bidirectional_attention", False):
        yield "use_bidirectional_attention", True, "false"
    if not config.tie_word_embeddings:
        yield "tie_word_embeddings", False, "true"
    is_full = [kind == "full_attention" for kind in config.layer_types]
    if is_full != [not (i + 1) % LAYERS_A_FULL_ONE for i in range(config.num_hidden_layers)]:
        yield "layer_types", config.layer_types, "five sliding ones before each full one"
    if config.rope_parameters["sliding_attention"]["rope_type"] != "default":
        yield "the sliding layers' rope_type", "scaled", "default"
    if (scale := config.query_pre_attn_scalar) != (wanted := wanted_scale(config)):
        yield "query_pre_attn_scalar", scale, f"{wanted:g}"


def wanted_scale(config: Any) -> float:
    if config.num_hidden_layers == LAYERS_OF_27B:
        return config.hidden_size / config.num_attention_heads
    return config.head_dim


def head_width(config: Any) -> int:
    width = getattr(config, "head_dim", None)
    return width or config.hidden_size // config.num_attention_heads


def targets_of(config: Any, num_tokens: int) -> dict[str, Target]:
    """Returns the tensors of the file by transformers' names, in the order of the model's layers.

    A head that is the embedding is none of them: llama.cpp takes the embedding then.

    Args:
        num_tokens: rows of the embedding that the file has, which are no more than the model's

    model.layers.0.self_attn.q_proj.weight -> blk.0.attn_q.weight, permuted, for a Llama
    """
    from transformers import AutoModelForCausalLM

    gguf = gguf_package()
    arch = ARCHITECTURES[config.model_type]
    is_permuted, offset = arch == "llama", FAMILIES[config.model_type].norm_offset
    named = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[arch]
    names = gguf.get_tensor_name_map(named, config.num_hidden_layers)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    targets = {}
    for name, weight in skeleton.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        shape = tuple(weight.shape)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            shape = (num_tokens, *shape[1:])
        targets[name] = Target(
            new_name,
            shape,
            heads=rotated_heads(config, name) if is_permuted else 0,
            offset=offset if name.endswith("norm.weight") else 0.0,
        )
    return targets


def rotated_heads(config: Any, name: str) -> int:
    """Returns how many heads a projection has whose output is rotated; 0: it is not rotated."""
    if ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".k_proj." in name else 0


def add_settings(writer: Any, config: Any, num_tokens: int) -> None:
    """Writes the shape of the model: lengths, heads, positions."""
    arch = ARCHITECTURES[config.model_type]
    rotary = rotary_of(config)[0]
    if arch == "gemma3":
        rotary = config.rope_parameters["full_attention"]
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    else:
        writer.add_vocab_size(num_tokens)
        writer.add_rope_dimension_count(head_width(config))
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rotary["rope_theta"])
    if rotary["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf_package().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rotary["factor"])


def context_of(config: Any) -> int:
    """Returns the most tokens that llama.cpp reads as transformers does.

    A Mistral's sliding window is not one in llama.cpp's Llama: up to its width they are the same.
    """
    window = getattr(config, "sliding_window", None)
    is_llama = ARCHITECTURES[config.model_type] == "llama"
    most = config.max_position_embeddings
    return min(most, window) if is_llama and window else most


def rotation_factors(config: Any) -> Tensor | None:
    """Returns what llama.cpp divides each frequency of rotation by; None: it needs no such tensor.

    Llama 3's way (transformers' `llama3`): long waves are stretched, short ones are not.
    """
    rotary = rotary_of(config)[0]
    if rotary["rope_type"] != "llama3":
        return None
    low, high = rotary["low_freq_factor"], rotary["high_freq_factor"]
    length, factor = rotary["original_max_position_embeddings"], rotary["factor"]
    width = head_width(config)
    factors = []
    for index in range(0, width, 2):
        waves = length * rotary["rope_theta"] ** (-index / width) / (2 * math.pi)
        share = min(1.0, max(0.0, (waves - low) / (high - low)))
        factors.append(1 / ((1 - share) / factor + share))
    return torch.tensor(factors, dtype=torch.float32)
