"""When a checkpoint is saved, what it holds beside the weights, and how a run goes on from it.

In come the trainer's events and states, out go calls to save, and a trainer that goes on exactly
where a checkpoint was written. A checkpoint is always one of the end of an optimizer step, before
the validation that may follow: going on from it, that validation comes first. How checkpoints lie
on the disk is in checkpoints.py.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.run.checkpoints import SealedCheckpointIO, remove_oldest
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.options import AtLeastTwo, PositiveFloat, PositiveInt
from amazon_desc.training.stepping import SteppingModule

STATE = ("saved_step", "validation_due", "is_last", "logged")


class ResumeCheckpoint(ModelCheckpoint):
    """Saves every so many optimizer steps, before each validation, and after the last step.

    Args:
        every_n_steps: optimizer steps between two checkpoints
        every_n_minutes: most minutes between two checkpoints, for a machine that can be taken away
            at any time; null: only steps count
        keep: how many of the newest checkpoints stay, at least 2
    """

    def __init__(
        self,
        every_n_steps: PositiveInt = 500,
        every_n_minutes: PositiveFloat | None = None,
        keep: AtLeastTwo = 2,
    ) -> None:
        super().__init__(save_top_k=-1, every_n_train_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self.seconds = float("inf") if every_n_minutes is None else 60 * every_n_minutes
        self.keep = keep
        self.saved_step = 0
        self.saved_at = time.monotonic()
        # Of the step that was saved last: whether its validation was still to come, and whether
        # training ends with it.
        self.validation_due, self.is_last = False, False
        # Its numbers, which reach TensorBoard only after it was saved.
        self.logged: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        return "ResumeCheckpoint"  # Lightning's own names the options, which may change

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.run = RunFolder(Path(trainer.default_root_dir))
        self.dirpath = str(self.run.checkpoints)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes up for what came after the step of the checkpoint that the run goes on from."""
        self.saved_at = time.monotonic()
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
        is_late = time.monotonic() - self.saved_at >= self.seconds
        if is_due or is_late or is_last_step(trainer) or is_validated(trainer):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Saves the step that was just done, if it was not saved yet."""
        if self.saved_step == trainer.global_step or trainer.fast_dev_run:  # pyright: ignore
            return
        self.saved_step = trainer.global_step
        self.validation_due = is_validated(trainer)
        self.is_last = is_last_step(trainer)
        self.logged = numbers_to_log(trainer)
        path = self.run.checkpoint(trainer.global_step)
        self._save_checkpoint(trainer, str(path))
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


# What Lightning knows about the micro-batch that was just trained on.


def is_step_done(trainer: L.Trainer) -> bool:
    """Says whether an optimizer step was made with it, not only gradients added up."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def is_logged(trainer: L.Trainer) -> bool:
    """Says whether the step that was just made is one of those whose numbers are logged."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
    return every > 0 and trainer.global_step % every == 0


def is_last_step(trainer: L.Trainer) -> bool:
    return trainer.should_stop or trainer.is_last_batch


def is_validated(trainer: L.Trainer) -> bool:
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def numbers_to_log(trainer: L.Trainer) -> dict[str, float]:
    """Returns what is about to be logged of this step, if it is one of those that are."""
    connector, module = trainer._logger_connector, trainer.lightning_module
    if not connector.should_update_logs:
        return {}
    numbers = connector.metrics["log"]
    if isinstance(module, SteppingModule):  # which logs only after its callbacks
        numbers = {**numbers, **module.numbers_of_step()}
    return {name: float(value) for name, value in numbers.items()}


def validate(trainer: L.Trainer) -> None:
    """Validates in the middle of a fit, as Lightning does after a step."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False  # from its beginning, whatever the checkpoint says
    trainer.validating = True
    loop.run()
    trainer.training = True


class Position(Callback):
    """Counts the rows trained on, keeps the random states, and has the last step validated."""

    def __init__(self) -> None:
        self.random_states: dict[str, Any] | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RowBatch, batch_idx: int
    ) -> None:
        if self.random_states is not None:
            restore_random_states(self.random_states)
            self.random_states = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: RowBatch,
        batch_idx: int,
    ) -> None:
        data_of(trainer).num_trained_rows += len(batch.input_ids)
        if is_last_step(trainer):
            trainer.should_stop = True  # Lightning validates before it obeys

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random_states"] = random_states()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.random_states = checkpoint["random_states"]
        count_micro_batches_anew(checkpoint, data_of(trainer))


def data_of(trainer: L.Trainer) -> DescriptionData:
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, DescriptionData)
    return data


def count_micro_batches_anew(checkpoint: dict[str, Any], data: DescriptionData) -> None:
    """Tells Lightning how many micro-batches of this run's size the rows trained on make.

    6 rows in micro-batches of 2, and now of 3:

        total = {ready: 3, completed: 2, started: 3, processed: 3}   the last is not yet completed
        total = {ready: 2, completed: 1, started: 2, processed: 2}
    """
    num = -(-data.num_trained_rows // data.batch_size)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(ready=num, started=num, processed=num, completed=num - 1)


def random_states() -> dict[str, Any]:
    """Returns the states of all generators as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
