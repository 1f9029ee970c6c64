"""What a checkpoint keeps beside the weights comes back, and is saved at the right steps."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.run.callbacks import resuming
from amazon_desc.run.callbacks.resuming import (
    Position,
    ResumeCheckpoint,
    count_micro_batches_anew,
    data_of,
    random_states,
    restore_random_states,
)
from amazon_desc.run.checkpoints import SealedCheckpointIO
from amazon_desc.run.folder import RunFolder

# Random states


def draw_python() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(random.randrange(10**12))]


def draw_numpy() -> list[float]:
    return [*np.random.rand(3).tolist(), float(np.random.randn())]


def draw_torch() -> list[float]:
    return [*torch.rand(3).tolist(), *torch.randn(3).tolist(), *torch.randperm(9).tolist()]


def draw_all() -> list[list[float]]:
    return [draw_python(), draw_numpy(), draw_torch()]


def as_a_checkpoint_keeps_it(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


@pytest.mark.parametrize("draw", [draw_python, draw_numpy, draw_torch])
def test_the_next_draws_are_the_same(draw: Callable[[], list[float]]):
    draw()
    states = as_a_checkpoint_keeps_it(random_states())
    expected = [draw() for _ in range(300)]  # beyond a block of 624 numbers
    assert expected[0] != expected[1]
    restore_random_states(states)
    assert [draw() for _ in range(300)] == expected


def test_half_of_a_pair_of_normal_numbers_is_kept():
    """Python and NumPy make two at a time and keep one for the next call."""
    random.gauss(0, 1)
    np.random.randn()
    states = as_a_checkpoint_keeps_it(random_states())
    expected = (random.gauss(0, 1), float(np.random.randn()))
    for seed in (random.seed, np.random.seed):
        seed(99)
    restore_random_states(states)
    assert (random.gauss(0, 1), float(np.random.randn())) == expected


def test_states_can_be_restored_again_and_again():
    states = random_states()
    expected = draw_all()
    for _ in range(2):
        restore_random_states(states)
        assert draw_all() == expected


def test_taking_the_states_draws_nothing():
    expected = draw_all()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random_states()
    assert draw_all() == expected


def test_states_are_restored_once_before_the_first_micro_batch():
    """Loading data and model draws numbers of its own, after the checkpoint was read."""
    position, any_ = Position(), SimpleNamespace(datamodule=DescriptionData())
    checkpoint = {"random_states": random_states(), **loops(ready=0, completed=0)}
    expected = [draw_all(), draw_all()]
    position.on_load_checkpoint(any_, any_, checkpoint)  # pyright: ignore[reportArgumentType]
    draw_all()
    found = []
    for number in range(2):
        position.on_train_batch_start(any_, any_, any_, number)  # pyright: ignore
        found.append(draw_all())
    assert found == expected


# Micro-batches


def loops(**counts: int) -> dict[str, Any]:
    """Returns the part of a checkpoint that counts micro-batches, with the same counts twice."""
    progress = {"total": {**counts}, "current": {**counts}, "is_last_batch": False}
    return {"loops": {"fit_loop": {"epoch_loop.batch_progress": progress, "other": {"ready": 77}}}}


def counted(num_rows: int, batch_size: int, **counts: int) -> dict[str, Any]:
    data = DescriptionData(batch_size=batch_size)
    data.num_trained_rows = num_rows
    checkpoint = loops(**counts)
    count_micro_batches_anew(checkpoint, data)
    return checkpoint["loops"]["fit_loop"]


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "num", "completed"),
    [
        (6, 2, 3, 2),  # the worked example
        (6, 3, 2, 1),
        (6, 6, 1, 0),
        (6, 1, 6, 5),
        (2000, 8, 250, 249),
        (7, 2, 4, 3),  # the last one of a run, which is smaller
        (7, 4, 2, 1),
        (1, 4, 1, 0),
    ],
)
def test_the_rows_trained_on_are_counted_in_micro_batches_of_this_run(
    num_rows: int, batch_size: int, num: int, completed: int
):
    fit_loop = counted(num_rows, batch_size, ready=3, started=3, processed=3, completed=2)
    expected = {"ready": num, "started": num, "processed": num, "completed": completed}
    progress = fit_loop["epoch_loop.batch_progress"]
    assert (progress["total"], progress["current"]) == (expected, expected)
    assert progress["is_last_batch"] is False
    assert fit_loop["other"] == {"ready": 77}


def test_micro_batches_of_the_same_size_keep_their_counts():
    counts = {"ready": 5, "started": 5, "processed": 5, "completed": 4}
    assert counted(10, 2, **counts)["epoch_loop.batch_progress"]["total"] == counts


def test_only_our_own_data_has_a_position():
    data = DescriptionData()
    assert data_of(SimpleNamespace(datamodule=data)) is data  # pyright: ignore[reportArgumentType]
    with pytest.raises(AssertionError):
        data_of(SimpleNamespace(datamodule=L.LightningDataModule()))  # pyright: ignore


# When it is saved


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
    save_checkpoint = ResumeCheckpoint._save_checkpoint

    def note(self: ResumeCheckpoint, trainer: L.Trainer, path: str) -> None:
        saves.append(Path(path).name)
        save_checkpoint(self, trainer, path)

    monkeypatch.setattr(ResumeCheckpoint, "_save_checkpoint", note)
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
    """Lightning logs a step after it was saved: a run that goes on would miss its numbers."""
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
