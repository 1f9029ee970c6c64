"""The progress bar: how far, how fast, and the two losses, on one line.

In come the trainer's events, out goes a line on the terminal. What TensorBoard shows is not its
business.
"""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

# What is shown of the logged numbers, under which short name, and how.
SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "validation/loss": ("validation", "{:.3f}"),
    "train/tokens_per_second": ("tokens/s", "{:,.0f}"),
}


class ProgressLine(TQDMProgressBar):
    """Lightning's bar without its epoch, which here is always the only one."""

    def on_train_epoch_start(self, trainer: L.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("Training")

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = trainer.progress_bar_metrics
        return {
            short: form.format(metrics[name])
            for name, (short, form) in SHOWN.items()
            if name in metrics
        }
