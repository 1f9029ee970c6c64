"""The adapter is that of the best validation, by the score that was asked for."""

from types import SimpleNamespace
from typing import Any

import pytest

from amazon_desc.run.callbacks import best_adapter
from amazon_desc.run.callbacks.best_adapter import BestAdapter


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Those validations after which an adapter was saved."""
    found: list[dict[str, float]] = []
    monkeypatch.setattr(
        best_adapter, "save_adapter", lambda trainer, _: found.append(trainer.callback_metrics)
    )
    return found


def validate(callback: BestAdapter, *scores: dict[str, float], fn: str = "fit") -> None:
    for of in scores:
        trainer: Any = SimpleNamespace(
            fast_dev_run=False,
            sanity_checking=False,
            state=SimpleNamespace(fn=fn),
            callback_metrics=of,
        )
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("monitor", "values", "kept"),
    [
        ("validation/loss", [3.0, 2.5, 2.5, 2.75, 2.25], [3.0, 2.5, 2.25]),
        ("validation/rougeL", [0.1, 0.3, 0.3, 0.2, 0.4], [0.1, 0.3, 0.4]),
        ("validation/loops", [0.5, 0.0, 0.0], [0.5, 0.0]),
        ("validation/loss", [float("nan"), 3.0, float("inf")], [3.0]),
    ],
)
def test_each_validation_that_is_better_than_all_before_saves_it(
    monitor: str, values: list[float], kept: list[float], saved: list[dict[str, float]]
):
    callback = BestAdapter(monitor)
    validate(callback, *({monitor: value, "validation/other": 9.0} for value in values))
    assert [of[monitor] for of in saved] == kept
    assert callback.state_dict() == {"best": kept[-1]}


def test_a_validation_without_that_score_and_other_commands_save_nothing(
    saved: list[dict[str, float]],
):
    callback = BestAdapter("validation/rougeL")
    validate(callback, {"validation/loss": 1.0})
    validate(callback, {"validation/rougeL": 1.0}, fn="validate")
    assert saved == []


@pytest.mark.parametrize("state", [{"best": 2.5}, {"best_loss": 2.5}])
def test_resumed_it_goes_on_from_the_best_so_far_also_of_older_checkpoints(
    state: dict[str, float], saved: list[dict[str, float]]
):
    callback = BestAdapter("validation/loss")
    callback.load_state_dict(state)
    validate(callback, {"validation/loss": 2.75}, {"validation/loss": 2.0})
    assert [of["validation/loss"] for of in saved] == [2.0]
