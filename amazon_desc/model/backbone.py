"""The frozen base: loaded in 4 bits, checked, fingerprinted.

In comes a folder, out goes a transformers model in which nothing is trainable. Every weight of the
model must have been found in the files. Adapters are attached elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from amazon_desc.errors import UserError
from amazon_desc.hub import Backbone, first_line
from amazon_desc.model import attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Quantization = Literal["nf4", "none"]

# Left open, transformers would ask on the terminal whether to run code that comes with a base.
NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

# Of each weight file this many blocks of this size, evenly spread, go into the fingerprint: it must
# tell two bases apart in well under a second, also where they have several gigabytes.
FINGERPRINT_BLOCKS, FINGERPRINT_BLOCK_BYTES = 256, 4096


def load_backbone(
    base: Backbone, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Loads the base onto `device`, frozen; `dtype` is that of its computations.

    Raises:
        UserError: the files do not hold every weight of the model, or cannot be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.folder, **NO_CODE)
        model, report = load_weights(base.folder, config, quantization, dtype, device)
    except (SafetensorError, OSError, KeyError, ValueError, struct.error) as error:
        raise UserError(
            f"--model.backbone {base.name}: its files cannot be read ({first_line(error)}). "
            f"Copy or download them again."
        ) from error
    missing = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if missing:
        raise UserError(
            f"--model.backbone {base.name}: {len(missing)} weights of the model are not in its "
            f"files, or have another shape (first: {missing[0]}), and would have been random. "
            f"Copy or download the base again."
        )
    keep_quantized_layout(model)
    # transformers returns eval mode and Lightning keeps what it finds: layers would stay in it.
    return model.requires_grad_(False).train()


def load_weights(
    folder: Path,
    config: PretrainedConfig,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Calls transformers; returns the model and its report on missing weights."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": {"": device},
        "attn_implementation": attention.register(),
        "use_safetensors": True,
        "output_loading_info": True,
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
    if config.model_type == "gemma3":
        from transformers import Gemma3ForCausalLM

        # The files hold text and vision; the plain call would leave every text weight random.
        return Gemma3ForCausalLM.from_pretrained(  # pyright: ignore[reportReturnType]
            folder,
            config=config.text_config,
            key_mapping={r"^language_model\.model\.": "model."},
            **options,
        )
    return AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportReturnType]
        folder, config=config, **options
    )


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


def fingerprint(folder: Path) -> str:
    """Returns a sha256 that tells bases apart: shapes, names, sizes and a spread of their bytes."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        step = max(FINGERPRINT_BLOCK_BYTES, size // FINGERPRINT_BLOCKS)
        with file.open("rb") as opened:
            for place in range(0, size, step):
                opened.seek(place)
                digest.update(opened.read(FINGERPRINT_BLOCK_BYTES))
    return digest.hexdigest()
