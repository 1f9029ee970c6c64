"""Keeps RUN/adapter: the weights of the best validation, as a plain PEFT folder.

In come the validations of a fit, the best of which has the lowest loss or the best of another
score, out goes a folder that `peft.AutoPeftModelForCausalLM.from_pretrained` reads without this
package, with tokenizer and model card. Where no validation was asked for, it holds the last
weights.
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
from amazon_desc.training.validating import MONITORED


class BestAdapter(Callback):
    """Saves the adapter after each validation that is better than all before.

    Args:
        monitor: the logged score that tells, such as `validation/loss`
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.is_lower_better = MONITORED[monitor] == "lower"
        self.best: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_trial = trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.state.fn != "fit" or trainer.sanity_checking or is_trial:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None or not math.isfinite(score):
            return
        if self.is_better(float(score)):
            self.best = float(score)
            save_adapter(trainer, pl_module)

    def is_better(self, score: float) -> bool:
        """Says whether it is better than the best so far; of equal ones the first stays."""
        if self.best is None:
            return True
        return score < self.best if self.is_lower_better else score > self.best

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.best is None and not trainer.fast_dev_run:  # pyright: ignore
            save_adapter(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # of before another score could be asked for
        self.best = state_dict["best"] if "best" in state_dict else state_dict["best_loss"]


def save_adapter(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Replaces RUN/adapter by the present weights, whole or not at all; one process does."""
    assert isinstance(module, DescriptionModule)
    if not trainer.is_global_zero:
        return
    identity = module.identity(module.data)
    adapter = RunFolder(Path(trainer.default_root_dir)).adapter
    with storage(adapter), replacing_folder(adapter) as folder:
        part = text_part_of(read_config(module.base))
        adapters.save(module.network, folder, identity.backbone, identity.revision, part)
        module.data.tokenizer.save_pretrained(str(folder))
        write_record(folder, identity)
        card = model_card(identity, module, adapter)
        (folder / "README.md").write_text(card, encoding="utf-8")
