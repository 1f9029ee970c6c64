"""Promises of scripts/bench_resume.py: runs that are hit end equal, and what is not equal is said.

Real runs are hit by every fault. What the script says of runs that end otherwise is tried on run
folders that were made by hand, and on a product that forgets something when it goes on.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from tests.conftest import load_script
from tests.shallow_base import shallow_base

ROOT = Path(__file__).resolve().parents[2]

# Less data, and nothing left to import, make the runs short: 7 optimizer steps, 2 epochs.
SMALLER = """
import sys
import rouge_score.rouge_scorer, sacrebleu, torch.utils.tensorboard
import transformers.models.llama.modeling_llama
from tests.conftest import leave_out_drawings, load_script
leave_out_drawings()
bench = load_script("bench_resume")
bench.OPTIONS += ["--data.num_products=20", "--data.num_scored=2"]
bench.OPTIONS += ["--model.decoding.max_new_tokens=2", "--model.backbone={base}"]
bench.OPTIONS += ["--data.row_tokens=128", "--data.max_seq_length=128"]
bench.OPTIONS += ["--data.validation_fraction=0.2", "--checkpoint.every_n_steps=1"]
"""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench_resume")


# Kills every fit as soon as it has saved a checkpoint, and has it draw other masks of dropout then.
FORGETFUL = """
import signal
from amazon_desc.data.loading.position import TrainedRows
seed, load = TrainedRows.dropout_seed.fget, TrainedRows.load_state_dict
def resume(rows, state):
    load(rows, state)
    TrainedRows.num_resumed = 1
TrainedRows.num_resumed, TrainedRows.load_state_dict = 0, resume
TrainedRows.dropout_seed = property(lambda rows: seed(rows) + rows.num_resumed)
def hit(run, fault, folder, chance, seconds, is_several):
    while not bench.checkpoints(folder) and run.wait(0.01) is None:
        pass
    run.send(signal.SIGKILL)
    return bench.Trial([] if run.wait(30) == -9 else ["not killed"], bench.Counter(kills=1))
bench.hit = hit
"""

CALL = 'print("exit code", bench.main({arguments!r}), flush=True)'
FORGOTTEN = ["--fault", "kill", "--trials", "1", "--kills", "1"]


class Runs(NamedTuple):
    """What is said of real runs: as they are, and where they forget something."""

    said: list[str]
    report: dict[str, Any]
    said_of_forgetful: list[str]
    forgetful: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("bench_resume")
    report, forgetful = folder / "report.json", folder / "forgetful"
    first = ["--trials", "1", "--kills", "2", "--json", str(report)]
    second = [*FORGOTTEN, "--place", str(forgetful)]
    smaller = SMALLER.format(base=shallow_base(folder / "base"))
    calls = [CALL.format(arguments=arguments) for arguments in (first, second)]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([smaller, calls[0], FORGETFUL, calls[1]])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    end = next(number for number, line in enumerate(said) if line.startswith("exit code")) + 1
    return Runs(said[:end], json.loads(report.read_text()), said[end:], forgetful)


# Real runs


@pytest.mark.slow
def test_runs_that_are_hit_by_any_fault_end_equal(bench: ModuleType, runs: Runs):
    assert runs.said[-1] == "exit code 0", "\n".join(runs.said)
    assert [line.split(" (")[0] for line in runs.said[1:-1]] == [
        f"{fault}: 1 of 1 equal in every bit" for fault in bench.FAULTS
    ]
    assert list(runs.report) == ["kill", "writing", "signal", "damage"]
    met = Counter[str]()
    for result in runs.report.values():
        assert (result["trials"], result["failed"]) == (1, 0)
        met.update(result["met"])
    assert met["kills"] + met["signals"] + met["finished"] == 4 * (2 + 2)
    assert met["kills"] > 0


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_random_numbers_is_found_out(runs: Runs):
    *failures, result, code = runs.said_of_forgetful[1:]
    assert result == "kill: 0 of 1 equal in every bit (3 kills)"
    assert code == "exit code 1"
    named = {failure.removeprefix("kill: other ") for failure in failures}
    assert {"state_dict", "optimizer_states", "train/loss"} <= named
    assert not named & {"step", "position", "lr_schedulers"}
    assert (runs.forgetful / "kill0/checkpoints").is_dir(), "what failed is kept"


# Run folders made by hand


def checkpoint(scale: float = 1.0) -> dict[str, Any]:
    return {
        "state_dict": {"lora_A": scale * torch.arange(6.0)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}}],
        "lr_schedulers": [{"last_epoch": 4}],
        "random_states": {"python": [3, [1, 2], None], "torch": torch.arange(4).byte()},
        "DescriptionData": {"num_trained_rows": 16, "corpus": "abc"},
        "loops": {"fit_loop": {"progress": {"ready": 8}, "epoch_loop.val_loop": {"ready": 3}}},
        "callbacks": {"BestAdapter": {"best_loss": 2.5}},
    }


def make_run(folder: Path, loss: float = 3.0) -> None:
    """Writes what a finished run folder holds of all that is compared."""
    for name, text in (
        ("adapter/adapter_model.safetensors", "weights"),
        ("metrics.json", '{"loss": 2.5}'),
        ("scored/validate.jsonl", '{"title": "Red Mug"}\n'),
        ("predictions/titles.txt.jsonl", '{"title": "Red Mug"}\n'),
        ("run.json", '{"finished": "today"}'),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "checkpoints").mkdir()
    torch.save({}, folder / "checkpoints/step=00000002.ckpt")
    torch.save(checkpoint(), folder / "checkpoints/step=00000004.ckpt")
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(4):
            writer.add_scalar("train/loss", loss - step, step)
        writer.add_scalar("validation/loss", 2.5, 3)


def save(folder: Path, **changes: Any) -> None:
    torch.save({**checkpoint(), **changes}, folder / "checkpoints/step=00000004.ckpt")


def rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def log_again(folder: Path) -> None:
    with SummaryWriter(str(folder / "tensorboard"), filename_suffix=".2") as writer:
        writer.add_scalar("train/loss", 0.0, 3)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda folder: None, ""),
    "a validation that ran twice": (
        lambda folder: save(
            folder,
            loops={"fit_loop": {"progress": {"ready": 8}, "epoch_loop.val_loop": {"ready": 6}}},
        ),
        "",
    ),
    "a weight": (
        lambda folder: save(folder, state_dict=checkpoint(1 + 2e-7)["state_dict"]),
        "other state_dict",
    ),
    "the optimizer": (
        lambda folder: save(folder, optimizer_states=[{"state": {0: {"step": torch.tensor(5.0)}}}]),
        "other optimizer_states",
    ),
    "the schedule": (
        lambda folder: save(folder, lr_schedulers=[{"last_epoch": 5}]),
        "other lr_schedulers",
    ),
    "random numbers": (
        lambda folder: save(folder, random_states={**checkpoint()["random_states"], "python": []}),
        "other random_states",
    ),
    "the position": (
        lambda folder: save(folder, DescriptionData={"num_trained_rows": 18, "corpus": "abc"}),
        "other position",
    ),
    "the progress": (
        lambda folder: save(folder, loops={"fit_loop": {"progress": {"ready": 9}}}),
        "other progress",
    ),
    "the best loss": (
        lambda folder: save(folder, callbacks={"BestAdapter": {"best_loss": 2.25}}),
        "other best",
    ),
    "the adapter": (
        rewrite("adapter/adapter_model.safetensors", "weightz"),
        "other adapter/adapter_model.safetensors",
    ),
    "a text that was scored": (
        rewrite("scored/validate.jsonl", '{"title": "Red  Mug"}\n'),
        "other scored/validate.jsonl",
    ),
    "a score": (rewrite("metrics.json", '{"loss": 2.50}'), "other metrics.json"),
    "a description": (
        rewrite("predictions/titles.txt.jsonl", '{"title": "Red Mug "}\n'),
        "other predictions/titles.txt.jsonl",
    ),
    "a step that was logged twice": (log_again, "other train/loss"),
    "a file that is left over": (
        rewrite("checkpoints/.tmp-9-step=00000004.ckpt", "half"),
        "left over: checkpoints/.tmp-9-step=00000004.ckpt",
    ),
}


class HandMade:
    """In place of a run: its folder is there at once, and nothing need be trained."""

    spoil: Callable[[Path], object] = staticmethod(lambda folder: None)
    codes: dict[str, int | None]

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.command, folder = arguments[0], log.with_suffix("")
        log.touch()
        if not folder.exists():
            make_run(folder)
            if folder.name != "untouched":
                type(self).spoil(folder)

    def wait(self, seconds: float | None = None) -> int | None:
        return self.codes.get(self.command, 0)


@pytest.fixture
def hand_made(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> type[HandMade]:
    class Made(HandMade):
        codes: dict[str, int | None] = {}  # noqa: RUF012 (one a test)

    monkeypatch.setattr(bench, "Run", Made)
    monkeypatch.setattr(bench, "import_once", lambda: None)
    return Made


@pytest.mark.parametrize(("spoil", "failure"), SPOILT.values(), ids=list(SPOILT))
def test_what_a_run_ends_with_otherwise_is_named(
    spoil: Callable[[Path], object],
    failure: str,
    bench: ModuleType,
    hand_made: type[HandMade],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    hand_made.spoil = staticmethod(spoil)
    given = ["--fault", "kill", "--trials", "1", "--kills", "1", "--place", str(tmp_path)]
    assert bench.main(given) == bool(failure)
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:-1] == ([f"kill: {failure}"] if failure else [])
    equal = 0 if failure else 1
    assert shown[-1] == f"kill: {equal} of 1 equal in every bit (3 finished)"
    assert (tmp_path / "kill0").exists() == bool(failure)


def test_an_exit_code_is_a_failure_and_names_the_log(
    bench: ModuleType, hand_made: type[HandMade], tmp_path: Path
):
    hand_made.codes["predict"] = 1
    trial = bench.trial(0, "kill", SimpleNamespace(kills=1, devices=1), tmp_path, {}, 1.0)
    assert trial.failures == [
        *("exit code 1", "exit code 1"),
        f"predict at last: exit code 1, see {tmp_path / 'kill0'}.log",
    ]
    assert trial.met == Counter(finished=3)


def test_a_failed_trial_is_in_the_report(
    bench: ModuleType, hand_made: type[HandMade], tmp_path: Path
):
    hand_made.spoil = staticmethod(rewrite("metrics.json", "{}"))
    report = tmp_path / "report.json"
    given = ["--fault", "signal", "--fault", "damage", "--trials", "2", "--json", str(report)]
    assert bench.main([*given, "--place", str(tmp_path)]) == 1
    results = json.loads(report.read_text())
    assert {fault: (r["trials"], r["failed"]) for fault, r in results.items()} == {
        "signal": (2, 2),
        "damage": (2, 2),
    }


# A hit


class Hit:
    """A run that goes on until it is sent a signal, and then ends with a code, or does not."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        self.sent: list[int] = []

    def processes(self) -> list[int]:
        return []

    def send(self, number: int) -> None:
        self.sent.append(number)

    def wait(self, seconds: float | None = None) -> int | None:
        return self.code if self.sent else None


@pytest.mark.parametrize(
    ("code", "failures"),
    [
        (143, 0),
        (0, 0),  # it had just finished
        (-15, 0),  # before Python could handle it
        (130, 1),
        (1, 1),
        (None, 1),
    ],
)
def test_a_signal_must_end_a_run_with_its_code(
    code: int | None, failures: int, bench: ModuleType, tmp_path: Path
):
    class OnlySigterm(random.Random):
        def choice(self, seq: Any) -> Any:
            return signal.SIGTERM

    run = Hit(code)
    done = bench.hit(run, "signal", tmp_path, OnlySigterm(1), 0.1)
    assert len(done.failures) == failures
    assert (run.sent[0], done.met["signals"], done.met["kills"]) == (signal.SIGTERM, 1, 0)
    if code is None:
        assert done.failures[0].startswith("still running 60 s after")
        assert run.sent == [signal.SIGTERM, signal.SIGKILL]
    elif failures:
        assert done.failures[0].startswith(f"exit code {code} after")


def test_a_run_that_ends_while_a_write_is_waited_for_has_finished(
    bench: ModuleType, tmp_path: Path
):
    class Third(random.Random):
        def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
            return 2

    run = object.__new__(bench.Run)
    run.process = subprocess.Popen([sys.executable, "-c", ""])
    done = bench.hit(run, "writing", tmp_path, Third(), 2.0)
    assert (done.failures, done.met) == ([], Counter(finished=1))


@pytest.mark.parametrize(("num_checkpoints", "num_damaged"), [(0, 0), (1, 0), (3, 1)])
def test_the_newest_checkpoint_is_damaged_if_another_is_left(
    num_checkpoints: int, num_damaged: int, bench: ModuleType, tmp_path: Path
):
    (tmp_path / "checkpoints").mkdir()
    files = [tmp_path / f"checkpoints/step={n:08d}.ckpt" for n in range(num_checkpoints)]
    for file in files:
        file.write_bytes(b"a checkpoint")
    run = Hit(-9)
    done = bench.hit(run, "damage", tmp_path, random.Random(3), 0.1)
    assert (run.sent, done.failures, done.met["kills"]) == ([signal.SIGKILL], [], 1)
    assert done.met["bit flips"] + done.met["cuts"] == num_damaged
    changed = [file for file in files if file.read_bytes() != b"a checkpoint"]
    assert changed == files[-1:] * num_damaged


# What it is made of


def test_damage_flips_one_bit_or_cuts_the_end(bench: ModuleType, tmp_path: Path):
    whole = bytes(range(10))
    file, chance = tmp_path / "file", random.Random(5)
    flipped, lengths = Counter[int](), Counter[int]()
    for _ in range(250):
        file.write_bytes(whole)
        kind = bench.damage(file, chance)
        data = file.read_bytes()
        if kind == "bit flips":
            (place,) = [place for place in range(10) if data[place] != whole[place]]
            assert (data[place] ^ whole[place]).bit_count() == 1
            flipped[place] += 1
        else:
            assert kind == "cuts"
            assert data == whole[: len(data)] != whole
            lengths[len(data)] += 1
    assert len(flipped) == len(lengths) == 10, "anywhere in the file"


SAME = [
    (torch.arange(6).reshape(2, 3).T, torch.tensor([[0, 3], [1, 4], [2, 5]])),
    ({"a": [1, (2.5, None)]}, {"a": [1, (2.5, None)]}),
    (torch.tensor([float("nan")]), torch.tensor([float("nan")])),
]
DIFFERENT = [
    (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    (torch.tensor(1.0), torch.tensor(1.0 + 2**-23)),
    (torch.tensor(0.0), torch.tensor(-0.0)),
    (torch.zeros(2), torch.zeros(3)),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    ({"a": 1}, {"b": 1}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": torch.ones(1)}, {"a": torch.zeros(1)}),
    ([1, 2], [2, 1]),
    ([1, 23], [12, 3]),
    ([[1], [2, 3]], [[1, 2], [3]]),
    (0.1, 0.1 + 2**-56),
    (1, 1.0),
    (True, 1),
    (None, "None"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_values_are_the_same_bytes(one: Any, other: Any, bench: ModuleType):
    assert bench.bytes_of(one) == bench.bytes_of(other) != b""


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=[f"{a}, {b}" for a, b in DIFFERENT])
def test_other_values_are_other_bytes(one: Any, other: Any, bench: ModuleType):
    assert bench.bytes_of(one) != bench.bytes_of(other)


def test_only_what_is_half_written_is_left_over(bench: ModuleType, tmp_path: Path):
    make_run(tmp_path)
    assert bench.leftovers(tmp_path) == []
    assert not bench.is_written(tmp_path)
    assert bench.is_finished(tmp_path)
    (tmp_path / "checkpoints/.tmp-9-step=00000006.ckpt").touch()
    (tmp_path / ".tmp-9-adapter").mkdir()
    assert sorted(bench.leftovers(tmp_path)) == [
        ".tmp-9-adapter",
        "checkpoints/.tmp-9-step=00000006.ckpt",
    ]
    assert bench.is_written(tmp_path)


@pytest.mark.parametrize("fault", ["kills", "SIGKILL"])
def test_an_unknown_fault_is_refused(
    fault: str, bench: ModuleType, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        bench.main(["--fault", fault])
    assert "invalid choice" in capsys.readouterr().err
