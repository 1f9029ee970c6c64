"""Promises of scripts/bench_quality.py: sides train, are scored alike, and are compared."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import worlds
from tests.conftest import load_script


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench_quality")


def options_of(base: str, train_file: str) -> list[str]:
    return [
        *("--config", "configs/quickstart.yaml", f"--model.backbone={base}"),
        *(f"--data.train_file={train_file}", "--data.num_products=200", "--data.num_scored=10"),
        *("--data.validation_fraction=0.1", "--data.test_fraction=0", "--data.batch_size=auto"),
        *("--model.decoding.max_new_tokens=8", "--trainer.enable_progress_bar=false"),
    ]


@pytest.mark.slow
@pytest.mark.real
def test_a_real_model_learns_packed_and_padded_and_both_are_compared(
    bench: ModuleType,
    real_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """And so it does with TRL, where that is installed."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(bench.subprocess, "run", worlds.run_python)
    peers = ["trl"] if importlib.util.find_spec("trl") else []
    given = ["--sides", "ours", "unpacked", *peers, "--seeds", "1"]
    given += ["--folder", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json")]
    options = options_of(str(real_dir / "stories260k"), str(real_dir / "trn.json.gz"))
    assert bench.main([*given, "--", *options]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["base", "ours", "unpacked", *peers]
    base, *trained = (found[side]["scores"]["loss"] for side in found)
    for of in trained:
        assert of["low"] < of["value"] < of["high"] < base["low"]
    assert found["ours"]["less the first"]["loss"]["difference"] == 0.0
    assert abs(found["unpacked"]["less the first"]["loss"]["difference"]) < 0.2
    shown = capsys.readouterr().out
    assert "unpacked: one example a row, padded" in shown
    rows = {}
    for side in ("ours", "unpacked"):
        record = json.loads((tmp_path / "runs" / f"{side}-1" / "run.json").read_text())
        rows[side] = record["settings"]["--data.row_tokens"]
    assert rows == {"ours": 512, "unpacked": 256}
    assert bench.main([*given, "--", *options]) == 0, "what is there is not done again"
    assert "ours-1: " not in capsys.readouterr().out


def test_an_interval_stands_in_brackets(bench: ModuleType):
    assert (
        bench.cell({"value": 3.01, "low": 2.9, "high": 3.1}, "value", 3) == "3.010 [2.900, 3.100]"
    )
    assert bench.cell(None, "value", 3) == "-"
