"""The progress bar: how far, how fast, and the two losses, on one line.

In come the trainer's events, out goes a line on the terminal. What TensorBoard shows is not its
business.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from amazon_desc.run.resuming import is_logged

# What is shown of the logged numbers, under which short name, and how.
SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "validation/loss": ("validation", "{:.3f}"),
    "train/tokens_per_second": ("tokens/s", "{:,.0f}"),
    "train/mfu": ("mfu", "{:.0%}"),
    "train/peak_memory_gib": ("memory", "{:.1f} GiB"),
}

Numbers = dict[str, int | str | float | dict[str, float]]


class ProgressLine(TQDMProgressBar):
    """Lightning's bar without its epoch, which here is always the only one.

    It moves with every micro-batch, but its numbers are read only where they have just been logged:
    reading them is to wait for the device, which has then been waited for already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: Numbers = {}
        self.step_shown = 0

    def on_train_epoch_start(self, trainer: L.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("Training")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if is_logged(trainer) and trainer.global_step != self.step_shown:
            self.step_shown = trainer.global_step
            self.read(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.read(trainer)
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.read(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def read(self, trainer: L.Trainer) -> None:
        metrics = trainer.progress_bar_metrics
        self.numbers = {
            short: form.format(metrics[name])
            for name, (short, form) in SHOWN.items()
            if name in metrics
        }

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Numbers:
        return self.numbers
