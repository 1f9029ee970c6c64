"""A base with its LoRA as it will be loaded, without weights: every module, no memory.

In come a configuration and LoRA settings, or an adapter's folder, out goes a PEFT model on torch's
meta device. What will be trained can be asked of it as of the loaded model, in a fraction of a
second and before anything is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amazon_desc.model.adapter import LoraSettings, attach, check_folder
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel


def skeleton(config: Any, lora: LoraSettings, adapter: Path | None = None) -> PeftModel:
    """Returns the decoder of a configuration with untrained LoRA, or as an adapter will have it.

    Args:
        config: transformers' configuration of a base; of one with vision, the text part is taken
        adapter: a folder that PEFT saved; its settings win over those of `lora`

    Raises:
        UserError: `lora` or the adapter names layers that the base does not have.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config.get_text_config(decoder=True))
        base.requires_grad_(False)
        return attach(base, lora) if adapter is None else attach_as_in(base, adapter, lora.dropout)


def attach_as_in(base: Any, folder: Path, dropout: float) -> PeftModel:
    """Adds untrained matrices with an adapter's settings; `dropout` is that of this run."""
    from peft import PeftConfig, get_peft_model

    check_folder(folder)
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        config.lora_dropout = dropout
        config.inference_mode = False
        return get_peft_model(base, config)  # pyright: ignore[reportReturnType]
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"the adapter {folder} does not fit the base "
            f"({str(error).strip().splitlines()[-1].strip()[:200]}). Name the base that it was "
            f"trained on with --model.backbone."
        ) from error
