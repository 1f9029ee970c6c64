"""Whatever ends one of several processes ends all, and the same command ends with the same bits.

One run folder is hit by one fault after another, each before a chosen micro-batch of one process;
what it ends with is compared to a run that nobody touched. Others go on with another number of
processes. Each fit is two processes and the one that starts them, all real, over gloo.
"""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from amazon_desc.run.checkpoints import read_checkpoint
from tests.conftest import load_script
from tests.several import happening, run_all
from tests.shallow_base import shallow_base

pytestmark = pytest.mark.slow

bench = load_script("bench_resume")

# Optimizer steps of 6 rows, which 1, 2 and 3 processes can share; a checkpoint every 2 steps.
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "34", "--data.row_tokens", "128", "--data.max_seq_length", "128"),
    *("--data.validation_fraction", "0.2", "--data.test_fraction", "0", "--data.num_scored", "4"),
    *("--data.num_sampled", "0", "--data.batch_size", "1", "--data.rows_per_step", "6"),
    *("--model.decoding.max_new_tokens", "2", "--model.lora.r", "4"),
    *("--model.lora.dropout", "0.1", "--trainer.max_epochs", "2"),
    *("--trainer.val_check_interval", "5", "--trainer.log_every_n_steps", "1"),
    *("--checkpoint.every_n_steps", "2", "--trainer.accelerator", "cpu"),
]

CHILDREN = "subprocess.check_output(['ps', '--ppid', str(os.getppid()), '-o', 'pid='])"
# The next micro-batch of that process has a loss that is NaN, and those after it have not.
SPOILT = (
    "loss = training.target_loss; back = lambda: setattr(training, 'target_loss', loss); "
    "nan = lambda sums, num: (back(), sums * float('nan'), num)[1:]; "
    "training.target_loss = lambda *of: nan(*loss(*of))"
)

# What happens before which micro-batch of which process, and the exit code that it must have.
FAULTS = {
    "the first process is killed": ("os.kill(os.getpid(), 9)", 2, 0, 137),
    "another process is killed": ("os.kill(os.getpid(), 9)", 8, 1, 137),
    "the launcher is killed": ("os.kill(os.getppid(), 9)", 2, 1, -9),
    "one has no memory": ("raise torch.OutOfMemoryError('Tried to allocate 2.00 GiB.')", 2, 1, 6),
    "the disk is full": ("resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, -1))", 5, 0, 7),
    "one is asked to leave": ("os.kill(os.getpid(), signal.SIGTERM)", 2, 1, 143),
    "all are asked to leave": (
        f"[os.kill(int(pid), signal.SIGTERM) for pid in [os.getppid(), *{CHILDREN}.split()]]",
        *(2, 1, 143),
    ),
    "the launcher is asked to leave": ("os.kill(os.getppid(), signal.SIGTERM)", 2, 1, 143),
    "the launcher is interrupted": ("os.kill(os.getppid(), signal.SIGINT)", 2, 0, 130),
}


# Has the others wait for the first one longer than they would wait for anything else.
SLOW_PREPARATION = """
import os, time
from datetime import timedelta
import amazon_desc.data.datamodule as data, amazon_desc.run.options.devices as devices
joined, prepare = devices.Joined, data.open_or_prepare
devices.Joined = lambda **named: joined(timeout=timedelta(seconds=6), **named)

def slow(*arguments, **named):
    if os.environ.get("RANK") == "0":
        time.sleep(9)
    return prepare(*arguments, **named)

data.open_or_prepare = slow
"""


class Runs(NamedTuple):
    """What became of each run, by its name, and where their folders are."""

    place: Path
    found: dict[str, dict[str, Any]]

    def said(self, name: str) -> str:
        return "\n".join(self.found[name]["said"])

    def outcome(self, name: str) -> dict[str, str]:
        """Returns a sha256 of all that must not depend on what happened to a run."""
        texts = self.place / name / "predictions/titles.txt.jsonl"
        texts.parent.mkdir(exist_ok=True)
        texts.touch()  # none are written here
        return bench.outcome(self.place / name)

    def adapter(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.place / name / "adapter/adapter_model.safetensors")


def planned(place: Path, base: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the run of each."""

    def run(folder: str, devices: int = 2, *options: str, **more: Any) -> dict[str, Any]:
        where = ["--trainer.default_root_dir", str(place / folder)]
        given = [*SMALL, "--data.corpora", str(place / "corpora"), "--model.backbone", str(base)]
        several = ["--trainer.devices", str(devices)]
        fit = ["fit", *given, *where, *several, *options]
        commands = [{"arguments": fit, "environment": of} for of in more.pop("machines", [{}])]
        return {"name": str(place / folder), "commands": commands, **more}

    def copy_of(folder: str) -> dict[str, str]:
        return {"copy_of": str(place / folder)}

    asked = "os.kill(os.getppid() if 'RANK' in os.environ else os.getpid(), signal.SIGTERM)"
    yield "untouched", run("untouched")
    for fault, (happens, call, rank, _) in FAULTS.items():
        yield fault, run("hit", patch=happening(happens, call, rank))
    yield "goes on", run("hit")
    yield "alone", run("alone", 1)
    yield "alone, NaN", run("alone_nan", 1, patch=happening(SPOILT, 10))
    yield "NaN", run("nan", patch=happening(SPOILT, 5, 1))  # the tenth row in turn
    yield "one stops", run("one", 1, patch=happening(asked, 14))
    yield "two go on", run("one_two", 2, **copy_of("one"))
    yield "two stop", run("two", 2, patch=happening(asked, 8))
    yield "one goes on", run("two_one", 1, **copy_of("two"))
    yield "three go on", run("two_three", 3, **copy_of("two"))
    trial = ["--trainer.fast_dev_run", "1", "--data.corpora", str(place / "other")]
    yield "slow", run("slow", 2, *trial, patch=SLOW_PREPARATION)
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    machines = [{**meet, "NODE_RANK": str(number)} for number in range(2)]
    yield "machines", run("machines", 1, "--trainer.num_nodes", "2", machines=machines)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("ranks")
    plan = dict(planned(place, shallow_base(place / "base")))
    found = run_all([{"log": name, **run} for name, run in plan.items()])
    return Runs(place, dict(zip(plan, found, strict=True)))


# What ends all


@pytest.mark.parametrize("fault", FAULTS)
def test_all_end_within_a_minute_with_the_code_of_the_fault(fault: str, runs: Runs):
    found = runs.found[fault]
    assert found["codes"] == [FAULTS[fault][-1]], runs.said(fault)
    assert found["seconds"] < 60
    assert found["has_ended"], "no process is left"
    assert "Traceback" not in runs.said(fault)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "the first process is killed",
            "amazon_desc: process 0 of 2 was ended by SIGKILL, most likely for lack of memory. All "
            "others were ended with it; the same command resumes.",
        ),
        (
            "another process is killed",
            "amazon_desc: process 1 of 2 was ended by SIGKILL, most likely for lack of memory. All "
            "others were ended with it; the same command resumes.",
        ),
        (
            "one has no memory",
            "amazon_desc: process 1 of 2: out of memory (Tried to allocate 2.00 GiB.). Lower "
            "--data.batch_size to a smaller divisor of --data.rows_per_step: ",
        ),
        ("the disk is full", "checkpoints cannot be written: File too large"),
        ("one is asked to leave", "amazon_desc: stopped by SIGTERM. The same command resumes"),
        ("all are asked to leave", "amazon_desc: stopped by SIGTERM. The same command resumes"),
        ("the launcher is asked to leave", "amazon_desc: stopped by SIGTERM. The same command"),
        ("the launcher is interrupted", "amazon_desc: stopped by SIGINT. The same command resumes"),
    ],
)
def test_one_sentence_says_why_and_which_process(fault: str, sentence: str, runs: Runs):
    told = [line for line in runs.said(fault).splitlines() if line.startswith("amazon_desc: ")]
    told = [line for line in told if "finishing this optimizer step" not in line]
    assert len(told) == 1, runs.said(fault)
    assert sentence in told[0]


def test_a_step_is_saved_once_for_whoever_is_asked_to_leave(runs: Runs):
    """They resume from step 2; each makes one more."""
    newest = [runs.found[fault]["newest"] for fault in list(FAULTS)[-5:]]
    assert newest == [f"step={step:08d}.ckpt" for step in (2, 3, 4, 5, 6)]


def test_a_run_that_all_of_this_happened_to_ends_with_the_same_bits(runs: Runs):
    assert runs.found["goes on"]["codes"] == [0], runs.said("goes on")
    assert runs.outcome("hit") == runs.outcome("untouched")
    assert bench.leftovers(runs.place / "hit") == []


def test_two_machines_train_as_two_processes_of_one_do(runs: Runs):
    assert runs.found["machines"]["codes"] == [0, 0], runs.said("machines")
    assert runs.outcome("machines") == runs.outcome("untouched")


def test_what_is_not_finite_in_one_process_is_named_as_by_one_alone(runs: Runs):
    sentences = []
    for name in ("alone, NaN", "NaN"):
        assert runs.found[name]["codes"] == [5], runs.said(name)
        sentences.append(re.findall(r"the loss of optimizer step 2 is NaN.+", runs.said(name)))
    assert len(sentences[0]) == 1
    assert len(re.findall(r"row \d+ \(begins ", sentences[0][0])) == 1
    assert sentences[1] == sentences[0]


# Who waits, and how many go on


def test_the_others_wait_for_the_first_one_to_prepare_however_long_it_takes(runs: Runs):
    """Twice as long as they wait for anything else in this run."""
    assert runs.found["slow"]["codes"] == [0], runs.said("slow")
    assert runs.found["slow"]["seconds"] > 9
    assert runs.said("slow").count("Preparing sample") == 1


@pytest.mark.parametrize(
    ("stopped", "resumed", "folder"),
    [
        ("one stops", "two go on", "one_two"),
        ("two stop", "one goes on", "two_one"),
        ("two stop", "three go on", "two_three"),
    ],
)
def test_another_number_of_processes_goes_on_with_the_next_row(
    stopped: str, resumed: str, folder: str, runs: Runs
):
    """Rows and masks are those of a run alone; sums are added up in another order."""
    assert runs.found[stopped]["codes"] == [143], runs.said(stopped)
    assert runs.found[stopped]["newest"] == "step=00000003.ckpt"
    assert runs.found[resumed]["codes"] == [0], runs.said(resumed)
    alone = runs.adapter("alone")
    for name, weights in runs.adapter(folder).items():
        assert float((weights - alone[name]).norm() / alone[name].norm()) < 2e-6, name
    last = runs.found["alone"]["newest"]
    positions = [
        read_checkpoint(runs.place / of / "checkpoints" / last)["DescriptionData"]
        for of in ("alone", folder)
    ]
    assert positions[0]["num_trained_rows"] == positions[1]["num_trained_rows"] > 18
