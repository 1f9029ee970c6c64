"""When a checkpoint is saved, and what is made up for when a run is resumed from it.

In come the trainer's events, out go calls to save, and what was still to come of the saved step. A
checkpoint is always one of the end of an optimizer step, before the validation that may follow: a
resumed run begins with that validation. What a checkpoint holds is the module's and the data's
business; how checkpoints lie on the disk is in checkpoints.py.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from amazon_desc.run.checkpoints import SealedCheckpointIO, remove_oldest
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.locks import holder
from amazon_desc.support.options import AtLeastTwo, PositiveFloat, PositiveInt
from amazon_desc.training.exchange import refuse_differences
from amazon_desc.training.lightning_internals import (
    is_step_done,
    is_step_logged,
    is_stopping,
    is_validated,
    numbers_to_log,
    validate,
)
from amazon_desc.training.stepping import SteppingModule

STATE = ("saved_step", "validation_due", "is_last", "logged")


class ResumeCheckpoint(ModelCheckpoint):
    """Saves every so many optimizer steps, before each validation, and after the last step.

    Args:
        every_n_steps: optimizer steps between two checkpoints
        every_n_minutes: most minutes between two checkpoints, for a machine that can be taken away
            at any time; null: only steps count
        keep: how many of the newest checkpoints stay, at least 2
        monitor: the score of a fit's validations whose best makes RUN/adapter, such as
            `validation/rougeL`
    """

    def __init__(
        self,
        every_n_steps: PositiveInt = 500,
        every_n_minutes: PositiveFloat | None = None,
        keep: AtLeastTwo = 2,
        monitor: str = "validation/loss",
    ) -> None:
        super().__init__(save_top_k=-1, every_n_train_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self.seconds = float("inf") if every_n_minutes is None else 60 * every_n_minutes
        self.keep = keep
        self.monitor = monitor  # of best_adapter.py, which knows what it can be
        self.saved_step = 0
        self.saved_at = time.monotonic()
        # Of the step that was saved last: whether its validation was still to come, and whether
        # training ends with it, or as soon as it may.
        self.validation_due, self.is_last = False, False
        # Its numbers, which reach TensorBoard only after it was saved.
        self.logged: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        return "ResumeCheckpoint"  # Lightning's own names the options, which may change

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.run = RunFolder(Path(trainer.default_root_dir))
        self.dirpath = str(self.run.checkpoints)
        if stage == "fit":  # the first process holds it: another machine's may have another folder
            refuse_differences({f"who trains in {self.run.path}": holder(self.run.checkpoints)})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes up for what came after the step of the checkpoint that is resumed."""
        self.saved_at = time.monotonic()
        if isinstance(pl_module, SteppingModule):  # clocks differ, but all save at once
            pl_module.votes.asked["late"] = self.is_late
        if trainer.logger and self.logged:
            trainer.logger.log_metrics(self.logged, step=self.saved_step - 1)
        if self.validation_due:
            self.validation_due = False
            validate(trainer)
        if self.is_last:
            trainer.should_stop = True

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
        is_due = trainer.global_step % self.every_n_steps == 0
        is_voted = isinstance(pl_module, SteppingModule)
        is_late = pl_module.votes.agreed("late") if is_voted else self.is_late()
        if is_due or is_late or is_last_step(trainer) or is_validated(trainer):
            self.save(trainer)

    def is_late(self) -> bool:
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, trainer: L.Trainer) -> None:
        """Saves the step that was just done, if it was not saved yet."""
        if self.saved_step == trainer.global_step or trainer.fast_dev_run:  # pyright: ignore
            return
        self.saved_step = trainer.global_step
        self.validation_due = is_validated(trainer)
        self.is_last = trainer.should_stop or trainer.is_last_batch
        self.logged = numbers_logged(trainer)
        path = self.run.checkpoint(trainer.global_step)
        trainer.save_checkpoint(path)
        for logger in trainer.loggers:
            logger.after_save_checkpoint(self)
        if trainer.is_global_zero:
            files_of(trainer).submit(remove_oldest, self.run, self.keep, path)
        self.saved_at = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        files_of(trainer).finish()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        files_of(trainer).wait()

    # Lightning would save here too.

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None: ...

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, state_dict[name])


def files_of(trainer: L.Trainer) -> SealedCheckpointIO:
    files = trainer.strategy.checkpoint_io
    assert isinstance(files, SealedCheckpointIO)
    return files


def is_last_step(trainer: L.Trainer) -> bool:
    return is_stopping(trainer) or trainer.is_last_batch


def numbers_logged(trainer: L.Trainer) -> dict[str, float]:
    """Returns what is about to be logged of this step, if it is one of those that are."""
    if not is_step_logged(trainer):
        return {}
    numbers, module = numbers_to_log(trainer), trainer.lightning_module
    if isinstance(module, SteppingModule):  # which logs only after its callbacks
        numbers |= module.numbers_of_step()
    return {name: float(value) for name, value in numbers.items()}
