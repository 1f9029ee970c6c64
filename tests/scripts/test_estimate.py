"""scripts/estimate.py comes near what was measured, and needs neither a GPU nor weights."""

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch

from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.plan import Task
from amazon_desc.model.writing_plan import Texts
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import SCRIPTS, Ended, load_script
from tests.conftest import gemma_config as gemma
from tests.conftest import tinyllama_config as tinyllama

speeds = load_script("card_speeds")
script = load_script("estimate")


def task(config: Any, **changes: Any) -> Task:
    given = Task(config, LoraSettings(), "nf4", torch.bfloat16, row_tokens=2048, obstacle=None)
    return given._replace(**changes)


# As real rows are.
WORK = speeds.Work(num_tokens=2048, target_share=0.63, mean_context=95.0)


def run_of(config: Any, **changes: Any) -> Any:
    rows = script.Rows(1000, 0.99, 0.63, 95.0, 500, 85_000, "a test")
    texts = Texts(500, 256 + 128)
    run = script.Run(task(config), 1, 1, 2, None, 500, 128, texts, 3, rows)
    return run._replace(**changes)


# Speed


@pytest.mark.parametrize(
    ("config", "num_tokens", "is_dense", "recompute", "dropout", "milliseconds"),
    [
        (tinyllama, 2048, True, "none", 0.0, 19.9),
        (tinyllama, 2048, False, "none", 0.0, 23.1),
        (tinyllama, 2048, False, "parts", 0.0, 24.3),
        (tinyllama, 2048, False, "mlp", 0.0, 28.7),
        (tinyllama, 2048, False, "layers", 0.0, 31.8),
        (tinyllama, 2048, True, "none", 0.05, 21.0),
        (tinyllama, 2048, False, "mlp", 0.05, 30.2),
        (tinyllama, 16_384, True, "none", 0.0, 146.9),
        (tinyllama, 16_384, True, "none", 0.05, 154.2),
        (gemma, 2048, True, "none", 0.0, 66.7),
        (gemma, 2048, False, "parts", 0.0, 75.8),
        (gemma, 2048, False, "mlp", 0.0, 89.6),
        (gemma, 2048, False, "layers", 0.0, 98.5),
    ],
)
def test_the_fused_path_is_as_fast_as_was_measured_on_an_h100(
    config: Any,
    num_tokens: int,
    is_dense: bool,
    recompute: Any,
    dropout: float,
    milliseconds: float,
) -> None:
    """Bare steps, of examples with a prompt of 30 tokens."""
    work = speeds.Work(num_tokens, target_share=0.75, mean_context=64.0)
    given = task(config(), lora=LoraSettings(dropout=dropout))
    seconds = speeds.fused_seconds(given, work, speeds.CARDS["h100"], is_dense, recompute)
    assert seconds * 1e3 == pytest.approx(milliseconds, rel=0.05)


def test_the_plain_path_is_as_fast_as_was_measured_on_an_h100() -> None:
    seconds = speeds.plain_seconds(task(tinyllama()), WORK, speeds.CARDS["h100"], "none")
    assert 2048 / seconds == pytest.approx(6_400, rel=0.01)


@pytest.mark.parametrize(
    ("config", "is_fused", "milliseconds"),
    [
        (tinyllama, True, 18.5),
        (tinyllama, False, 65.9),
        (gemma, True, 33.9),
        (gemma, False, 110.5),
    ],
)
def test_scores_are_as_fast_as_was_measured_on_an_h100(
    config: Any, is_fused: bool, milliseconds: float
) -> None:
    """A forward pass of a row on either path."""
    work = speeds.Work(2048, target_share=0.75, mean_context=64.0)
    seconds = speeds.scored_seconds(task(config()), work, speeds.CARDS["h100"], is_fused)
    assert seconds * 1e3 == pytest.approx(milliseconds, rel=0.1)


def test_weights_that_are_made_dense_take_time() -> None:
    dense, lean = (
        speeds.fused_seconds(task(tinyllama()), WORK, speeds.CARDS["h100"], is_dense, "none")
        for is_dense in (True, False)
    )
    read_and_written = 2 * 968_884_224 * (0.5 + 1 / 64 + 1 / 4096 + 2)
    assert lean - dense == pytest.approx(2 * read_and_written / 3.35e12)


def test_what_was_not_measured_is_said_to_be_extrapolated() -> None:
    sources = {name: card.source for name, card in speeds.CARDS.items()}
    assert set(sources) == {"h100", "h200", "a100", "l4", "t4"}
    assert sources["h100"] == sources["h200"] == "products measured"
    for name in ("a100", "l4", "t4"):
        assert "not measured" in sources[name]
    assert [name for name, card in speeds.CARDS.items() if card.is_old] == ["t4"]


# Runs


def test_a_run_takes_its_steps_and_its_scores() -> None:
    found = script.on_both_paths(run_of(tinyllama()), speeds.CARDS["h100"])["fused"]
    assert (found.way, found.batch_size, found.fits) == ("dense, kept", 1, True)
    assert found.num_steps == 2000
    assert found.training_seconds == pytest.approx(2000 * found.step_seconds)
    assert found.tokens_per_second == pytest.approx(0.99 * 2048 / found.step_seconds)
    # 4 validations of 42 rows and some texts; scores of base and tuned weights: 500 texts, all at
    # a time by the fused engine, 256 at a time by the plain one.
    losses, texts = 42 * 22 * 0.0031, 128 * 22 * 0.0002
    expected = 4 * (42 * 22 * 0.0009 + texts) + 2 * (losses + texts)
    assert found.scoring_seconds == pytest.approx(expected)
    plain = script.on_both_paths(run_of(tinyllama()), speeds.CARDS["h100"])["plain"]
    texts = 128 * 22 * 0.0008
    expected = 4 * (losses + texts) + 2 * (losses + 2 * texts)
    assert plain.scoring_seconds == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "num_steps"),
    [
        ({}, 2000),
        ({"rows_per_step": 8}, 250),
        ({"rows_per_step": 3}, 667),
        ({"max_rows": 100}, 100),
        ({"max_rows": 5000}, 2000),
    ],
)
def test_steps_follow_from_rows_and_epochs(changes: dict[str, Any], num_steps: int) -> None:
    assert script.steps_of(run_of(tinyllama(), **changes)) == num_steps


def test_without_rows_there_is_no_time_but_a_speed() -> None:
    run = run_of(tinyllama())
    run = run._replace(rows=run.rows._replace(num_rows=None))
    found = script.on_both_paths(run, speeds.CARDS["h100"])["fused"]
    assert (found.num_steps, found.training_seconds, found.scoring_seconds) == (None, None, None)
    assert found.tokens_per_second > 80_000


def test_open_rows_are_as_many_as_fit_into_the_card() -> None:
    open_ = run_of(tinyllama(), batch_size=None, rows_per_step=64)
    found = {
        card: script.on_both_paths(open_, speeds.CARDS[card])["fused"] for card in ("l4", "h200")
    }
    assert [of.batch_size for of in found.values()] == [4, 32]
    assert all(of.fits for of in found.values())
    assert found["l4"].way == "4-bit, parts"


def test_what_does_not_fit_is_said() -> None:
    large = run_of(gemma(), task=task(gemma(), dtype=torch.float16, row_tokens=8192))
    found = script.on_both_paths(large, speeds.CARDS["t4"])["plain"]
    assert (found.way, found.fits) == ("plain layers", False)
    path, reason = script.taken(large, speeds.CARDS["t4"])
    assert (path, reason[:25]) == ("plain", "T4 16 GB is too old for t")
    assert reason.endswith("GiB free: if memory runs out, lower --data.row_tokens")


@pytest.mark.parametrize(
    ("config", "way", "most", "least"),
    [(tinyllama, "plain", 12.6, 6.0), (gemma, "plain layers", 13.0, 13.0)],
)
def test_both_bases_are_trained_and_written_with_on_a_t4(
    config: Any, way: str, most: float, least: float
) -> None:
    """In GiB, of what torch holds: as it is planned, and if all is recomputed that can be."""
    run = run_of(config(), task=task(config(), dtype=torch.float16), batch_size=None)
    found = script.on_both_paths(run, speeds.CARDS["t4"])["plain"]
    assert (found.way, found.batch_size, found.fits) == (way, 1, True)
    assert found.memory.total / script.GIB < most
    assert found.least_bytes / script.GIB < least
    assert found.texts_bytes / script.GIB < 12.7
    assert found.texts_at_a_time >= 32
    assert script.taken(run, speeds.CARDS["t4"]) == ("plain", "T4 16 GB is too old for them")


def test_layers_are_recomputed_where_a_step_would_not_fit_otherwise_which_takes_time() -> None:
    def found(recompute: Any) -> Any:
        given = task(tinyllama(), row_tokens=4096, recompute=recompute)
        return script.on_both_paths(run_of(tinyllama(), task=given), speeds.CARDS["t4"])["plain"]

    assert (found("auto").way, found("auto").fits) == ("plain layers", True)
    assert not found("none").fits
    assert found("auto").step_seconds == found("layers").step_seconds > found("none").step_seconds


@pytest.mark.parametrize(
    ("card", "path"), [("t4", "fit takes the plain path: T4"), ("l4", "fit takes the fused path")]
)
def test_a_base_that_overflows_float16_is_estimated_in_what_a_card_has(
    card: str, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its configuration alone; its own name on the command line, no precision."""
    gemma().save_pretrained(tmp_path)
    options = ["--config", "configs/qlora.yaml", "--model.backbone", str(tmp_path)]
    with chdir(SCRIPTS.parent):
        shown = told(capsys, *options, "--rows", "10", "--card", card)
    assert path in shown
    lines = {line[:28].strip(): line.split()[-2:] for line in shown.splitlines()}
    assert lines["fits, with a margin"] == ["yes", "yes"]
    # LoRA is multiplied as it is where products alone are in float16
    assert lines["lora copies"] == ["0.08", "0.00" if card == "t4" else "0.06"]


@pytest.mark.parametrize(
    ("changes", "card", "path", "reason"),
    [
        ({}, "h100", "fused", "known to be right here"),
        ({}, "t4", "plain", "T4 16 GB is too old for them"),
        ({"kernels": "plain"}, "h100", "plain", "as asked for"),
        ({"obstacle": "they have no DoRA"}, "h100", "plain", "they have no DoRA"),
    ],
)
def test_the_path_that_fit_takes_is_named(
    changes: dict[str, Any], card: str, path: str, reason: str
) -> None:
    run = run_of(tinyllama(), task=task(tinyllama(), **changes))
    assert script.taken(run, speeds.CARDS[card]) == (path, reason)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "1 min"), (5400, "1 h 30 min"), (0, "0 min"), (None, "?")]
)
def test_durations_are_said_in_hours_and_minutes(seconds: float | None, text: str) -> None:
    assert script.duration(seconds) == text


# The command


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    script.main(list(arguments))
    return capsys.readouterr().out


def test_prepared_data_says_how_many_steps_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--config", "configs/quickstart.yaml", "--data.num_products", "200"]
    before = told(capsys, *options)
    assert "prepare the data (scripts/prepare.py), or give --rows" in before
    assert list(tmp_path.iterdir()) == []
    load_script("prepare").main(options)
    capsys.readouterr()
    (manifest,) = (tmp_path / "runs" / "corpora").glob("*/manifest.json")
    num_rows = json.loads(manifest.read_text())["counts"]["num_rows"]
    shown = told(capsys, *options, "--card", "l4", "--json", "found.json")
    lines = [line.split() for line in shown.splitlines()]
    assert ["fused", "plain"] in lines
    steps = str(-(-num_rows // 4))
    assert ["optimizer", "steps", steps, steps] in lines
    assert "Preparing" not in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["card"]["name"], found["path"]) == ("L4 24 GB", "fused")
    assert found["paths"]["fused"]["num_steps"] == int(steps) > 1
    parts = found["paths"]["plain"]["memory"]
    assert parts["lora"] * 2 == parts["optimizer"] > 0
    assert found["paths"]["plain"]["total_bytes"] > sum(parts.values()) / 2


def test_a_configuration_suffices_of_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    shutil.copy(TINY_BASE / "config.json", tmp_path / "base")
    options = ["--config", "configs/qlora.yaml", "--model.backbone", "base", "--rows", "1000"]
    shown = told(capsys, *options, "--trainer.max_epochs", "3")
    assert ["optimizer", "steps", "3,000", "3,000"] in [s.split() for s in shown.splitlines()]


def test_a_wrong_option_is_told_without_a_traceback(
    run_program: Callable[..., Ended], tmp_path: Path
) -> None:
    options = ["--config", "configs/quickstart.yaml", "--data.rows", "3"]
    done = run_program(str(SCRIPTS / "estimate.py"), *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "data.rows" in done.stderr
    assert "Traceback" not in done.stderr
