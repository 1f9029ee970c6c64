"""Callbacks of Lightning that watch a score: EarlyStopping and ModelCheckpoint, in whole runs.

A run that is stopped early is a finished run as any other, and, interrupted anywhere, ends with the
same bits: what the callback has counted is in the checkpoint.
"""

import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch

from amazon_desc.cli import DescriptionCLI, build
from amazon_desc.run.checkpoints import read_checkpoint
from amazon_desc.run.folder import RunFolder
from amazon_desc.training.module import DescriptionModule
from tests.conftest import commands_in, load_script, slow_case
from tests.shallow_base import shallow_base

ROOT = Path(__file__).resolve().parents[1]
bench = load_script("bench_resume")

# 20 optimizer steps of 2 micro-batches of 2 rows; a validation every 2, a checkpoint every 3.
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "40", "--data.row_tokens", "256", "--data.num_scored", "2"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0", "--data.batch_size", "2"),
    *("--data.rows_per_step", "4", "--model.decoding.max_new_tokens", "2", "--model.lora.r", "4"),
    *("--model.lora.dropout", "0.1", "--trainer.max_epochs", "9", "--trainer.max_steps", "20"),
    *("--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"),
    *("--checkpoint.every_n_steps", "3"),
]
# No loss is better than the first by so much: the second validation in a row without one ends it.
STOPPING = [
    *("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "validation/loss"),
    *("--trainer.callbacks.min_delta", "100", "--trainer.callbacks.patience", "2"),
]
LAST = 2 + 2 * 2

Call = Callable[..., int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped_early")
    (folder / "titles.txt").write_text("Red Mug\nTeal Lamp\n")
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    base = shallow_base(place / "base")
    return commands_in(place, [*SMALL, "--model.backbone", str(base)])


@pytest.fixture(scope="module")
def stopped(call: Call, place: Path) -> RunFolder:
    """A run that EarlyStopping ended, and nobody interrupted."""
    assert call("fit", "stopped", *STOPPING) == 0
    assert call("predict", "stopped") == 0
    return RunFolder(place / "stopped")


def early_stopping_in(run: RunFolder) -> dict[str, Any]:
    callbacks = read_checkpoint(run.checkpoint_files()[0])["callbacks"]
    (name,) = [name for name in callbacks if name.startswith("EarlyStopping")]
    return callbacks[name]


def test_a_run_that_is_stopped_early_is_finished_as_any_other(stopped: RunFolder):
    record = stopped.read_record()
    assert (stopped.is_finished(), record["num_steps"]) == (True, LAST)
    scores = json.loads(stopped.metrics.read_text())["validate"]
    assert {"base", "tuned", "intervals", "compared", "decoding"} <= set(scores)
    assert (stopped.adapter / "adapter_model.safetensors").is_file()
    assert len((stopped.predictions / "titles.txt.jsonl").read_text().splitlines()) == 2
    assert stopped.checkpoint_files()[0].name == f"step={LAST:08d}.ckpt"


def test_what_it_has_counted_is_in_the_checkpoint(stopped: RunFolder):
    """Saved before the validation that ended the run: the first, and one that was no better."""
    state = early_stopping_in(stopped)
    assert state["wait_count"] == 1
    assert 0 < float(state["best_score"]) < 20


def test_run_again_it_says_that_it_is_finished_and_does_not_train_on(
    stopped: RunFolder, call: Call, capsys: pytest.CaptureFixture[str]
):
    before = {f: f.stat().st_mtime_ns for f in stopped.path.rglob("*") if f.is_file()}
    assert call("fit", "stopped", *STOPPING) == 0
    assert "This run is finished" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in stopped.path.rglob("*") if f.is_file()} == before


def send_at(patch: pytest.MonkeyPatch, owner: type, name: str, number: int) -> None:
    """Has SIGTERM come before the call of that number, from 1, of a method."""
    num_calls, method = 0, getattr(owner, name)

    def sent(*arguments: Any, **named: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return method(*arguments, **named)

    patch.setattr(owner, name, sent)


@pytest.mark.parametrize(
    ("owner", "method", "number"),
    [
        (DescriptionModule, "training_step", 9),  # after 2 validations
        slow_case(DescriptionModule, "training_step", 1),  # its best score is infinite
        slow_case(DescriptionModule, "training_step", 2 * LAST),  # right before it would stop
        slow_case(DescriptionModule, "on_validation_epoch_end", 3),  # in the validation that stops
        (DescriptionCLI, "finish", 1),  # stopped, but not yet scored
    ],
)
def test_interrupted_anywhere_it_ends_with_the_bits_of_a_run_left_alone(
    owner: type,
    method: str,
    number: int,
    call: Call,
    place: Path,
    stopped: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    name = f"{method}_{number}"
    with monkeypatch.context() as patch:
        send_at(patch, owner, method, number)
        assert call("fit", name, *STOPPING) == 143
    assert not RunFolder(place / name).is_finished()
    capsys.readouterr()
    assert call("fit", name, *STOPPING) == 0
    said = capsys.readouterr().out
    assert f"Stopped early, after step {LAST}: Monitored metric validation/loss did not" in said
    assert "Signaling Trainer" not in said
    assert call("predict", name) == 0
    assert bench.outcome(place / name) == bench.outcome(stopped.path)
    again, once = (early_stopping_in(RunFolder(place / run)) for run in (name, "stopped"))
    assert torch.equal(again.pop("best_score"), once.pop("best_score"))
    assert again == once


@pytest.mark.slow
def test_it_is_not_stopped_before_min_steps_and_resumes_in_between(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch
):
    """To Lightning alone min_steps would mean a whole epoch too, which here is the whole run."""
    options = (*STOPPING, "--trainer.min_steps", "9", "--checkpoint.keep", "9")
    with monkeypatch.context() as patch:
        send_at(patch, DescriptionModule, "training_step", 2 * 7)
        assert call("fit", "resumed_later", *options) == 143
    outcomes = []
    for name in ("later", "resumed_later"):
        assert call("fit", name, *options) == 0
        assert call("predict", name) == 0
        run = RunFolder(place / name)
        assert run.read_record()["num_steps"] == 9
        outcomes.append(bench.outcome(run.path))
    assert outcomes[0] == outcomes[1]
    steps = [int(file.name[5:13]) for file in RunFolder(place / "later").checkpoint_files()]
    assert steps == [9, 8, 6, 4, 3, 2]


@pytest.mark.slow
def test_checkpoints_of_the_best_scores_are_kept_beside_ours(call: Call, place: Path):
    options = ("--trainer.callbacks", "ModelCheckpoint", "--trainer.max_steps", "6")
    watched = ("--trainer.callbacks.monitor", "validation/loss")
    kept = ("--trainer.callbacks.dirpath", str(place / "best"))
    assert call("fit", "watched", *options, *watched, *kept) == 0
    (best,) = (place / "best").glob("*.ckpt")
    assert read_checkpoint(best)["global_step"] in (2, 4, 6)
    assert RunFolder(place / "watched").checkpoint_files()[0].name == "step=00000006.ckpt"


def test_both_forms_that_the_page_shows_are_taken_and_mean_the_same(tmp_path: Path):
    page = (ROOT / "amazon_desc/run/README.md").read_text("utf-8").split("## Early stopping")[1]
    (command,) = re.findall(r"```\npython -m amazon_desc fit (.*?)```", page, re.DOTALL)
    config = tmp_path / "early.yaml"
    config.write_text(page.split("```yaml\n")[1].split("```")[0])
    options = shlex.split(command.replace("\\\n", " "))
    in_yaml = [*options[: options.index("--trainer.callbacks")], "--config", str(config)]
    with chdir(ROOT), pytest.MonkeyPatch.context() as patch:
        patch.setattr(DescriptionCLI, "instantiate_classes", lambda self: None)
        (asked,), (written,) = (
            build(words, run=False).config.trainer.callbacks for words in (options, in_yaml)
        )
    assert asked == written
    assert asked.class_path == "lightning.pytorch.callbacks.EarlyStopping"
    assert (asked.init_args.monitor, asked.init_args.patience) == ("validation/loss", 3)


def test_epochs_to_go_on_for_are_refused_as_steps(
    call: Call, place: Path, capsys: pytest.CaptureFixture[str]
):
    assert call("fit", "epochs", *STOPPING, "--trainer.min_epochs", "2") == 2
    said = capsys.readouterr().err
    assert "--trainer.min_epochs 2: " in said
    assert "set --trainer.min_steps" in said
    assert not (place / "epochs").exists()
