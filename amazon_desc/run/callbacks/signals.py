"""Being asked to leave: a fit finishes its optimizer step and saves, all else leaves at once.

In come what support/signals.py has received and the time that a fit may take, out goes Interrupted,
between two batches. What is saved then is resumed as if nobody had asked.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer

from amazon_desc.run.callbacks.resuming import ResumeCheckpoint, files_of
from amazon_desc.support.errors import Interrupted
from amazon_desc.support.signals import Signals
from amazon_desc.training.lightning_internals import is_step_done

TIME_OVER = 124  # as `timeout` of the shell leaves


class StopOnSignal(Callback):
    """Stops between two batches: after an optimizer step, and between batches of a validation.

    Args:
        max_time: how long training may take in this process, as Lightning's Timer takes it; a run
            that is resumed has all of it again
    """

    def __init__(
        self, signals: Signals, max_time: str | timedelta | dict[str, int] | None = None
    ) -> None:
        self.signals = signals
        seconds = Timer(duration=max_time).time_remaining()
        self.seconds = float("inf") if seconds is None else seconds
        self.started_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.handle()
        self.signals.is_training = True
        self.started_at = time.monotonic()

    def ask_if_late(self) -> None:
        is_over = time.monotonic() - self.started_at >= self.seconds
        if is_over and self.signals.received is None:
            self.signals.ask(Interrupted("--trainer.max_time", TIME_OVER))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves between two steps, the numbers of the last being logged."""
        is_between = batch_idx % trainer.accumulate_grad_batches == 0  # pyright: ignore
        saver = saver_of(trainer)
        is_saved = saver is None or saver.saved_step == trainer.global_step > 0
        if is_between and is_saved:
            self.leave_if_asked(trainer)

    def leave_if_asked(self, trainer: L.Trainer) -> None:
        """Leaves when what was saved is on the disk."""
        if self.signals.received is not None:
            files_of(trainer).finish()
            self.signals.leave_if_asked()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not is_step_done(trainer):
            return
        if not trainer.should_stop:  # else this was the last step
            self.ask_if_late()
        saver = saver_of(trainer)
        if self.signals.received is not None and saver is not None:
            saver.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.is_training = False
        self.leave_if_asked(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self.signals.is_training = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.handle()

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.leave_if_asked(trainer)  # the step that is validated was saved before

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.handle()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.handle()


def saver_of(trainer: L.Trainer) -> ResumeCheckpoint | None:
    """Returns what saves checkpoints; None: nothing does, and a run leaves without one."""
    savers = (c for c in trainer.checkpoint_callbacks if isinstance(c, ResumeCheckpoint))
    return next(savers, None)
