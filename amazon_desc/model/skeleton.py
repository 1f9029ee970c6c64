"""A base with its LoRA as it will be loaded, without weights: every module, no memory.

In come a configuration and LoRA settings, or an adapter's folder, out goes a PEFT model on torch's
meta device. What will be trained can be asked of it as of the loaded model, in a fraction of a
second and before anything is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amazon_desc.model.adapter import LoraSettings, attach, attach_as_in

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
