"""The progress bar: how far, how fast, and the two losses, on one line.

In come the trainer's events, out goes a line on the terminal. What TensorBoard shows is not its
business.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from tqdm import tqdm

from amazon_desc.training.lightning_internals import SparingBar

# What is shown of the logged numbers, under which short name, and how.
SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "validation/loss": ("validation", "{:.3f}"),
    "train/tokens_per_second": ("tokens/s", "{:,.0f}"),
    "train/mfu": ("mfu", "{:.0%}"),
    "train/peak_memory_gib": ("memory", "{:.1f} GiB"),
}

# Drawing costs more than all else that a step leaves to the host.
DRAWN_EVERY_SECONDS = 0.2
# Where it is no terminal, each drawing is a line of a log.
LOGGED_EVERY_SECONDS = 30


def seconds_between_drawings() -> float:
    return DRAWN_EVERY_SECONDS if sys.stdout.isatty() else LOGGED_EVERY_SECONDS


class ProgressLine(SparingBar):
    """Lightning's bar without its epoch, which here is always the only one.

    What is drawn of the numbers is what was logged of them last.
    """

    drawn_at = 0.0

    def is_due(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if current != total and now - self.drawn_at < seconds_between_drawings():
            return False
        self.drawn_at = now
        return True

    def on_train_epoch_start(self, trainer: L.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("Training")

    def init_validation_tqdm(self) -> Any:
        """In the middle of a fit a log has no bar of its own: what comes of it is in the fit's."""
        bar = super().init_validation_tqdm()
        bar.disable = bar.disable or (self.trainer.state.fn == "fit" and not sys.stdout.isatty())
        return bar

    def init_predict_tqdm(self) -> Any:
        """Counts titles, so it shows how many a second are written for, and how long all take.

        Of several processes, each of which has as many, the first one counts for all.
        """
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        return tqdm(
            desc="Writing",
            total=data.num_titles,
            initial=data.num_titles - data.blocks.num_dealt,
            unit=" titles",
            smoothing=0,
            mininterval=seconds_between_drawings(),
            dynamic_ncols=True,
            file=sys.stdout,
            disable=self.is_disabled,
        )

    def on_predict_batch_start(self, *args: object, **named: object) -> None:
        """Counts no batches."""

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        bar, data = self.predict_progress_bar, trainer.datamodule  # pyright: ignore
        bar.update(min(len(batch) * data.share.world_size, bar.total - bar.n))

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = trainer.progress_bar_metrics
        return {
            short: form.format(metrics[name])
            for name, (short, form) in SHOWN.items()
            if name in metrics
        }
