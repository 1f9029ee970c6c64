"""The progress bar: drawn now and then, and at the end, with what was logged last."""

import sys
from types import SimpleNamespace

import pytest

from amazon_desc.run.callbacks import progress
from amazon_desc.run.callbacks.progress import ProgressLine


def test_it_is_drawn_five_times_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch):
    """Steps of 1/16 s: the fourth after each drawing comes 0.25 s later."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    clock = SimpleNamespace(monotonic=lambda: 100 + step / 16)
    monkeypatch.setattr(progress, "time", clock)
    line, drawn = ProgressLine(), []
    for step in range(1, 16):
        if line._should_update(step, total=15):
            drawn.append(step)
    assert drawn == [1, 5, 9, 13, 15]


def test_slow_steps_are_all_drawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    seconds = iter(range(100, 109))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    line = ProgressLine()
    assert [line._should_update(step, total=9) for step in range(1, 10)] == [True] * 9


def test_in_a_log_it_is_a_line_each_half_minute_and_at_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    seconds = iter(range(100, 200, 10))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    line = ProgressLine()
    drawn = [step for step in range(1, 10) if line._should_update(step, total=9)]
    assert drawn == [1, 4, 7, 9]


@pytest.mark.parametrize(
    ("command", "is_terminal", "is_drawn"),
    [("fit", True, True), ("fit", False, False), ("validate", False, True)],
)
def test_validations_of_a_fit_have_no_bar_in_a_log(
    command: str, is_terminal: bool, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    line = ProgressLine()
    line._trainer = SimpleNamespace(state=SimpleNamespace(fn=command))  # type: ignore[assignment]
    assert line.init_validation_tqdm().disable is not is_drawn


def test_a_bar_that_is_switched_off_is_not_drawn():
    assert not ProgressLine(refresh_rate=0)._should_update(9, total=9)


def test_names_are_short_and_numbers_round():
    metrics = {
        "train/loss": 2.34567,
        "validation/loss": 2.5,
        "train/tokens_per_second": 92_345.6,
        "train/mfu": 0.4712,
        "train/peak_memory_gib": 4.126,
        "train/gradient_norm": 1.0,
    }
    trainer = SimpleNamespace(progress_bar_metrics=metrics)
    assert ProgressLine().get_metrics(trainer, None) == {  # type: ignore[arg-type]
        "loss": "2.346",
        "validation": "2.500",
        "tokens/s": "92,346",
        "mfu": "47%",
        "memory": "4.1 GiB",
    }
