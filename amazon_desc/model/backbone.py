"""The frozen base: loaded in 4 bits, checked, fingerprinted.

In comes a folder, out goes a transformers model in which nothing is trainable. Every weight of the
model must have been found in the files. Adapters are attached elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from amazon_desc.data.encoding.tokenizer import tokenizer_files
from amazon_desc.model import attention
from amazon_desc.model.conversion import as_safetensors
from amazon_desc.model.families import text_part_of
from amazon_desc.model.overflow import compute_safely, norms_in_float32
from amazon_desc.model.probe import attention_for, choose_attention
from amazon_desc.model.suitability import NO_CODE, read_config
from amazon_desc.support.allocator import freed_at_once
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json
from amazon_desc.support.hub import Backbone, first_line
from amazon_desc.support.layouts import CONFIG, GENERATION_CONFIG, weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Quantization = Literal["nf4", "none"]

# NF4 loses 9 % of a random matrix's norm; what loses more than this is not read as it was written.
MISREAD, ROWS_READ = 0.15, 64

# Of a configuration: what does not decide what the base computes here.
ASIDE = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
ASIDE |= {"use_cache", "_from_model_config"}

# Of each weight file this many blocks of this size, evenly spread, go into the fingerprint: it must
# tell two bases apart in well under a second, also where they have several gigabytes.
FINGERPRINT_BLOCKS, FINGERPRINT_BLOCK_BYTES = 256, 4096


def load_backbone(
    base: Backbone, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Loads the base onto `device`, frozen; `dtype` is that of its computations.

    Raises:
        UserError: the files do not hold every weight of the model, or cannot be read, or the model
            is none that can be trained here.
    """
    from safetensors import SafetensorError

    config, folder = read_config(base), weights_folder(base)
    try:
        with norms_in_float32(config, dtype), freed_at_once():
            model, report = load_weights(folder, config, quantization, dtype, device)
    except (SafetensorError, OSError, struct.error) as error:
        raise UserError(
            f"--model.backbone {base.name}: its files cannot be read ({first_line(error)}). "
            f"Copy or download them again."
        ) from error
    except (KeyError, ValueError, ImportError, AttributeError) as error:
        raise UserError(
            f"--model.backbone {base.name}: transformers cannot load it here "
            f"({first_line(error)}). Name another base."
        ) from error
    missing = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if missing:
        raise UserError(
            f"--model.backbone {base.name}: {len(missing)} weights of the model are not in its "
            f"files, or have another shape (first: {missing[0]}), and would have been random. "
            f"Take config.json and weights from one place, or name another base."
        )
    keep_quantized_layout(model)
    compute_safely(model)
    refuse_misread(model, base.name)
    tried = attention_for(base)
    choose_attention(model, base.name, None if tried is None else [tried])
    # transformers returns eval mode and Lightning keeps what it finds: layers would stay in it.
    return model.requires_grad_(False).train()


def weights_folder(base: Backbone) -> Path:
    """Returns the folder that holds the base's weights as safetensors; pickles are converted once.

    Raises:
        UserError: the weights cannot be read, or ask for code.
        StorageError: there is no room to convert them.
    """
    files = weight_files(base.folder)
    is_pickled = files[0].suffix == ".bin"
    return as_safetensors(files, base.name) if is_pickled else base.folder


def load_weights(
    folder: Path,
    config: PretrainedConfig,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Calls transformers; returns the model and its report on missing weights."""
    import transformers
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": {"": device},
        "attn_implementation": attention.UNPACKED,  # all families have it; chosen when loaded
        "use_safetensors": True,
        "output_loading_info": True,
        # every text has settings of ours; without these a folder of weights alone cannot be loaded
        "generation_config": GenerationConfig(),
        **NO_CODE,
    }
    if quantization == "nf4":
        import_bitsandbytes()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if (part := text_part_of(config)) is not None:
        # The files hold more than text; the plain call would leave every text weight random.
        with without_report(), with_bar_on_terminals():
            return getattr(transformers, part.text_class).from_pretrained(
                folder, config=config.get_text_config(), key_mapping=part.key_mapping, **options
            )
    with with_bar_on_terminals():
        return AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportReturnType]
            folder, config=config, **options
        )


@contextmanager
def with_bar_on_terminals() -> Iterator[None]:
    """Has transformers draw no progress bar into a file, where each state would be kept."""
    from transformers.utils import logging

    is_drawn = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_drawn:
            logging.enable_progress_bar()


@contextmanager
def without_report() -> Iterator[None]:
    """Has transformers print no table of the weights that are not loaded: they are not text's."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def import_bitsandbytes() -> None:
    """Imports it without torch's compiler: it would take a second to load, and nothing uses it."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        importlib.import_module("bitsandbytes")
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def keep_quantized_layout(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    The first forward pass without gradients would do it, and every later gradient through the base
    would be wrong, without a word; exports would be wrong too.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            setattr(layer, "support_avx512bf16_for_cpu", False)  # noqa: B010 (typed as a Tensor)


def refuse_misread(model: PreTrainedModel, name: str) -> None:
    """Refuses 4-bit matrices of a width that bitsandbytes does not read as it wrote them.

    On a CPU, 0.50 takes the scales of blocks of 64 from other places where a row is no whole number
    of blocks but of 16: every weight is there, and far off, without a word.
    """
    layers: list[Any] = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    widths: dict[int, torch.device] = {of.in_features: of.weight.device for of in layers}
    if not widths:
        return
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    generator = torch.Generator("cpu").manual_seed(0)
    for width, device in widths.items():
        # on the CPU, which need not be the default here
        written = torch.randn(ROWS_READ, width, generator=generator, device="cpu").to(device)
        read = dequantize_4bit(*quantize_4bit(written, quant_type="nf4", compress_statistics=True))
        if (read - written).norm() > MISREAD * written.norm():
            raise UserError(
                f"--model.backbone {name}: bitsandbytes reads 4-bit matrices of {width} columns "
                f"wrongly on {device.type}. Set --model.quantization none, or use a GPU."
            )


class Fingerprints(NamedTuple):
    """What tells a base from another one."""

    weights: str
    files: dict[str, str]
    """of those beside the weights, by name"""


def fingerprints(folder: Path) -> Fingerprints:
    """Returns those of a base's folder as it is now."""
    return Fingerprints(fingerprint(folder), small_fingerprints(folder))


def refuse_replaced(base: Backbone, wanted: Fingerprints) -> None:
    """Refuses a base whose files are no longer those that this command first read."""
    found = fingerprints(base.folder)
    if found == wanted:
        return
    changed = {name: (of, found.files.get(name, "none")) for name, of in wanted.files.items()}
    changed |= {"weights": (wanted.weights, found.weights)}
    name, (before, now) = next((n, pair) for n, pair in changed.items() if pair[0] != pair[1])
    raise UserError(
        f"--model.backbone {base.name}: wanted the files that were there when this command first "
        f"read them, found other {name} (sha256 {now[:12]}, before {before[:12]}). Put those back, "
        f"and run the same command again."
    )


def small_fingerprints(folder: Path) -> dict[str, str]:
    """Returns a sha256 of each of the files beside the weights that decide what a base computes and
    is shown: its configuration, tokenizer, chat template, and how it would write by itself.

    What says only who wrote a configuration, or for what it is loaded, does not count.
    """
    names = [CONFIG, GENERATION_CONFIG]
    facts = {
        name: {key: value for key, value in read_json(folder / name).items() if key not in ASIDE}
        for name in names
        if (folder / name).is_file()
    }
    found = {name: json.dumps(values, sort_keys=True).encode() for name, values in facts.items()}
    found |= {file.name: file.read_bytes() for file in tokenizer_files(folder)}
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def fingerprint(folder: Path) -> str:
    """Returns a sha256 that tells bases apart: names, sizes and some bytes of the weight files.

    Of pickles it is that of the files as they were published, not of what was made of them.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        step = max(FINGERPRINT_BLOCK_BYTES, size // FINGERPRINT_BLOCKS)
        with file.open("rb") as opened:
            for place in range(0, size, step):
                opened.seek(place)
                digest.update(opened.read(FINGERPRINT_BLOCK_BYTES))
    return digest.hexdigest()
