"""Being asked to leave: a fit finishes its optimizer step and saves, all else leaves at once.

In come what support/signals.py has received and the time that a fit may take, out goes Interrupted,
between two batches. What is saved then is resumed as if nobody had asked.
"""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer

from amazon_desc.run.callbacks.resuming import ResumeCheckpoint, files_of
from amazon_desc.support.errors import Interrupted
from amazon_desc.support.signals import Signals
from amazon_desc.training.exchange import wait_for_all
from amazon_desc.training.lightning_internals import is_step_done, leave_signals_alone
from amazon_desc.training.stepping import SteppingModule

TIME_OVER = 124  # as `timeout` of the shell leaves
TIME_OPTION = "--trainer.max_time"


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
        self.is_leaving = False  # all processes are

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        leave_signals_alone(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.handle()
        self.signals.is_training = True
        self.started_at = time.monotonic()
        if isinstance(pl_module, SteppingModule):
            pl_module.votes.asked["leave"] = partial(self.code, trainer)

    def code(self, trainer: L.Trainer) -> int:
        """Returns the exit code that this process was asked to leave with; 0: it was not."""
        is_over = time.monotonic() - self.started_at >= self.seconds
        is_last = trainer.should_stop
        if is_over and not is_last and self.signals.received is None:
            self.signals.ask(Interrupted(TIME_OPTION, TIME_OVER))
        return self.signals.received.exit_code if self.signals.received else 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves between two steps, the numbers of the last being logged."""
        is_between = batch_idx % trainer.accumulate_grad_batches == 0  # pyright: ignore
        saver = saver_of(trainer)
        is_saved = saver is None or saver.saved_step == trainer.global_step > 0
        is_agreed = self.is_leaving or trainer.world_size == 1
        if is_between and is_saved and is_agreed:
            self.leave_if_asked(trainer)

    def leave_if_asked(self, trainer: L.Trainer) -> None:
        """Leaves when what was saved is on the disk."""
        if self.signals.received is not None:
            files_of(trainer).finish()
            if self.is_leaving:
                wait_for_all()  # or one that has left has the others ended
            self.signals.leave_if_asked()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not is_step_done(trainer) or not isinstance(pl_module, SteppingModule):
            return
        code = pl_module.votes.agreed("leave")
        if not code:
            return
        self.is_leaving = trainer.world_size > 1
        if self.signals.received is None:  # another process was asked
            self.signals.received = Interrupted(name_of(code), code)
        if (saver := saver_of(trainer)) is not None:
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


def name_of(code: int) -> str:
    """Returns what it is that has a process leave with a code."""
    return TIME_OPTION if code == TIME_OVER else signal.Signals(code - 128).name


def saver_of(trainer: L.Trainer) -> ResumeCheckpoint | None:
    """Returns what saves checkpoints; None: nothing does, and a run leaves without one."""
    savers = (c for c in trainer.checkpoint_callbacks if isinstance(c, ResumeCheckpoint))
    return next(savers, None)
