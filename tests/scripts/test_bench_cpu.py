"""Promises of scripts/bench_cpu.py: what is measured, and that both sides get the same examples.

TRL need not be installed: nothing is trained here.
"""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_cpu.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench_cpu")


def test_the_warmup_is_not_measured(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "NUM_WARMUP_STEPS", 2)
    steps = bench.Steps([7.0, 9.0, 10.0, 12.0], [100, 90, 80, 100], [5.0, 4.0], loss_steps=2)
    assert bench.outcome("ours", steps) == bench.Run("ours", 60.0, 4.5, 3.0, 180)


def test_the_last_loss_is_over_the_same_steps_on_both_sides(bench: ModuleType) -> None:
    ends, num_tokens = [float(step) for step in range(40)], [2000] * 40
    of_each = [float(step) for step in range(40)]
    of_ten = [sum(of_each[start : start + 10]) / 10 for start in range(0, 40, 10)]
    ours = bench.outcome("a", bench.Steps(ends, num_tokens, of_each, 1))
    theirs = bench.outcome("a", bench.Steps(ends, num_tokens, of_ten, 10))
    assert ours == theirs
    assert ours.last_loss == 29.5  # the mean of 20 to 39


def test_examples_leave_the_rows_as_they_went_in(bench: ModuleType) -> None:
    row = {"input_ids": [1, 7, 8, 4, 2, 1, 5, 2], "lengths": [5, 3], "prompt_lengths": [3, 1]}
    assert list(bench.examples_of([row])) == [
        {"input_ids": [1, 7, 8, 4, 2], "completion_mask": [0, 0, 0, 1, 1]},
        {"input_ids": [1, 5, 2], "completion_mask": [0, 1, 1]},
    ]


def test_we_are_compared_with_the_best_packed_layout_and_with_the_fastest(
    bench: ModuleType,
) -> None:
    slow, fast, padded = bench.LAYOUTS
    assert [bench.LAYOUTS[side].is_packed for side in (slow, fast, padded)] == [True, True, False]
    speeds = {bench.OURS: (900.0, 1000.0, 5000.0), slow: (100.0, 300.0, 200.0), fast: (400.0,) * 3}
    speeds[padded] = (500.0,) * 3
    runs = [bench.Run(side, rate, 4.0, 1.0, 1) for side, rates in speeds.items() for rate in rates]
    summary = bench.summarize(runs)
    assert summary.medians == {bench.OURS: 1000.0, slow: 200.0, fast: 400.0, padded: 500.0}
    assert (summary.best_trl, summary.ratio, summary.ratio_to_all) == (fast, 2.5, 2.0)
    assert f"2.50 times as fast as {fast!r}" in bench.table(summary)
    assert bench.table(summary).endswith("2.00 times as fast as its fastest of all")


def test_rows_kept_apart_have_positions_and_no_mask(bench: ModuleType) -> None:
    """A mask of ones beside the positions would let packed examples attend to each other."""

    class Collator:
        padding_free, return_position_ids = True, False

        def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, object]:
            assert not self.padding_free
            assert self.return_position_ids
            return {"input_ids": 1, "position_ids": 2, "attention_mask": 3}

    collator = bench.CountingCollator(Collator(), keeps_rows=True)
    examples = [{"input_ids": [1, 2, 3]}, {"input_ids": [1, 2]}]
    assert collator(examples) == {"input_ids": 1, "position_ids": 2}
    assert collator.num_tokens == [5]


@pytest.mark.parametrize("steps", ["20", "45", "0", "-30"])
def test_a_run_too_short_to_measure_is_refused(
    bench: ModuleType, steps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--steps", steps])
    assert "wanted a multiple of 10 of at least 25" in capsys.readouterr().err


def test_without_trl_the_way_to_install_it_is_told(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert bench.main([]) == 2
    assert 'pip install -e ".[bench]"' in capsys.readouterr().err
