"""What is done for a part is never named as all: limits, trials, and time that is over."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amazon_desc.run.folder import RunFolder
from tests.conftest import commands_in, load_script
from tests.shallow_base import shallow_base

pytestmark = pytest.mark.slow

bench = load_script("bench_resume")

SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.row_tokens", "256", "--data.num_scored", "6"),
    *("--data.validation_fraction", "0.2", "--data.test_fraction", "0.2"),
    *("--model.decoding.max_new_tokens", "4", "--model.lora.r", "4"),
    *("--data.generation_batch_size", "2"),
    *("--data.rows_per_step", "2", "--data.batch_size", "1", "--trainer.log_every_n_steps", "1"),
    *("--trainer.val_check_interval", "3"),
]
# Over after the first step.
NO_TIME = ("--trainer.max_time", '{"microseconds": 1}')

Call = Callable[..., int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "titles.txt").write_text("Red Mug\nTeal Lamp\nOak Desk\nWool Hat\nTin Box\n")
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    base = shallow_base(place / "base")
    return commands_in(place, [*SMALL, "--model.backbone", str(base)])


@pytest.fixture(scope="module")
def run(call: Call, place: Path) -> RunFolder:
    assert call("fit", "run", "--trainer.max_steps", "3") == 0
    assert call("test", "run") == 0
    return RunFolder(place / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_trial_of_a_fit_leaves_no_folder(call: Call, place: Path, capfd):
    assert call("fit", "tried/trial", "--trainer.fast_dev_run", "2") == 0
    assert not (place / "tried" / "trial").exists()
    out = capfd.readouterr().out
    assert "Tried with 1 optimizer steps: nothing is kept." in out
    assert "Everything is in" not in out


def test_a_trial_in_a_run_that_is_begun_or_finished_leaves_it_as_it_is(
    call: Call, run: RunFolder, capfd
):
    before = contents(run.path)
    for command in ("fit", "validate", "test", "predict"):
        assert call(command, "run", "--trainer.fast_dev_run", "true") == 0
    assert contents(run.path) == before
    assert "is finished" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("command", "option"),
    [("validate", "--trainer.limit_val_batches"), ("test", "--trainer.limit_test_batches")],
)
def test_scores_of_a_part_do_not_replace_those_of_all(
    command: str, option: str, call: Call, run: RunFolder, capfd: pytest.CaptureFixture[str]
):
    before = run.metrics.read_bytes()
    assert json.loads(before)[command]["tuned"]["loss"] > 0
    assert call(command, "run", option, "1") == 0
    assert run.metrics.read_bytes() == before
    out = capfd.readouterr().out
    assert "2 products of the" in out
    assert "scores of a part, by a --trainer option: not kept in" in out
    assert call(command, "run", option, "100") == 0
    assert json.loads(run.metrics.read_bytes()) == json.loads(before)
    assert "Scores are in" in capfd.readouterr().out


@pytest.mark.parametrize("limit", ["0", "1"])
def test_a_fit_names_no_scores_that_it_does_not_keep(
    limit: str, call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    name = f"limit_{limit}"
    options = ("--trainer.max_steps", "1", "--trainer.limit_val_batches", limit)
    assert call("fit", name, *options) == 0
    out = capfd.readouterr().out
    named = out[out.index("Everything is in") :]
    assert "adapter/" in named
    assert "metrics.json" not in named
    assert not (place / name / "metrics.json").exists()


def test_a_limit_that_lets_nothing_through_is_refused_before_anything_is_written(
    call: Call, place: Path
):
    assert call("fit", "too/few", "--trainer.limit_val_batches", "0.01") == 2
    assert not (place / "too" / "few").exists()


def test_predictions_for_a_part_of_the_titles_are_completed_by_the_next_command(
    call: Call, run: RunFolder, capfd: pytest.CaptureFixture[str]
):
    assert call("predict", "run", "--trainer.limit_predict_batches", "1") == 0
    assert not (run.predictions / "titles.txt.jsonl").exists()
    assert "2 of 5 records are in" in capfd.readouterr().out
    assert call("predict", "run") == 0
    whole = (run.predictions / "titles.txt.jsonl").read_bytes()
    assert whole.count(b"\n") == 5
    for file in run.predictions.iterdir():
        file.unlink()
    assert call("predict", "run") == 0
    assert (run.predictions / "titles.txt.jsonl").read_bytes() == whole


def test_a_fit_whose_time_is_over_is_stopped_and_resumes_to_the_same_bits(
    call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    code, starts = 124, 0
    while code == 124:
        code = call("fit", "timed", "--trainer.max_steps", "4", *NO_TIME)
        starts += 1
        out, err = capfd.readouterr()
        assert ("Everything is in" in out) == (code == 0)
        assert ("stopped by --trainer.max_time. The same command" in err) == (code == 124)
        assert RunFolder(place / "timed").is_finished() == (code == 0)
    assert code == 0
    assert starts == 4, "the last step ends the run"
    assert call("fit", "untimed", "--trainer.max_steps", "4") == 0
    for name in ("timed", "untimed"):
        assert call("predict", name) == 0
    assert bench.outcome(place / "timed") == bench.outcome(place / "untimed")


def test_a_check_of_the_validation_first_changes_nothing(call: Call, place: Path):
    options = ("--trainer.max_steps", "3")
    assert call("fit", "checked", *options, "--trainer.num_sanity_val_steps", "2") == 0
    assert call("fit", "unchecked", *options) == 0
    for name in ("checked", "unchecked"):
        assert call("predict", name) == 0
    assert bench.outcome(place / "checked") == bench.outcome(place / "unchecked")
