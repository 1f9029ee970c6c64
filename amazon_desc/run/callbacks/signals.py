"""Ctrl-C and SIGTERM: a fit finishes its optimizer step and saves, everything else leaves at once.

In come signals, out goes Interrupted, whose exit code is 130 or 143. A second signal ends the
process on the spot. Whatever is running can be killed at any moment and loses nothing that was
saved; this only saves the last steps too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.run.callbacks.resuming import ResumeCheckpoint, files_of
from amazon_desc.support.errors import Interrupted
from amazon_desc.training.lightning_internals import is_step_done

STOPPING = (
    "\namazon_desc: {name}: finishing this optimizer step and saving. Once more, and it leaves "
    "at once.\n"
)


class Signals:
    """What this process was asked to do, and whether it may be interrupted at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.is_training = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM inside the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.handle()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle(self) -> None:
        """Takes the signals over, also from a trainer that has just taken them over itself."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        if not self.is_training:
            raise Interrupted(number)
        # print() could be what was interrupted, and cannot be entered twice
        os.write(2, STOPPING.format(name=signal.Signals(number).name).encode())

    def leave_if_asked(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)


class StopOnSignal(Callback):
    """Stops between two batches: after an optimizer step, and between batches of a validation."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.handle()
        self.signals.is_training = True

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
        saver = saver_of(trainer)
        if self.signals.received is not None and saver is not None and is_step_done(trainer):
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
    """Returns what saves checkpoints; None: nothing does, and a signal leaves without one."""
    savers = (c for c in trainer.checkpoint_callbacks if isinstance(c, ResumeCheckpoint))
    return next(savers, None)
