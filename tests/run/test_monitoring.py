"""TensorBoard shows the speed of training alone, and texts that stay in their cells."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.evaluation.summary import Sample
from amazon_desc.run.callbacks import monitoring
from amazon_desc.run.callbacks.monitoring import (
    ChosenPath,
    DataLengths,
    Throughput,
    cell,
    markdown_table,
)
from amazon_desc.training.module import DescriptionModule


class Clock:
    """Replaces time.perf_counter; moves only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


class Logged(dict[str, float]):
    """A module that keeps what is logged."""

    device = torch.device("cpu")

    def log(self, name: str, value: float, **_: Any) -> None:
        self[name] = value


class Card:
    """Stands for a card that works for so many seconds after the host has gone on."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.behind, self.num_waits = clock, 0.0, 0
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)

    def synchronize(self, device: torch.device) -> None:
        self.num_waits += 1
        self.clock.now += self.behind
        self.behind = 0.0


def train(
    callback: Throughput,
    clock: Clock,
    module: Logged,
    step: int,
    num_tokens: int,
    seconds: float,
    is_step: bool = True,
) -> None:
    """Trains a micro-batch, with or without an optimizer step; every second step is logged.

    `step` is the number of optimizer steps made with it.
    """
    trainer: Any = None
    batch: Any = SimpleNamespace(num_tokens=num_tokens)
    with pytest.MonkeyPatch.context() as patch:  # what it says: test_lightning_internals.py
        patch.setattr(monitoring, "is_step_logged", lambda _: is_step and step % 2 == 0)
        callback.on_train_batch_start(trainer, module, batch, step)  # pyright: ignore
        clock.now += seconds
        callback.on_train_batch_end(trainer, module, None, batch, step)  # pyright: ignore


def test_throughput_is_tokens_a_second_since_the_last_log(monkeypatch: pytest.MonkeyPatch):
    clock, module, callback = Clock(monkeypatch), Logged(), Throughput()
    train(callback, clock, module, step=1, num_tokens=300, seconds=2.0)
    assert module == {}
    train(callback, clock, module, step=2, num_tokens=500, seconds=2.0)
    assert module == {"train/tokens_per_second": 200.0}  # 800 tokens in 4 s
    train(callback, clock, module, step=3, num_tokens=10, seconds=1.0)
    train(callback, clock, module, step=4, num_tokens=30, seconds=1.0)
    assert module == {"train/tokens_per_second": 20.0}


def test_micro_batches_count_together_up_to_the_step_that_is_logged(
    monkeypatch: pytest.MonkeyPatch,
):
    clock, module, callback = Clock(monkeypatch), Logged(), Throughput()
    train(callback, clock, module, step=0, num_tokens=100, seconds=1.0, is_step=False)
    train(callback, clock, module, step=1, num_tokens=200, seconds=1.0)
    train(callback, clock, module, step=1, num_tokens=300, seconds=1.0, is_step=False)
    assert module == {}
    train(callback, clock, module, step=2, num_tokens=400, seconds=1.0)
    assert module == {"train/tokens_per_second": 250.0}  # 1,000 tokens in 4 s
    module.clear()
    train(callback, clock, module, step=2, num_tokens=500, seconds=1.0, is_step=False)
    assert module == {}  # two steps are made, but this is no end of a step


def test_waiting_for_data_counts_and_validation_does_not(monkeypatch: pytest.MonkeyPatch):
    clock, module, callback = Clock(monkeypatch), Logged(), Throughput()
    train(callback, clock, module, step=1, num_tokens=100, seconds=1.0)
    clock.now += 2.0  # the loader
    any_: Any = None
    callback.on_validation_start(any_, module)  # type: ignore[arg-type]
    clock.now += 1000.0
    train(callback, clock, module, step=2, num_tokens=300, seconds=1.0)
    assert module == {"train/tokens_per_second": 100.0}  # 400 tokens in 1 + 2 + 1 s


def test_validation_before_any_training_does_not_start_the_clock(monkeypatch: pytest.MonkeyPatch):
    clock, module, callback = Clock(monkeypatch), Logged(), Throughput()
    any_: Any = None
    callback.on_validation_start(any_, module)  # type: ignore[arg-type]
    clock.now += 1000.0
    train(callback, clock, module, step=2, num_tokens=50, seconds=1.0)
    assert module == {"train/tokens_per_second": 50.0}


def test_a_card_is_waited_for_only_where_numbers_are_logged(monkeypatch: pytest.MonkeyPatch):
    """The host is four seconds ahead of it: without waiting, it would be 480 tokens in 2 s."""
    clock, module, callback = Clock(monkeypatch), Logged(), Throughput()
    card = Card(clock, monkeypatch)
    module.device = torch.device("cuda")
    callback.limit, callback.flops_per_token = 1600.0, 10
    train(callback, clock, module, step=1, num_tokens=100, seconds=1.0)
    card.behind = 4.0
    assert card.num_waits == 0
    train(callback, clock, module, step=2, num_tokens=380, seconds=1.0)
    assert card.num_waits == 1
    assert module == {
        "train/tokens_per_second": 80.0,  # 480 tokens in 1 + 1 + 4 s
        "train/mfu": 0.5,  # 80 x 10 flop/s of 1,600
        "train/peak_memory_gib": 1.5,
    }


def test_what_the_card_does_before_a_validation_counts(monkeypatch: pytest.MonkeyPatch):
    clock, module, callback = Clock(monkeypatch), Logged(), Throughput()
    card = Card(clock, monkeypatch)
    module.device = torch.device("cuda")
    train(callback, clock, module, step=1, num_tokens=100, seconds=1.0)
    card.behind = 3.0
    any_: Any = None
    callback.on_validation_start(any_, module)  # type: ignore[arg-type]
    train(callback, clock, module, step=2, num_tokens=100, seconds=1.0)
    assert module["train/tokens_per_second"] == 40.0  # 200 tokens in 1 + 3 + 1 s
    assert "train/mfu" not in module  # the limit was not measured


def test_the_path_that_was_chosen_is_said(capsys: pytest.CaptureFixture[str]):
    """The module chooses it; without this callback it is only not said."""
    module, trainer = DescriptionModule(), SimpleNamespace()
    module.plan = "Kernels: plain, as asked for."  # type: ignore[assignment]
    ChosenPath().on_train_start(trainer, module)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "Kernels: plain, as asked for.\n"


def test_samples_become_the_rows_of_a_table():
    samples = [Sample("Mug", "A mug.", "not shown", "Mugs"), Sample("Desk", "A desk.", "", "")]
    assert markdown_table(samples, ["reference", "tuned"]) == (
        "| title | reference | tuned |\n"
        "|---|---|---|\n"
        "| Mug | A mug. | Mugs |\n"
        "| Desk | A desk. |  |"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "a &#124; b"),
        ("two\nlines\r\n", "two lines"),
        ("U+2028\u2028end\x85", "U+2028 end"),
        ("<script>", "&#60;script&#62;"),
        ("\\|", "&#92;&#124;"),
        ("`*_{}[]#", "&#96;&#42;&#95;&#123;&#125;&#91;&#93;&#35;"),
    ],
)
def test_a_text_cannot_leave_its_cell(text: str, shown: str):
    assert cell(text, 80) == shown
    table = markdown_table([Sample(text, text, text, text)], ["reference", "tuned"])
    assert len(table.splitlines()) == 3
    assert table.splitlines()[2].count("|") == 4


def test_a_long_text_has_lines_and_a_long_word_is_not_broken():
    assert cell("one two three-four five", 9) == "one two<br>three-<br>four five"
    assert cell("a " + "b" * 20, 9) == f"a<br>{'b' * 20}"


def test_an_entity_in_a_text_is_shown_as_it_stands():
    """Otherwise "&lt;b&gt;" or "&#124;" in a text would become markup, or end the cell."""
    assert cell("R&B &#124; &lt;b&gt;", 80) == "R&#38;B &#38;&#35;124; &#38;lt;b&#38;gt;"


def test_the_lengths_of_the_data_are_shown_once_a_run(tmp_path: Path):
    lengths = {
        "title_characters": {
            **{"num": 4, "min": 1, "median": 2.0, "percentile_95": 8.0, "max": 9, "sum": 14},
            **{"sum_squares": 90.0, "bin_ends": [1.0, 2.0, 9.0], "bin_counts": [1, 2, 1]},
        }
    }
    data = DescriptionData()
    data.corpus = SimpleNamespace(report=lambda: {"lengths": lengths})  # type: ignore[assignment]
    for step in (0, 7):  # a run that is resumed at step 7 shows nothing again
        logger = TensorBoardLogger(str(tmp_path), name="", version="")
        trainer: Any = SimpleNamespace(datamodule=data, global_step=step, logger=logger)
        DataLengths().on_train_start(trainer, None)  # type: ignore[arg-type]
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    (shown,) = events.Histograms("texts/title_characters")
    assert (shown.step, shown.histogram_value.num, shown.histogram_value.max) == (0, 4, 9)
    assert list(shown.histogram_value.bucket_limit) == [1.0, 2.0, 9.0]
    assert list(shown.histogram_value.bucket) == [1, 2, 1]
