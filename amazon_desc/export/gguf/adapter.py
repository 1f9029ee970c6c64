"""A LoRA adapter -> GGUF, which llama.cpp adds to its base when it loads it (`--lora`).

In comes an adapter's folder as PEFT has it, under the names of the published model or of its text
part; out goes the file, whole or not at all. What is more than LoRA is refused: llama.cpp would
leave it out without a word.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from amazon_desc.export.gguf.families import ARCHITECTURES, Target, check_config, targets_of
from amazon_desc.export.gguf.metadata import add_facts
from amazon_desc.export.gguf.package import gguf_package
from amazon_desc.export.gguf.places import (
    add_tensors,
    bytes_of,
    fallbacks,
    placed,
    write_head,
    write_tensor,
)
from amazon_desc.export.gguf.quantizing import ADAPTER_KINDS, check_kind, file_type
from amazon_desc.model.families import FAMILIES
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json, replacing_file
from amazon_desc.support.layouts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from amazon_desc.support.printing import say

MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# Settings of PEFT that make another thing of LoRA than the product of two matrices.
MORE_THAN_LORA = (
    *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters"),
    *("layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config"),
    *("monteclora_config", "arrow_config", "fan_in_fan_out"),
)


def write_adapter_gguf(
    folder: Path, config: Any, file: Path, kind: str, facts: dict[str, str]
) -> None:
    """Writes the adapter in `folder` as GGUF.

    Args:
        config: transformers' configuration of the base
        kind: f32, f16, bf16 or q8_0
        facts: what is known of the adapter (metadata.py)

    Raises:
        UserError: it is more than LoRA, does not fit the base, or llama.cpp cannot run the base.
    """
    gguf = gguf_package()
    check_kind(kind, ADAPTER_KINDS)
    config = config.get_text_config(decoder=True)
    check_config(config)
    settings = read_json(folder / ADAPTER_CONFIG)
    refuse_more_than_lora(settings, folder)
    tensors = adapter_tensors(folder, settings, targets_of(config, config.vocab_size))
    places = placed((target for target, _ in tensors), kind)
    writer = gguf.GGUFWriter(None, ARCHITECTURES[config.model_type])
    add_tensors(writer, places)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
    add_facts(writer, facts)
    writer.add_file_type(file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    with replacing_file(file) as temporary:
        start = write_head(writer, temporary)
        with temporary.open("r+b") as out:
            out.truncate(start + bytes_of(places))
            for place, (target, weight) in zip(places, tensors, strict=True):
                write_tensor(out, start, place, target.name, weight)
    if sentence := fallbacks(kind, places):
        say(sentence)


def refuse_more_than_lora(settings: dict[str, Any], folder: Path) -> None:
    if settings.get("peft_type") != "LORA":
        raise UserError(
            f"GGUF: wanted a LoRA adapter in {folder}, found {settings.get('peft_type')}. Export "
            f"the model as a whole, merged."
        )
    found = [name for name in MORE_THAN_LORA if settings.get(name)]
    if settings.get("bias", "none") != "none":
        found.append("bias")
    if found:
        raise UserError(
            f"GGUF: the adapter {folder} is more than LoRA ({', '.join(found)}), which llama.cpp "
            f"has no file for. Export the model as a whole, merged."
        )


def adapter_tensors(
    folder: Path, settings: dict[str, Any], targets: dict[str, Target]
) -> list[tuple[Target, Tensor]]:
    """Returns the matrices of the adapter as the file has them, each layer's A before its B.

    llama.cpp multiplies by lora_alpha / r whatever the adapter says, so that B takes the rest of
    another scale. B's rows are put into the order of its base's.
    """
    tensors = []
    for name, (a, b) in matrices_in(folder).items():
        target = targets.get(f"{name_in_text_model(name)}.weight")
        if target is None or (b.shape[0], a.shape[1]) != target.shape or len(a) != b.shape[1]:
            raise UserError(
                f"GGUF: the adapter {folder} does not fit its base: {name} has matrices of "
                f"{tuple(a.shape)} and {tuple(b.shape)}, the base "
                f"{'has no such layer' if target is None else target.shape}. Name the base that "
                f"it was trained on."
            )
        b = b * (scale_of(name, len(a), settings) / (settings["lora_alpha"] / len(a)))
        of_b = Target(f"{target.name}.lora_b", tuple(b.shape), target.heads)
        tensors += [(Target(f"{target.name}.lora_a", tuple(a.shape)), a), (of_b, b)]
    return tensors


def matrices_in(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns A and B in float32 by the name that their layer has in the folder."""
    from safetensors.torch import load_file

    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
        if key.endswith(".base_layer.weight"):  # PEFT saves the base's own head beside its LoRA
            continue
        match = MATRIX.fullmatch(key)
        if match is None:
            raise UserError(
                f"GGUF: the adapter {folder} has {key}, which is no matrix of LoRA on a linear "
                f"layer, and llama.cpp would not add it. Export the model as a whole, merged."
            )
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    lacking = [name for name, pair in found.items() if len(pair) != 2]
    if lacking or not found:
        raise UserError(
            f"GGUF: wanted pairs of LoRA matrices in {folder}, found {lacking or 'none'}. Copy the "
            f"adapter again."
        )
    return {name: (pair["A"], pair["B"]) for name, pair in sorted(found.items(), key=by_number)}


def name_in_text_model(name: str) -> str:
    """Returns transformers' name of a layer in the text model alone.

    model.language_model.layers.0.mlp.up_proj -> model.layers.0.mlp.up_proj
    """
    parts = (family.text_part for family in FAMILIES.values())
    return next((part.text_name(name) for part in parts if part and part.is_published(name)), name)


def by_number(item: tuple[str, Any]) -> list[Any]:
    """Orders layer 2 before layer 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item[0])]


def scale_of(name: str, rank: int, settings: dict[str, Any]) -> float:
    """Returns what PEFT multiplies the product of a layer's matrices by."""
    from peft.utils.other import get_pattern_key

    alphas = settings.get("alpha_pattern") or {}
    alpha = alphas.get(get_pattern_key(list(alphas), name), settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
