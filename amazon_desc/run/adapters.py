"""Keeps RUN/adapter: the weights with the lowest validation loss, as a plain PEFT folder.

In come the validation losses of a fit, out goes a folder that
`peft.AutoPeftModelForCausalLM.from_pretrained` reads without this package, with tokenizer and model
card. Where no validation was asked for, it holds the last weights.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.files import replacing_folder, storage
from amazon_desc.identity import Identity, write_record
from amazon_desc.model import adapter as adapters
from amazon_desc.module import DescriptionModule
from amazon_desc.run.folder import RunFolder


class BestAdapter(Callback):
    """Saves the adapter after each validation that is better than all before."""

    def __init__(self) -> None:
        self.best_loss: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get("validation/loss")
        if loss is None or not math.isfinite(loss):
            return
        if self.best_loss is None or float(loss) < self.best_loss:
            self.best_loss = float(loss)
            save_adapter(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.best_loss is None:
            save_adapter(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss = state_dict["best_loss"]


def save_adapter(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Replaces RUN/adapter by the present weights, whole or not at all."""
    assert isinstance(module, DescriptionModule)
    identity = module.identity(module.data)
    adapter = RunFolder(Path(trainer.default_root_dir)).adapter
    with storage(adapter), replacing_folder(adapter) as folder:
        adapters.save(module.network, folder, identity.backbone, identity.revision)
        module.data.tokenizer.save_pretrained(str(folder))
        write_record(folder, identity)
        (folder / "README.md").write_text(model_card(identity, module), encoding="utf-8")


def model_card(identity: Identity, module: DescriptionModule) -> str:
    """Returns the README of the adapter folder: what it is, and the lines that load it."""
    dtype = str(module.compute_dtype).removeprefix("torch.")
    options = ["    folder,", f"    dtype=torch.{dtype},", '    device_map="auto",']
    quantization = ""
    if identity.quantization == "nf4":
        quantization = QUANTIZATION.format(dtype=dtype)
        options.append("    quantization_config=quantization,")
    if identity.revision:
        options.append(f'    revision="{identity.revision}",  # of the base')
    return CARD.format(
        base=identity.backbone,
        prompt=identity.template,
        chat=" as the user's turn of the tokenizer's chat template" if identity.is_chat else "",
        quantization=quantization,
        options="\n".join(options),
        imports=", BitsAndBytesConfig" if quantization else "",
    )


CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora, product-descriptions]
---

# Product descriptions from titles

LoRA matrices for `{base}`, trained by amazon_desc. The prompt{chat}:

```text
{prompt}
```

Load it with the base in the form that it was trained on; in another form the texts differ:

```python
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer{imports}
{quantization}
folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(
{options}
)
# On a CPU, or bitsandbytes repacks the weights of some of them and loses precision:
for layer in model.modules():
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False
```
"""

QUANTIZATION = """
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.{dtype},
)
"""
