"""Whatever ends a run, the same command goes on, and ends with the same weights to the last bit.

Each test makes something go wrong at a chosen moment of a small run: a signal, a number that is
none, a full disk, a loader process that dies. The run must end with the exit code of that fault,
and, started again, with what a run that nobody touched ends with.
"""

import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

import amazon_desc.model.backbone
import amazon_desc.training.module
from amazon_desc.data.corpus.tables import PackedRows
from amazon_desc.run.failures import as_user_error
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.locks import alone
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.scoring import Scoring
from tests.conftest import commands_in, load_script
from tests.shallow_base import shallow_base

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
bench = load_script("bench_resume")

# 8 optimizer steps of 2 micro-batches of 2 rows, less than that at the end; 2 epochs of 15 rows.
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "22", "--data.row_tokens", "128", "--data.max_seq_length", "128"),
    *("--data.validation_fraction", "0.2", "--data.test_fraction", "0", "--data.num_scored", "4"),
    *("--data.batch_size", "2"),
    *("--data.generation_batch_size", "2"),
    *("--model.decoding.max_new_tokens", "4"),
    *("--model.lora.r", "4"),
    *("--model.lora.dropout", "0.1", "--trainer.max_epochs", "2"),
    *("--data.rows_per_step", "4", "--trainer.val_check_interval", "5"),
    *("--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"),
]

Call = Callable[..., int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "titles.txt").write_text("Red Mug\nTeal Lamp\nOak Desk\nWool Hat\nTin Box\n")
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    base = shallow_base(place / "base")
    return commands_in(place, [*SMALL, "--model.backbone", str(base)])


@pytest.fixture(scope="module")
def untouched(call: Call, place: Path) -> dict[str, str]:
    """What a run ends with that nobody touched."""
    assert call("fit", "untouched") == 0
    assert call("predict", "untouched") == 0
    return bench.outcome(place / "untouched")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "_", request.node.name)


def at_call(
    number: int, happens: Callable[[], Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns a function before whose call of that number, from 1, something happens."""
    num_calls = 0

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == number:
            happens()
        return function(*arguments, **named)

    return wrapped


def finish_and_compare(
    call: Call, place: Path, name: str, untouched: dict[str, str], predicts: bool = False
) -> None:
    """Equal weights write equal texts: what predict writes is compared where it could differ."""
    assert call("fit", name) == 0
    texts = "predictions/titles.txt.jsonl"
    if predicts:
        assert call("predict", name) == 0
    else:
        (place / name / texts).parent.mkdir(exist_ok=True)
        (place / name / texts).touch()
    found = bench.outcome(place / name)
    assert found == (untouched if predicts else {**untouched, texts: found[texts]})
    assert bench.leftovers(place / name) == []


# Signals


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    """The tests may be run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("step", "number", "code", "saved"),
    [
        ("training_step", 1, 143, 1),  # the first micro-batch of the first step
        ("training_step", 6, 130, 3),  # the second of the third
        ("training_step", 9, 129, 5),  # in a step that is validated; the terminal is closed
        ("validation_step", 1, 130, 5),  # in its validation
        ("take_written", 2, 143, 5),  # while it writes the last of its samples
    ],
)
def test_a_signal_in_a_fit_saves_the_step_and_leaves(
    step: str,
    number: int,
    code: int,
    saved: int,
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    happens = send(signal.Signals(code - 128))
    with monkeypatch.context() as patch:
        function = getattr(DescriptionModule, step)
        patch.setattr(DescriptionModule, step, at_call(number, happens, function))
        assert call("fit", name) == code
    newest = RunFolder(place / name).checkpoint_files()[0]
    assert newest.name == f"step={saved:08d}.ckpt"
    finish_and_compare(call, place, name, untouched)


def test_a_signal_at_the_last_step_and_while_scores_are_made(
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    last = int(untouched["step"][5:13])
    num_micro_batches = -(-json.loads(untouched["position"])["num_trained_rows"] // 2)
    for owner, step, number, code in (
        (DescriptionModule, "training_step", num_micro_batches, 143),
        (Scoring, "add_texts", 2, 130),
    ):
        happens = send(signal.SIGTERM if code == 143 else signal.SIGINT)
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, at_call(number, happens, getattr(owner, step)))
            assert call("fit", name) == code
        assert RunFolder(place / name).checkpoint_files()[0].name == f"step={last:08d}.ckpt"
    assert "Traceback" not in capfd.readouterr().err
    finish_and_compare(call, place, name, untouched, predicts=True)


NUMBERS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


# A moment: what is called then, at which call; of number 0, the import of what has it.
MOMENTS = {
    "importing": ("amazon_desc.data.datamodule", "find_backbone", 0, signal.SIGTERM),
    "reading options": ("amazon_desc.run.options.micro_batch", "device_of", 1, signal.SIGHUP),
    "preparing": ("amazon_desc.data.corpus.workers.Worker", "receive", 2, signal.SIGTERM),
    "loading the base": ("amazon_desc.model.backbone", "fingerprint", 2, signal.SIGINT),
}

# Sends the signal then.
HIT = """
import os, sys, builtins, importlib
from amazon_desc.__main__ import main

def hit():
    os.killpg(0, {number})

owner, name, call = "{owner}", "{name}", {call}
if call == 0:
    class Finder:
        def find_spec(self, module, path, target=None):
            if module == owner:
                hit()
    sys.meta_path.insert(0, Finder())
else:
    import amazon_desc.cli
    from amazon_desc.data.corpus import workers
    workers.NUM_ITEMS_HERE = 0  # so few products would need no other process
    module, _, kind = owner.rpartition(".")
    holder = getattr(importlib.import_module(module), kind)
    function, num_calls = getattr(holder, name), 0

    def wrapped(*arguments, **named):
        global num_calls
        num_calls += 1
        if num_calls == call:
            hit()
        return function(*arguments, **named)

    setattr(holder, name, wrapped)
main()
"""

# Runs each of them in a process group of its own, which has imported the CLI unless it is to be hit
# in that; prints how each ended.
ALL_HITS = """
import json, os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup
for program, arguments, said, is_imported in json.loads(sys.argv[1]):
    if is_imported:
        import amazon_desc.cli, peft, transformers
    if (pid := os.fork()) == 0:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["amazon_desc", *arguments]
        exec(program, {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def all_hit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Path]]:
    """By the moment: the exit code of the command that was hit then, and its folder."""
    folders = {moment: tmp_path_factory.mktemp("hit") for moment in MOMENTS}
    hits = []
    for (moment, folder), (owner, name, number, sent) in zip(
        folders.items(), MOMENTS.values(), strict=True
    ):
        program = HIT.format(owner=owner, name=name, call=number, number=int(sent))
        options = [*SMALL, "--data.prepare_workers", "2", "--data.batch_size", "auto"]
        run = ["--trainer.default_root_dir", str(folder / "runs" / "hit")]
        hits.append([program, ["fit", *options, *run], str(folder), moment != "importing"])
    ended = subprocess.run(
        [sys.executable, "-c", ALL_HITS, json.dumps(hits)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
        check=True,
    )
    codes = map(int, ended.stdout.split())
    return dict(zip(MOMENTS, zip(codes, folders.values(), strict=True), strict=True))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_before_training_ends_in_a_sentence_and_leaves_nothing_half_done(
    moment: str, all_hit: dict[str, tuple[int, Path]]
):
    """The whole process group is hit, as by a terminal."""
    number, (code, folder) = MOMENTS[moment][-1], all_hit[moment]
    out, err = ((folder / name).read_text() for name in ("stdout", "stderr"))
    assert code == 128 + number, out + err
    assert "Traceback" not in out + err
    assert "ignored" not in out + err
    assert f"amazon_desc: stopped by {number.name}. The same command" in err
    assert not list(folder.rglob(".tmp-*"))
    assert not list(folder.rglob(".lock-*"))
    assert not (folder / "runs" / "hit").exists()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in left


@pytest.mark.parametrize(("number", "code"), NUMBERS)
def test_a_signal_in_validate_and_predict_leaves_with_its_code(
    number: signal.Signals,
    code: int,
    call: Call,
    place: Path,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    file = place / "untouched/predictions/titles.txt.jsonl"
    whole = file.read_bytes()
    metrics = (place / "untouched/metrics.json").read_bytes()
    file.unlink()
    for command, function in (("validate", "take_written"), ("predict", "take_written")):
        with monkeypatch.context() as patch:
            patch.setattr(DescriptionModule, function, at_call(2, send(number), original(function)))
            assert call(command, "untouched") == code
    assert (place / "untouched/metrics.json").read_bytes() == metrics
    partial = place / "untouched/predictions/titles.txt.jsonl.partial"
    assert whole.startswith(partial.read_bytes())
    assert partial.read_bytes().count(b"\n") == 2
    assert call("predict", "untouched") == 0
    assert file.read_bytes() == whole


def test_a_second_signal_ends_the_process_on_the_spot():
    program = """
import os, signal
from amazon_desc.support.signals import Signals
signals = Signals()
with signals.handled():
    signals.is_training = True
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still there", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stdout) == (143, "goes on\n")
    assert "SIGINT: finishing this optimizer step and saving" in done.stderr


def test_a_time_limited_machine_can_ask_for_checkpoints_by_the_minute(
    call: Call, place: Path, name: str, untouched: dict[str, str]
):
    """A tenth of a millisecond has always gone by: every step is saved."""
    options = ("--checkpoint.every_n_minutes", "0.0000016", "--checkpoint.every_n_steps", "1000")
    assert call("fit", name, *options, "--checkpoint.keep", "100") == 0
    num_steps = int(untouched["step"][5:13])
    assert len(RunFolder(place / name).checkpoint_files()) == num_steps


def test_what_a_killed_run_left_half_written_goes(
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    with monkeypatch.context() as patch:
        stopping = at_call(6, send(signal.SIGTERM), DescriptionModule.training_step)
        patch.setattr(DescriptionModule, "training_step", stopping)
        assert call("fit", name) == 143
    run = RunFolder(place / name)
    files = (run.config, run.record, run.data_report, run.report, run.metrics, run.checkpoint(4))
    for path in files:
        path.with_name(f".tmp-4711-{path.name}").write_text("half")
    (run.path / ".tmp-4711-adapter").mkdir()
    run.predictions.mkdir()
    (run.predictions / ".tmp-4711-titles.txt.jsonl.settings.json").write_text("half")
    finish_and_compare(call, place, name, untouched, predicts=True)


# Numbers gone wrong


def spoil(what: str) -> Callable[[], None]:
    """Has the loss of the present micro-batch, or its gradient, not finite."""

    def now() -> None:
        loss = amazon_desc.training.module.target_loss

        def spoilt(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            loss_sum, num_targets = loss(*arguments)
            if what == "gradient":
                loss_sum.register_hook(lambda gradient: gradient * float("inf"))
                return loss_sum, num_targets
            return loss_sum * float("nan" if what == "nan" else "inf"), num_targets

        spoilt_once = pytest.MonkeyPatch()
        spoilt_once.setattr(amazon_desc.training.module, "target_loss", spoilt)
        SPOILT.append(spoilt_once)

    return now


SPOILT: list[pytest.MonkeyPatch] = []


@pytest.mark.parametrize(
    ("what", "number"), [("nan", 5), ("inf", 6), ("gradient", 5), ("gradient", 6)]
)
def test_what_is_not_finite_stops_before_the_optimizer_step_and_names_its_rows(
    what: str,
    number: int,
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Micro-batches 5 and 6 make the third step; only the bad one is named if it can be told."""
    seen: list[list[int]] = []
    step = DescriptionModule.training_step

    def noting(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.extend(batch.input_ids.tolist())
        result = step(self, batch, batch_idx)
        while SPOILT:
            SPOILT.pop().undo()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(DescriptionModule, "training_step", at_call(number, spoil(what), noting))
        assert call("fit", name) == 5
    err = capfd.readouterr().err
    assert "Traceback" not in err
    word = "gradient" if what == "gradient" else "loss"
    assert f"the {word} of optimizer step 3 is NaN or infinite" in err
    named = [int(row) for row in re.findall(r"row (\d+) \(begins", err)]
    bad = seen[8:12] if what == "gradient" else seen[2 * number - 2 : 2 * number]
    rows = PackedRows(next((place / "corpora").glob("*/rows.arrow")).parent)
    assert len(named) == len(bad)
    for row, ids in zip(named, bad, strict=True):
        stored = rows[row]["input_ids"].tolist()
        assert ids[: len(stored)] == stored
    assert RunFolder(place / name).checkpoint_files()[0].name == "step=00000002.ckpt"
    finish_and_compare(call, place, name, untouched)


# Memory


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_out_of_memory_says_what_to_lower(
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    wanted = {"fit": "Lower --data.batch_size", "predict": "Lower --data.generation_batch_size"}
    for command, function in (("fit", "training_step"), ("predict", "take_written")):
        with monkeypatch.context() as patch:
            broken = at_call(5 if command == "fit" else 2, run_out_of_memory, original(function))
            patch.setattr(DescriptionModule, function, broken)
            assert call(command, name) == 6
        err = capfd.readouterr().err
        assert "Traceback" not in err
        what = "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)"
        assert f"{what}. {wanted[command]}" in err
        assert call(command, name) == 0
    assert bench.outcome(place / name) == untouched


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_that_run_out_of_memory_name_the_options_that_count(command: str):
    error = as_user_error(torch.OutOfMemoryError("of 2 GiB"), [command, "--config", "fit"])
    assert str(error) == (
        "out of memory (of 2 GiB). Lower --data.batch_size, or --data.generation_batch_size if "
        "texts are written."
    )


def original(name: str) -> Callable[..., Any]:
    return getattr(DescriptionModule, name)


# Loader processes


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("os.kill(os.getpid(), 9)", 6, "a process that loads batches died"),
        ("os._exit(3)", 6, "a process that loads batches died"),
        ("time.sleep(1000)", 7, "a process that loads batches hangs"),
    ],
    ids=["killed", "gone", "hung"],
)
def test_a_loader_process_that_dies_or_hangs_ends_the_run_within_seconds(
    end: str,
    code: int,
    words: str,
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    at, before = place / f"{name}.time", children()  # others of this session may have some

    def happens() -> None:
        at.write_text(str(time.time()))
        exec(end, {"os": os, "time": time})

    with monkeypatch.context() as patch:
        get = at_call(9, happens, PackedRows.__getitem__)  # each process counts for itself
        patch.setattr(PackedRows, "__getitem__", get)
        assert call("fit", name, "--data.num_workers", "1") == code
    assert time.time() - float(at.read_text()) < 10
    assert words in capfd.readouterr().err
    assert children() <= before
    finish_and_compare(call, place, name, untouched)


def children() -> set[int]:
    """Returns the processes that this one has started, and that have not ended."""
    return {process.pid for process in psutil.Process().children()}


@pytest.mark.parametrize(
    ("module", "is_told"), [("torch.utils.data.dataloader", True), ("x", False)]
)
def test_a_loader_process_that_dies_while_it_hands_a_batch_over_is_told_too(
    module: str, is_told: bool
):
    names: dict[str, Any] = {"__name__": module}
    exec("def get(): raise ConnectionResetError(104, 'Connection reset by peer')", names)
    with pytest.raises(ConnectionResetError) as found:
        names["get"]()
    error = as_user_error(found.value, ["fit"])
    assert ("a process that loads batches died" in str(error)) is is_told


# The disk


def limit_files(num_bytes: int) -> Callable[[], None]:
    """Has every write beyond that size fail, as on a full disk, until it is called with -1."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def test_a_disk_that_is_full_while_saving_leaves_the_last_checkpoint(
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    try:
        with monkeypatch.context() as patch:
            full = at_call(7, limit_files(150_000), DescriptionModule.training_step)
            patch.setattr(DescriptionModule, "training_step", full)
            assert call("fit", name) == 7
    finally:
        limit_files(resource.RLIM_INFINITY)()
    assert "checkpoints cannot be written: File too large" in capfd.readouterr().err
    names = [file.name for file in (place / name / "checkpoints").iterdir()]
    assert names == ["step=00000002.ckpt"]
    finish_and_compare(call, place, name, untouched)


def test_a_step_that_cannot_be_saved_before_a_signal_is_obeyed_is_told(
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Nobody should take it for saved, as 143 says."""

    def full_and_signalled() -> None:
        limit_files(150_000)()
        send(signal.SIGTERM)()

    try:
        with monkeypatch.context() as patch:
            step = at_call(6, full_and_signalled, DescriptionModule.training_step)
            patch.setattr(DescriptionModule, "training_step", step)
            assert call("fit", name) == 7
    finally:
        limit_files(resource.RLIM_INFINITY)()
    assert "checkpoints cannot be written: File too large" in capfd.readouterr().err
    assert RunFolder(place / name).checkpoint_files()[0].name == "step=00000002.ckpt"
    finish_and_compare(call, place, name, untouched)


def test_training_survives_a_log_that_cannot_be_written(
    call: Call,
    place: Path,
    name: str,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    def full() -> None:
        monkeypatch.setattr(RecordWriter, "write", refuse)
        refuse()

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", at_call(30, full, RecordWriter.write))
        assert call("fit", name) == 0
        monkeypatch.undo()
    err = capfd.readouterr().err
    assert err.count("tensorboard cannot be written (No space left on device)") == 1
    assert "Traceback" not in err
    assert call("predict", name) == 0
    found = bench.files_outcome(place / name)
    assert found == {part: untouched[part] for part in found}


def fill_disk_of(suffix: str) -> Callable[[], None]:
    """Has writes to the open file with that suffix fail as on a full disk."""

    def now() -> None:
        names = {
            int(n): os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
        }
        (number,) = [number for number, name in names.items() if name.endswith(suffix)]
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, number)
        os.close(full)

    return now


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_while_predicting_keeps_what_is_written(
    call: Call,
    place: Path,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    file = place / "untouched/predictions/titles.txt.jsonl"
    whole = file.read_bytes()
    file.unlink()
    with monkeypatch.context() as patch:
        full = at_call(2, fill_disk_of(".partial"), DescriptionModule.take_written)
        patch.setattr(DescriptionModule, "take_written", full)
        assert call("predict", "untouched") == 7
    assert "predictions cannot be written: No space left on device" in capfd.readouterr().err
    assert call("predict", "untouched") == 0
    assert file.read_bytes() == whole


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs /sys, where nobody can write")
@pytest.mark.parametrize("command", ["fit", "validate", "predict"])
def test_a_folder_that_cannot_be_written_is_found_before_a_base_is_loaded(
    command: str,
    call: Call,
    place: Path,
    untouched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    def load_backbone(*_: Any) -> None:
        raise AssertionError("a base is loaded")

    monkeypatch.setattr(amazon_desc.model.backbone, "load_backbone", load_backbone)
    options = ["--trainer.default_root_dir", "/sys/kernel/run", "--data.corpora"]
    options += [str(place / "corpora")]
    if command != "fit":
        options += ["--model.adapter", str(place / "untouched/adapter")]
    assert call(command, "unwritable", *options) == 7
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "/sys/kernel/run" in err
    assert "cannot be written" in err


# Two at once


def test_a_second_fit_in_a_folder_is_refused_and_predict_is_not(
    call: Call, place: Path, untouched: dict[str, str], capfd: pytest.CaptureFixture[str]
):
    run = RunFolder(place / "untouched")
    before = bench.outcome(run.path)
    with alone(run.checkpoints, "trained"):
        assert call("fit", "untouched") == 75
        err = capfd.readouterr().err
        assert f"checkpoints is in use: trained by process {os.getpid()} on " in err
        (run.predictions / "titles.txt.jsonl").unlink()
        assert call("predict", "untouched") == 0
    assert bench.outcome(run.path) == before == untouched


def test_a_second_predict_of_the_same_output_is_refused(
    call: Call, place: Path, untouched: dict[str, str], capfd: pytest.CaptureFixture[str]
):
    with alone(place / "untouched/predictions/titles.txt.jsonl", "written"):
        assert call("predict", "untouched") == 75
        assert "titles.txt.jsonl is in use: written by process" in capfd.readouterr().err
        assert call("validate", "untouched") == 0


def test_a_finished_run_and_a_complete_output_are_left_as_they_are(
    call: Call, place: Path, untouched: dict[str, str]
):
    files = [file for file in (place / "untouched").rglob("*") if file.is_file()]
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    for _ in range(2):
        assert call("fit", "untouched") == 0
        assert call("predict", "untouched") == 0
    files = [file for file in (place / "untouched").rglob("*") if file.is_file()]
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files} == before
