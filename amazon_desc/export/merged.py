"""The tuned model as transformers and vLLM load it alone: dense weights, LoRA merged.

In comes a module with its weights loaded, out goes a folder: safetensors in shards, configuration,
end tokens, tokenizer and card. Merged in float32 and cast last. A Gemma is its text model, or with
`is_whole` the model that it was published in, whose other weights are copied as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.export.card import Use, card_of
from amazon_desc.export.facts import Facts
from amazon_desc.export.folders import Contents
from amazon_desc.export.shards import Part, write_shards
from amazon_desc.export.usage import merged_lines, prompt_section, vllm_lines
from amazon_desc.export.weights import Weight, weights_of
from amazon_desc.model.backbone import weights_folder
from amazon_desc.model.families import family_of, text_part_of
from amazon_desc.model.suitability import read_config
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json, write_text
from amazon_desc.support.hub import Backbone
from amazon_desc.support.layouts import CONFIG, weight_files
from amazon_desc.training.module import DescriptionModule

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

# What safetensors calls them.
FILE_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

# Of a configuration: what is not true of dense weights, or is a path of the machine it was made on.
NOT_COPIED = ("quantization_config", "torch_dtype", "_name_or_path", "auto_map")
# Of a tokenizer's: how it was loaded here.
NOT_OF_A_TOKENIZER = ("is_local", "local_files_only", "name_or_path")


def refuse_precision(base: Backbone, dtype: str) -> None:
    """Refuses float16 for a family whose hidden states grow beyond it, in whoever runs it."""
    family = family_of(read_config(base).get_text_config(decoder=True))
    if dtype == "float16" and family is not None and family.overflows_float16:
        raise UserError(
            f"--dtype float16: wanted a precision that {base.name} can be computed in; its hidden "
            f"states grow beyond 65,504, where float16 ends, and texts would be empty or noise. "
            f"Set --dtype bfloat16."
        )


def merged_parts(module: DescriptionModule, dtype: torch.dtype, is_whole: bool) -> list[Part]:
    """Returns the tensors of the export, none of them made yet.

    Raises:
        UserError: a layer holds what cannot be merged, or the base is published alone.
    """
    weights = weights_of(module.network)
    if not is_whole:
        return [Part(w.name, w.shape, dtype, w.make) for w in weights]
    return list(parts_of_whole(module.base, weights, dtype))


def parts_of_whole(base: Backbone, weights: list[Weight], dtype: torch.dtype) -> Iterator[Part]:
    """Yields the tensors of the base's files, those of the text part replaced by the tuned ones.

    language_model.model.norm.weight -> model.norm.weight of the tuned model, in `dtype`
    vision_tower...                  -> as it is in the file, in the file's precision
    """
    from safetensors import safe_open

    part = text_part_of(read_config(base))
    if part is None:
        raise UserError(
            f"--full: {base.name} is a text model alone, so there is no more of it. Leave --full "
            f"away."
        )
    if "quantization_config" in read_json(base.folder / CONFIG):
        raise UserError(
            f"--full: the files of {base.name} are quantised already, and cannot be copied beside "
            f"dense weights. Leave --full away."
        )
    tuned = {weight.name: weight for weight in weights}
    for file in weight_files_of(base):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                if (weight := tuned.pop(part.text_name(name), None)) is not None:
                    yield Part(name, weight.shape, dtype, weight.make)
                    continue
                found = opened.get_slice(name)
                shape, own = tuple(found.get_shape()), FILE_DTYPES[found.get_dtype()]
                yield Part(name, shape, own, partial(read_tensor, file, name))
    if tuned:
        raise UserError(
            f"--full: the files of {base.name} have no place for {next(iter(tuned))} and "
            f"{len(tuned) - 1} others. Leave --full away, which exports the text model."
        )


def weight_files_of(base: Backbone) -> list[Path]:
    return weight_files(weights_folder(base))


def read_tensor(file: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def contents_of(module: DescriptionModule, card: str, *, dtype: str, is_whole: bool) -> Contents:
    """Returns what the folder will hold; the module's weights are loaded for it."""
    module.configure_model()
    parts = merged_parts(module, DTYPES[dtype], is_whole)

    def write(folder: Path) -> None:
        write_beside(folder, module, card, dtype, is_whole)
        write_shards(folder, parts)
        for file in folder.glob("*.safetensors"):  # written for its owner alone
            shutil.copymode(folder / CONFIG, file)

    return Contents(sum(part.num_bytes for part in parts), write)


# What stands beside the weights


def write_beside(
    folder: Path, module: DescriptionModule, card: str, dtype: str, is_whole: bool
) -> None:
    """Writes all but the weights into an empty folder."""
    write_json(folder / CONFIG, config_of(module, dtype, is_whole))
    write_generation_config(folder, module)
    write_tokenizer(folder, module.base)
    if is_whole:
        for file in sorted(module.base.folder.glob("*processor*.json")):
            shutil.copyfile(file, folder / file.name)
    write_text(folder / "README.md", card)


def config_of(module: DescriptionModule, dtype: str, is_whole: bool) -> dict[str, Any]:
    """Returns config.json: the base's own, as it was published, but for what is no longer true.

    It is not written anew by the transformers that is installed: an older one would take what it
    does not know there, such as positions under a new name, for its defaults.
    """
    found = read_json(module.base.folder / CONFIG)
    is_part = text_part_of(read_config(module.base)) is not None
    if is_part and not is_whole:
        model: Any = module.network.get_base_model()
        ids = {name: found[name] for name in ("bos_token_id", "pad_token_id") if name in found}
        found = {
            "architectures": [type(model).__name__],
            **ids,
            **found["text_config"],
            "model_type": model.config.model_type,
            "tie_word_embeddings": model.config.tie_word_embeddings,
        }
    kept = {name: value for name, value in found.items() if name not in NOT_COPIED}
    if isinstance(kept.get("text_config"), dict):
        kept["text_config"] = {
            name: value for name, value in kept["text_config"].items() if name not in NOT_COPIED
        }
    return {**kept, "dtype": dtype, "use_cache": True}


def write_generation_config(folder: Path, module: DescriptionModule) -> None:
    """Writes how texts end and how long they may be; penalties of ours are not transformers'."""
    from transformers import GenerationConfig

    settings, tokenizer, ends = module.decoding, module.data.tokenizer, module.end_ids()
    options: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        "max_new_tokens": settings.max_new_tokens,
        "do_sample": settings.is_sampled,
        "num_beams": settings.num_beams,
    }
    if settings.min_new_tokens:
        options["min_new_tokens"] = settings.min_new_tokens
    if settings.is_sampled:
        for name in ("temperature", "top_k", "top_p", "min_p"):
            options[name] = getattr(settings, name)
    GenerationConfig(**options).save_pretrained(folder)


def write_tokenizer(folder: Path, base: Backbone) -> None:
    """Saves the base's tokenizer and chat template, loaded anew: one in use keeps its padding."""
    load_tokenizer(base.folder).save_pretrained(str(folder))
    file = folder / "tokenizer_config.json"
    settings = read_json(file)
    write_json(file, {n: v for n, v in settings.items() if n not in NOT_OF_A_TOKENIZER})


def write_json(file: Path, values: dict[str, Any]) -> None:
    write_text(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def merged_card(
    module: DescriptionModule, facts: Facts, name: str, *, dtype: str, is_whole: bool
) -> str:
    """Returns the README of the export under the name of its folder."""
    part = "with all that its base has, images too; only the text part is tuned" if is_whole else ""
    what = (
        f"The model that amazon_desc tuned, LoRA merged into the weights in float32 and kept in "
        f"{dtype}{f', {part}' if part else ''}. transformers and vLLM load it alone."
    )
    uses = [
        Use("With transformers", TRANSFORMERS, "python", merged_lines(module, name, dtype)),
        Use("With vLLM", VLLM, "python", vllm_lines(module, name, dtype)),
    ]
    return card_of("merged", facts, what, prompt_section(module.identity(module.data)), uses)


TRANSFORMERS = (
    "Nothing but torch, transformers and accelerate is needed. On a CPU in float32 these lines "
    "write what amazon_desc writes; in 16 bits rounding decides between words that are as likely."
)

VLLM = (
    "In an environment of its own, since vLLM brings its own torch (0.20 to 0.26: torch 2.11, 0.27 "
    "to 0.32: 2.13, 0.33: 2.14; 0.30 wants numpy below 2.4). These lines were not run where this "
    "was exported."
)
