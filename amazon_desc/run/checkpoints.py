"""Checkpoints to go on from: what they hold beside the weights, when and how they are written.

In come the trainer's states, out go files `step=00002000.ckpt` that are whole or not there. They
hold LoRA, optimizer, schedule, position in the data and random states, and load without pickle.
Which weights are the best is not decided here.
"""

from __future__ import annotations

import random
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from amazon_desc.data.batches import RowBatch
from amazon_desc.errors import UserError
from amazon_desc.files import replacing_file
from amazon_desc.options import PositiveInt
from amazon_desc.run.folder import RunFolder

# What torch raises for a file that is cut, changed, or holds more than tensors and plain values.
DAMAGE = (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, LookupError)


class DurableCheckpointIO(CheckpointIO):
    """Writes beside the final place, flushes, renames; reads tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with replacing_file(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU; a file that would need code to load is refused."""
    if not path.is_file():
        raise UserError(
            f"--ckpt_path {path}: no such file. Name a file of the run's checkpoints folder."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise UserError(
            f"checkpoint {path}: it cannot be read ({type(error).__name__}): it is damaged, or no "
            f"checkpoint of ours. Name an older one, or delete it to go on from the one before."
        ) from error
    if not isinstance(checkpoint, dict) or "identity" not in checkpoint:
        raise UserError(f"checkpoint {path}: not written by amazon_desc.")
    return checkpoint


class ResumeCheckpoint(ModelCheckpoint):
    """Saves every so many optimizer steps, and after the last one.

    Args:
        every_n_steps: optimizer steps between two checkpoints
        keep: how many of the newest checkpoints stay
    """

    def __init__(self, every_n_steps: PositiveInt = 500, keep: PositiveInt = 2) -> None:
        super().__init__(
            filename="step={step:08d}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_weights_only=False,
        )
        self.every_n_steps = every_n_steps
        self.waits_for_validation = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.dirpath = str(RunFolder(Path(trainer.default_root_dir)).checkpoints)
        Path(self.dirpath).mkdir(parents=True, exist_ok=True)
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves in the middle of the epoch only: Lightning resumes badly from an epoch's end.

        Where this step is validated, saving waits until that is done: a run that goes on from the
        checkpoint would never validate it.
        """
        epoch_loop = trainer.fit_loop.epoch_loop
        is_due = trainer.global_step % self.every_n_steps == 0 or is_last_step(trainer)
        if not is_due or trainer.global_step == 0 or epoch_loop._should_accumulate():
            return
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        self.waits_for_validation = epoch_loop._should_check_val_fx(fetcher)
        if not self.waits_for_validation:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.waits_for_validation:
            self.waits_for_validation = False
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Remembers the step, or the first batch after a resume would overwrite its checkpoint."""
        return {**super().state_dict(), "saved_step": self._last_global_step_saved}

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        self._last_global_step_saved = trainer.global_step
        super()._save_checkpoint(trainer, filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._last_global_step_saved = state_dict["saved_step"]


def is_last_step(trainer: L.Trainer) -> bool:
    """Says whether training ends with the batch that has just been trained on."""
    reached_limit = 0 <= trainer.max_steps <= trainer.global_step
    return trainer.should_stop or reached_limit or trainer.is_last_batch


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
        trainer.datamodule.num_trained_rows += len(batch.input_ids)  # pyright: ignore
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
