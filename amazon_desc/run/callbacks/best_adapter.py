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

from amazon_desc.model import adapter as adapters
from amazon_desc.model.families import text_part_of
from amazon_desc.model.identity import write_record
from amazon_desc.model.suitability import read_config
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.model_card import model_card
from amazon_desc.support.files import replacing_folder, storage
from amazon_desc.training.module import DescriptionModule


class BestAdapter(Callback):
    """Saves the adapter after each validation that is better than all before."""

    def __init__(self) -> None:
        self.best_loss: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_trial = trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.state.fn != "fit" or trainer.sanity_checking or is_trial:
            return
        loss = trainer.callback_metrics.get("validation/loss")
        if loss is None or not math.isfinite(loss):
            return
        if self.best_loss is None or float(loss) < self.best_loss:
            self.best_loss = float(loss)
            save_adapter(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.best_loss is None and not trainer.fast_dev_run:  # pyright: ignore
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
        part = text_part_of(read_config(module.base))
        adapters.save(module.network, folder, identity.backbone, identity.revision, part)
        module.data.tokenizer.save_pretrained(str(folder))
        write_record(folder, identity)
        card = model_card(identity, module, adapter)
        (folder / "README.md").write_text(card, encoding="utf-8")
