"""Checkpoints are saved at the right steps, with what is to be made up for when one is resumed."""

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from amazon_desc.run.callbacks import resuming
from amazon_desc.run.callbacks.resuming import ResumeCheckpoint
from amazon_desc.run.checkpoints import SealedCheckpointIO
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.locks import alone


def as_a_checkpoint_keeps_it(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Line(L.LightningModule):
    """Learns one number, and notes which step had been saved last when it was validated."""

    def __init__(self, saver: ResumeCheckpoint) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.saver = saver
        self.validated: list[tuple[int, int]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.weight * batch).sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if batch_idx == 0:
            self.validated.append((self.trainer.global_step, self.saver.saved_step))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def ones(num: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(num, 1)), collate_fn=lambda rows: rows[0][0])


def fit(folder: Path, num_micro_batches: int, saver: ResumeCheckpoint, **options: Any) -> Line:
    """Trains in steps of 2 micro-batches, and validates every 3 steps."""
    model = Line(saver)
    L.Trainer(
        default_root_dir=folder,
        callbacks=[saver],
        plugins=[SealedCheckpointIO()],
        **{
            **{"accumulate_grad_batches": 2, "val_check_interval": 6, "max_epochs": 1},
            **{"check_val_every_n_epoch": None, "accelerator": "cpu", "logger": False},
            **{"enable_progress_bar": False, "enable_model_summary": False},
            **{"num_sanity_val_steps": 0},
            **options,
        },
    ).fit(model, ones(num_micro_batches), ones(2))
    return model


def saved(folder: Path) -> dict[int, dict[str, Any]]:
    """Returns what the saver itself kept in each checkpoint, by step."""
    files = sorted(RunFolder(folder).checkpoint_files())
    checkpoints = [torch.load(file, weights_only=True) for file in files]
    return {c["global_step"]: c["callbacks"]["ResumeCheckpoint"] for c in checkpoints}


def test_it_is_saved_every_so_many_steps_before_validations_and_at_the_end(tmp_path: Path):
    """21 micro-batches are 11 steps, the last of one micro-batch."""
    model = fit(tmp_path, 21, ResumeCheckpoint(every_n_steps=4, keep=100))
    found = saved(tmp_path)
    assert list(found) == [3, 4, 6, 8, 9, 11]
    assert [step for step, kept in found.items() if kept["validation_due"]] == [3, 6, 9]
    assert [step for step, kept in found.items() if kept["is_last"]] == [11]
    assert model.validated == [(3, 3), (6, 6), (9, 9)]
    names = [file.name for file in RunFolder(tmp_path).checkpoint_files()]
    assert names[:2] == ["step=00000011.ckpt", "step=00000009.ckpt"]


def test_a_step_that_is_due_for_several_reasons_is_saved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saves: list[str] = []
    save_checkpoint = L.Trainer.save_checkpoint

    def note(self: L.Trainer, path: Path) -> None:
        saves.append(path.name)
        save_checkpoint(self, path)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", note)
    fit(tmp_path, 12, ResumeCheckpoint(every_n_steps=3))
    assert saves == ["step=00000003.ckpt", "step=00000006.ckpt"]
    last = saved(tmp_path)[6]
    assert (last["validation_due"], last["is_last"]) == (True, True)


def test_the_newest_stay(tmp_path: Path):
    fit(tmp_path, 20, ResumeCheckpoint(every_n_steps=2, keep=3))
    assert list(saved(tmp_path)) == [8, 9, 10]


def test_minutes_count_from_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A minute a step: the third step after each checkpoint comes after more than 2.5 minutes."""
    clock = SimpleNamespace(monotonic=lambda: 60.0 * model_step[0])
    model_step = [0]
    step = Line.training_step

    def tick(self: Line, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        model_step[0] += batch_idx % 2
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Line, "training_step", tick)
    monkeypatch.setattr(resuming, "time", clock)
    saver = ResumeCheckpoint(every_n_steps=1000, every_n_minutes=2.5, keep=100)
    fit(tmp_path, 20, saver, limit_val_batches=0)
    assert list(saved(tmp_path)) == [3, 6, 9, 10]


def test_what_is_logged_of_a_saved_step_is_kept_with_it(tmp_path: Path):
    """Lightning logs a step after it was saved: a resumed run would miss its numbers."""
    saver = ResumeCheckpoint(every_n_steps=1, keep=100)
    logger = CSVLogger(tmp_path / "log")
    fit(tmp_path, 12, saver, logger=logger, log_every_n_steps=2)
    found = {step: kept["logged"] for step, kept in saved(tmp_path).items()}
    assert {step: set(logged) for step, logged in found.items()} == {
        **{step: set() for step in (1, 3, 5)},
        **{step: {"loss"} for step in (2, 4, 6)},
    }
    weights = [1 - 0.1 * (step - 1) for step in (2, 4, 6)]
    assert [found[step]["loss"] for step in (2, 4, 6)] == pytest.approx(weights)


def test_a_dry_run_saves_nothing(tmp_path: Path):
    fit(tmp_path, 12, ResumeCheckpoint(every_n_steps=1), fast_dev_run=4)
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_its_state_does_not_hang_on_its_options():
    """Lightning would find a state only under the very same options."""
    states = [ResumeCheckpoint(every_n_steps=n, keep=n) for n in (2, 5)]
    assert {state.state_key for state in states} == {"ResumeCheckpoint"}
    states[0].saved_step, states[0].validation_due = 7, True
    states[1].load_state_dict(as_a_checkpoint_keeps_it(states[0].state_dict()))
    assert states[1].state_dict() == states[0].state_dict()
    assert (states[1].saved_step, states[1].every_n_steps) == (7, 5)


def test_a_fit_whose_processes_see_other_folders_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On machines that do not share a disk, each would train in a folder of its own."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(resuming, "refuse_differences", told.append)
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with alone(tmp_path / "checkpoints", "trained"):
        ResumeCheckpoint().setup(trainer, L.LightningModule(), "fit")
    ResumeCheckpoint().setup(trainer, L.LightningModule(), "fit")  # as another machine would see it
    ResumeCheckpoint().setup(trainer, L.LightningModule(), "validate")
    (first,), (second,) = (list(of.values()) for of in told)
    assert first.startswith(f"process {os.getpid()} on ")
    assert second == ""
