"""What an adapter's layers are called: here, and in the model that its base was published in.

In come PEFT's names and configuration of an adapter, out go those of the other side. A text model
that is a part of more (Gemma 3) is trained alone, as `model.layers.0...`; in the published model,
and so for PEFT, TRL, Unsloth and vLLM, the same layer is `model.language_model.layers.0...`. Under
the wrong names PEFT finds no matrix, warns, and the base writes. Layers of the other parts, which
no text goes through, are left out. No weights are read here but their names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from amazon_desc.model.families import FAMILIES, TextPart, family_of

# What PEFT puts before the name of a layer, and between that and the name of a matrix.
PEFT_PREFIX = "base_model.model."
MATRIX = re.compile(r"\.lora_\w+(?:\.|$)")
EMBEDDING = re.compile(r"\.(?:embed_tokens|lm_head)\.(?:base_layer\.)?weight$")

# Of a configuration: what else than target_modules says which layers have LoRA. A parameter that is
# the matrix of a linear layer has the same LoRA as the layer.
BY_PATTERN = ("exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters")


class Translation(NamedTuple):
    """What loads an adapter onto the text model alone."""

    config: Any
    """PEFT's"""
    key_mapping: dict[str, str]
    """patterns of names in the file -> what they are here; PEFT_PREFIX is not in them"""
    names: dict[str, str]
    """of tensors: in the file -> here"""
    beside: list[str]
    """names in the file of tensors of other parts than the text's"""

    @property
    def copies(self) -> set[str]:
        """The names here of weights of the base that PEFT has put into the file, untrained.

        It adds the embeddings where LoRA is on them, or where it takes them for enlarged.
        """
        names = self.config.modules_to_save or []
        if names and self.config.ensure_weight_tying:  # then both were trained, as one
            return set()
        saved = tuple(f".{name}.weight" for name in names)
        return {n for n in self.names.values() if EMBEDDING.search(n) and not n.endswith(saved)}


def part_of(config: Any) -> TextPart | None:
    """Returns how the family of a text model's configuration is published as a part of more."""
    family = family_of(config)
    return None if family is None else family.text_part


def translate(config: Any, names: Collection[str], part: TextPart | None) -> Translation:
    """Returns what loads an adapter of either naming; `config` stays as it is.

    base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight   in the file
    base_model.model.model.layers.0.mlp.up_proj.lora_A.weight                  here
    """
    bare = {name: name.removeprefix(PEFT_PREFIX) for name in names}
    if part is None or not any(part.is_published(name) for name in bare.values()):
        return Translation(config, {}, {name: name for name in names}, [])
    beside = sorted(name for name, of in bare.items() if of.startswith(part.beside))
    inside = {name: of for name, of in bare.items() if name not in beside}
    here = {name: PEFT_PREFIX + part.text_name(of) for name, of in inside.items()}
    texts = {of: part.text_name(of) for of in inside.values()}
    return Translation(text_config(config, texts, part), part.key_mapping, here, beside)


def text_config(config: Any, inside: Mapping[str, str], part: TextPart) -> Any:
    """Returns PEFT's configuration for the text model, by what the file holds matrices for.

    Patterns need not fit the names of here, so layers, ranks and scales are named one by one.

    Args:
        inside: names of tensors in the file -> what they are here
    """
    from peft.utils.other import get_pattern_key

    config = copy.deepcopy(config)
    layers = {MATRIX.split(name)[0]: MATRIX.split(text)[0] for name, text in inside.items()}
    has_lora = {MATRIX.split(name)[0] for name in inside if MATRIX.search(name)}
    own = named_by_us(config.target_modules)
    config.target_modules = own or sorted(layers[name] for name in has_lora)
    for field in BY_PATTERN:
        setattr(config, field, None)
    for field in ("rank_pattern", "alpha_pattern"):
        pattern: dict[str, int] = getattr(config, field) or {}
        keys = {layers[name]: get_pattern_key(list(pattern), name) for name in sorted(has_lora)}
        found = {re.escape(here): pattern[key] for here, key in keys.items() if key in pattern}
        setattr(config, field, found)
    saved = [part.text_name(name) for name in config.modules_to_save or []]
    owners = [text.rpartition(".")[0] for text in inside.values()]
    saved = [name for name in saved if any(f".{of}".endswith(f".{name}") for of in owners)]
    config.modules_to_save = sorted(set(saved)) or None
    if isinstance(tokens := config.trainable_token_indices, dict):
        tokens = {part.text_name(name): indices for name, indices in tokens.items()}
        config.trainable_token_indices = tokens
    return config


def published_settings(model: Any, part: TextPart) -> dict[str, Any]:
    """Returns what of an adapter's configuration is another in the published model.

    Layers are named by a pattern that matches those of the text alone: a name such as q_proj would
    be found in the part for images too.
    """
    config: Any = model.peft_config["default"]
    layers = dict(model.get_base_model().named_modules())
    with_lora = {name: layer for name, layer in layers.items() if hasattr(layer, "lora_A")}
    last_names = {name.rpartition(".")[2] for name in with_lora}
    alike = {name for name in layers if name.rpartition(".")[2] in last_names}
    targets = last_names if alike == with_lora.keys() else with_lora
    found: dict[str, Any] = {"target_modules": pattern_of(part, targets)}
    found |= dict.fromkeys(BY_PATTERN)
    for field, default, values in (
        ("rank_pattern", config.r, "r"),
        ("alpha_pattern", config.lora_alpha, "lora_alpha"),
    ):
        of_layers = {name: getattr(m, values)["default"] for name, m in with_lora.items()}
        found[field] = {
            re.escape(part.published_name(name)): value
            for name, value in of_layers.items()
            if value != default
        }
    return found


def published_key(name: str, part: TextPart) -> str:
    """Returns what a tensor of an adapter is called in the published model."""
    return PEFT_PREFIX + part.published_name(name.removeprefix(PEFT_PREFIX))


def pattern_of(part: TextPart, names: Collection[str]) -> str:
    r"""Returns a pattern of the published model's layers, by their names or how these end.

    q_proj, v_proj -> model\.language_model\.(?:.*\.)?(?:q_proj|v_proj)
    """
    inside = sorted(name.removeprefix("model.") for name in names if name != part.head)
    pattern = pattern_start(part) + "|".join(map(re.escape, inside)) + ")"
    return f"{pattern}|{re.escape(part.head)}" if part.head in names else pattern


def named_by_us(pattern: Any) -> list[str]:
    """Returns the names that a pattern was made of by `pattern_of`; of another one, none."""
    for part in (family.text_part for family in FAMILIES.values()):
        start = "" if part is None else pattern_start(part)
        if start and isinstance(pattern, str) and pattern.startswith(start) and pattern[-1] == ")":
            inside = pattern[len(start) : -1]
            return [re.sub(r"\\(.)", r"\1", name) for name in inside.split("|")]
    return []


def pattern_start(part: TextPart) -> str:
    return re.escape(part.prefixes[-1]) + r"(?:.*\.)?(?:"
