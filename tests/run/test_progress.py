"""The bar shows the numbers that were logged, and reads none in between."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from amazon_desc.run.progress import ProgressLine


class Trainer(SimpleNamespace):
    """A trainer that logs every second step and counts how often its numbers are read."""

    log_every_n_steps = 2

    def __init__(self) -> None:
        super().__init__(global_step=0, metrics={}, num_reads=0)

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        self.num_reads += 1
        return self.metrics


def begin(bar: ProgressLine, trainer: Trainer) -> None:
    bar.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]


def numbers(bar: ProgressLine) -> dict[str, Any]:
    return bar.get_metrics(None, None)  # type: ignore[arg-type]


def test_names_are_short_and_numbers_round():
    bar, trainer = ProgressLine(), Trainer()
    trainer.global_step = 2
    trainer.metrics = {
        "train/loss": 2.34567,
        "validation/loss": 2.5,
        "train/tokens_per_second": 80412.3,
        "train/mfu": 0.4712,
        "train/peak_memory_gib": 4.0891,
        "train/gradient_norm": 1.0,
    }
    begin(bar, trainer)
    shown = {"loss": "2.346", "validation": "2.500", "tokens/s": "80,412"}
    assert numbers(bar) == {**shown, "mfu": "47%", "memory": "4.1 GiB"}


def test_numbers_are_read_once_a_log_also_with_several_micro_batches_a_step():
    """To read a number of the device is to wait for it."""
    bar, trainer = ProgressLine(), Trainer()
    for step in range(5):
        trainer.global_step = step
        trainer.metrics = {"train/loss": float(step)}
        for _ in range(3):
            begin(bar, trainer)
            numbers(bar)
    assert trainer.num_reads == 2  # after steps 2 and 4
    assert numbers(bar) == {"loss": "4.000"}


def test_the_last_numbers_are_shown_whether_they_were_due_or_not(
    monkeypatch: pytest.MonkeyPatch,
):
    bar, trainer = ProgressLine(), Trainer()
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    bar.train_progress_bar = bar.init_train_tqdm()
    trainer.global_step, trainer.metrics = 3, {"train/loss": 1.25}
    bar.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert "loss=1.250" in str(bar.train_progress_bar)
