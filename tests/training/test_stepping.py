"""The state of training is the module's: rows trained on, random states, and the end of a run."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.order import RowOrder
from amazon_desc.training.stepping import SteppingModule

NUM_ROWS = 10


class Rows(DescriptionData):
    """Serves the numbers of rows, in the order and from the row that training has them."""

    def setup(self, stage: str) -> None:
        counts: Any = SimpleNamespace(
            manifest={"counts": {"num_rows": NUM_ROWS}}, fingerprint="f" * 16
        )
        self.corpus = counts

    def train_dataloader(self) -> Any:
        return Loader(self.order(NUM_ROWS, self.num_trained_rows))

    def val_dataloader(self) -> Any:
        return [torch.ones(1)]


class Loader:
    def __init__(self, order: RowOrder) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.tensor(rows, dtype=torch.float32) for rows in self.order)


class Line(SteppingModule):
    """Learns one number, and notes what a forward pass finds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.found: list[tuple[int, int, float]] = []  # rows before, dropout seed, drawn
        self.validated: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        data = self.data
        self.found.append((data.num_trained_rows, data.dropout_seed, random.random()))
        loss = (self.weight * batch).sum()
        self.trained_on(loss, len(batch))
        return loss / data.row_tokens

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.trainer.global_step)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Saver(Callback):
    """Saves in the hook in which ResumeCheckpoint does, and notes the rows trained on by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.rows.append(data.num_trained_rows)
        trainer.save_checkpoint(self.folder / f"{len(self.rows)}.ckpt")


def fit(
    folder: Path, *callbacks: Callback, checkpoint: Path | None = None, **options: Any
) -> tuple[Line, Rows]:
    """Trains on 10 rows in micro-batches of 2, unless said otherwise, 2 of them a step."""
    model, data = Line(), Rows(**{"batch_size": 2, "seed": 3, **options})
    trainer = L.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accumulate_grad_batches=4 // data.batch_size,
        max_epochs=1,
        val_check_interval=100,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    return model, data


def test_a_forward_pass_finds_the_rows_before_it_and_a_checkpoint_those_with_it(tmp_path: Path):
    """Callbacks save before any hook of the module that comes after the optimizer step."""
    saver = Saver(tmp_path)
    model, data = fit(tmp_path, saver)
    assert [rows for rows, _, _ in model.found] == [0, 2, 4, 6, 8]
    assert [seed for _, seed, _ in model.found] == [3_000_009 + rows for rows in (0, 2, 4, 6, 8)]
    assert saver.rows == [2, 4, 6, 8, 10]
    assert data.num_trained_rows == 10
    saved = torch.load(tmp_path / "3.ckpt", weights_only=True)
    assert saved["Rows"]["num_trained_rows"] == 6


def test_rows_are_counted_with_no_callback_at_all(tmp_path: Path):
    model, data = fit(tmp_path)
    assert data.num_trained_rows == 10
    alone = model.weight.item()
    assert fit(tmp_path, Saver(tmp_path))[0].weight.item() == alone != 1


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_resumed_run_finds_the_rows_and_the_random_states_of_the_checkpoint(
    batch_size: int, tmp_path: Path
):
    """After 4 rows, one step; loading draws numbers of its own."""

    class Drawing(Callback):
        def on_train_start(self, *arguments: Any) -> None:
            random.random()

    random.seed(7)
    whole, _ = fit(tmp_path, Saver(tmp_path))
    rest, data = fit(tmp_path, Drawing(), checkpoint=tmp_path / "2.ckpt", batch_size=batch_size)
    assert data.num_trained_rows == 10
    assert rest.found[0] == whole.found[2] == (4, 3_000_013, whole.found[2][2])
    if batch_size == 2:
        assert rest.found == whole.found[2:]
        assert torch.equal(rest.weight, whole.weight)
    assert rest.weight.item() == pytest.approx(whole.weight.item())


def test_the_last_step_is_validated_also_where_no_interval_ends(tmp_path: Path):
    model, _ = fit(tmp_path)
    assert model.validated == [3]  # of steps of 4, 4 and 2 rows


def test_only_our_own_data_has_a_position():
    model, data = SteppingModule(), DescriptionData()
    model.trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    assert model.data is data
    model.trainer = SimpleNamespace(datamodule=L.LightningDataModule())  # type: ignore[assignment]
    with pytest.raises(AssertionError):
        _ = model.data
