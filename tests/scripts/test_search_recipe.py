"""Promises of scripts/search_recipe.py: what is surely better is taken, and proved apart."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from amazon_desc.evaluation.intervals import Comparison, Interval
from tests import worlds
from tests.conftest import load_script


@pytest.fixture(scope="module")
def search() -> ModuleType:
    return load_script("search_recipe")


class Losses:
    """Losses of four titles, as a Scored compares them."""

    def __init__(self, mean: float, spread: float) -> None:
        self.values = mean + spread * np.array([-1.0, 1.0, -1.0, 1.0])

    def intervals(self) -> dict[str, Interval]:
        value = float(self.values.mean())
        return {"loss": Interval(value, value, value)}

    def compared_with(self, before: "Losses") -> dict[str, Comparison]:
        differences = self.values - before.values
        bounds = float(differences.min()), float(differences.max())
        return {"loss": Comparison(float(differences.mean()), *bounds, 0.01)}


def searched(
    search: ModuleType, losses: dict[str, tuple[float, float]], rounds: Any
) -> tuple[str, list[str]]:
    """Returns the best recipe's name and what was trained, where the runs' losses are these."""
    trained: list[str] = []

    class Pretended(search.Search):
        def train(self, runs: Iterable[tuple[Any, int]]) -> None:
            trained.extend(search.name_of(recipe) for recipe, _ in runs)

        def losses(self, recipe: Any, seed: int) -> Losses:
            return Losses(*losses[search.name_of(recipe)])

    best = Pretended(Path("none"), [], [1], 1).best(rounds)
    return search.name_of(best), trained


RATE_ROUND = [(("lr", "1"),), (("lr", "2"),)]


def test_the_lowest_loss_of_a_round_is_taken_and_the_next_begins_there(search: ModuleType):
    losses = {"first": (3.0, 0.0), "lr-1": (2.8, 0.1), "lr-2": (2.9, 0.05), "lr-1_r-64": (2.5, 0.1)}
    rounds = [RATE_ROUND, [(("r", "64"),)]]
    assert searched(search, losses, rounds) == ("lr-1_r-64", ["first", "lr-1", "lr-2", "lr-1_r-64"])


def test_what_may_be_better_by_chance_is_not_taken(search: ModuleType):
    losses = {"first": (3.0, 0.0), "lr-1": (2.8, 0.3), "lr-2": (3.2, 0.1)}
    assert searched(search, losses, [RATE_ROUND])[0] == "first"


def test_changes_that_are_better_alone_are_tried_together(search: ModuleType):
    losses = {"first": (3.0, 0.0), "lr-1": (2.8, 0.1), "lr-2": (2.7, 0.1), "r-64": (2.9, 0.05)}
    last = [*RATE_ROUND, (("r", "64"),)]
    both = {**losses, "lr-2_r-64": (2.6, 0.05)}
    assert searched(search, both, [last])[0] == "lr-2_r-64"
    neither = {**losses, "lr-2_r-64": (2.75, 0.05)}
    assert searched(search, neither, [last])[0] == "lr-2"


def test_a_knob_has_one_value_and_loras_scale_stays(search: ModuleType):
    recipe = search.changed((("r", "16"), ("lr", "1")), (("r", "64"), ("noise", "5")))
    assert search.name_of(recipe) == "lr-1_r-64_noise-5"
    assert search.options_of(recipe) == [
        "--model.optimizer.init_args.lr=1",
        "--model.lora.r=64",
        "--model.lora.alpha=128",
    ]
    assert search.side_of(recipe).work == "noise"
    assert not search.side_of(recipe).is_scored_apart
    assert search.side_of((("loss_on", "all"),)).is_scored_apart


@pytest.mark.slow
@pytest.mark.real
def test_a_better_rate_is_found_and_proved_on_titles_that_chose_nothing(
    search: ModuleType,
    real_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr("subprocess.run", worlds.run_python)
    monkeypatch.setattr(search, "ROUNDS", ([(("lr", "5.0e-3"),)],))
    options = [
        *("--config", "configs/quickstart.yaml", f"--model.backbone={real_dir / 'stories260k'}"),
        *(f"--data.train_file={real_dir / 'trn.json.gz'}", "--data.num_products=200"),
        *("--data.num_scored=10", "--data.validation_fraction=0.1", "--data.test_fraction=0.1"),
        *("--model.decoding.max_new_tokens=8", "--trainer.enable_progress_bar=false"),
        *("--model.optimizer.init_args.lr=1.0e-4", "--trainer.max_epochs=1"),
    ]
    given = ["--seeds", "1", "--folder", str(tmp_path / "runs")]
    given += ["--json", str(tmp_path / "found.json")]
    assert search.main([*given, "--", *options]) == 0
    shown = capsys.readouterr().out
    assert "best: lr-5.0e-3\n  --model.optimizer.init_args.lr=5.0e-3\n" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["base", "first", "best"]
    assert found["best"]["less the first"]["loss"]["high"] < 0.0
    assert found["base"]["scores"]["loss"]["value"] > found["first"]["scores"]["loss"]["value"]
    titles = {
        command: {
            json.loads(line)["title"]
            for line in (tmp_path / "runs" / "first.1" / "scored" / f"{command}.jsonl")
            .read_text()
            .splitlines()
        }
        for command in ("validate", "test")
    }
    assert not titles["validate"] & titles["test"]
