"""The run folder knows its newest checkpoint by step, and whether the run has finished."""

import json
import os
from pathlib import Path

import pytest

from amazon_desc.run.folder import RECORDED_PACKAGES, RunFolder, step_of
from amazon_desc.support.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_asking_creates_nothing(run: RunFolder):
    assert run.checkpoint_files() == []
    assert not run.is_finished()
    assert run.read_record() == {}
    places = {
        place.name
        for place in (run.config, run.checkpoints, run.adapter, run.tensorboard, run.metrics)
    }
    assert places == {"config.yaml", "checkpoints", "adapter", "tensorboard", "metrics.json"}
    assert run.predictions == run.path / "predictions"
    assert run.scored("test") == run.path / "scored" / "test.jsonl"
    assert run.report == run.path / "report.html"
    assert not run.path.exists()


def test_the_newest_checkpoint_has_the_highest_step_whatever_its_time(run: RunFolder):
    run.checkpoints.mkdir(parents=True)
    for step, time in ((900, 3000), (10000, 1000), (2000, 2000)):
        file = run.checkpoints / f"step={step:08d}.ckpt"
        file.touch()
        os.utime(file, (time, time))
    assert run.checkpoint_files()[0] == run.checkpoints / "step=00010000.ckpt"


def test_steps_are_compared_as_numbers(run: RunFolder):
    run.checkpoints.mkdir(parents=True)
    for name in ("step=9.ckpt", "step=10.ckpt", "step=123456789.ckpt"):
        (run.checkpoints / name).touch()
    assert run.checkpoint_files()[0] == run.checkpoints / "step=123456789.ckpt"


def test_leftovers_and_foreign_files_are_no_checkpoints(run: RunFolder):
    run.checkpoints.mkdir(parents=True)
    for name in (
        ".tmp-12-step=00000300.ckpt",
        "step=00000200.ckpt.partial",
        "step=00000400.ckpt.damaged",
        "last.ckpt",
        "step=x.ckpt",
        "epoch=1-step=00000100.ckpt",
    ):
        (run.checkpoints / name).touch()
    assert run.checkpoint_files() == []
    (run.checkpoints / "step=00000001.ckpt").touch()
    assert run.checkpoint_files()[0] == run.checkpoints / "step=00000001.ckpt"


def test_a_run_is_finished_when_its_record_says_so(run: RunFolder):
    run.write_start({"--model.lora.r": 4}, 2)
    assert not run.is_finished()
    run.write_finish(17)
    assert run.is_finished()
    assert run.read_record()["num_steps"] == 17
    assert run.read_record()["finished"].endswith("+00:00")


def test_a_second_start_keeps_the_time_of_the_first(run: RunFolder):
    run.write_start({"--model.lora.r": 4}, 2)
    record = run.read_record()
    run.record.write_text(json.dumps({**record, "started": "then", "versions": {}}))
    run.write_start({"--model.lora.r": 4}, 3)
    assert run.read_record() == {
        "started": "then",
        "settings": {"--model.lora.r": 4},
        "batch_size": 3,
        "versions": record["versions"],
    }
    assert set(record["versions"]) == {"python", *RECORDED_PACKAGES}


def test_a_damaged_record_is_refused_by_its_path(run: RunFolder):
    run.path.mkdir()
    run.record.write_text('{"finished"')
    with pytest.raises(UserError, match=r"run\.json is damaged: wanted JSON"):
        run.is_finished()


def test_the_step_is_read_from_the_name():
    assert step_of(Path("a/step=00002000.ckpt")) == 2000
    assert step_of(Path("a/mine.ckpt")) is None
    assert step_of(None) is None
