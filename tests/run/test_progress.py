"""The progress bar: drawn now and then, and at the end."""

from types import SimpleNamespace

import pytest

from amazon_desc.run import progress
from amazon_desc.run.progress import ProgressLine


def test_it_is_drawn_five_times_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch):
    """Steps of 1/16 s: the fourth after each drawing comes 0.25 s later."""
    clock = SimpleNamespace(monotonic=lambda: 100 + step / 16)
    monkeypatch.setattr(progress, "time", clock)
    line, drawn = ProgressLine(), []
    for step in range(1, 16):
        if line._should_update(step, total=15):
            drawn.append(step)
    assert drawn == [1, 5, 9, 13, 15]


def test_slow_steps_are_all_drawn(monkeypatch: pytest.MonkeyPatch):
    seconds = iter(range(100, 109))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    line = ProgressLine()
    assert [line._should_update(step, total=9) for step in range(1, 10)] == [True] * 9


def test_a_bar_that_is_switched_off_is_not_drawn():
    assert not ProgressLine(refresh_rate=0)._should_update(9, total=9)
