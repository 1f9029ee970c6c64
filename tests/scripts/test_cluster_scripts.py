"""Promises of scripts/slurm.sh and scripts/torchrun.sh, with stand-ins of SLURM's programs.

The stand-in of srun starts real processes with SLURM's variables, hands SIGTERM on, and leaves with
the highest code of its tasks. scontrol notes what is put back into the queue.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import load_script
from tests.shallow_base import shallow_base

ROOT = Path(__file__).resolve().parents[2]
SLURM, TORCHRUN = (str(ROOT / "scripts" / name) for name in ("slurm.sh", "torchrun.sh"))

SMALL = [
    *("fit", "--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "8", "--data.num_products", "34"),
    *("--data.row_tokens", "128", "--data.max_seq_length", "128", "--data.rows_per_step", "4"),
    *("--data.batch_size", "1", "--data.num_scored", "4", "--data.num_sampled", "0"),
    *("--data.validation_fraction", "0.2", "--data.test_fraction", "0"),
    *("--model.decoding.max_new_tokens", "2", "--model.lora.dropout", "0.1"),
    *("--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"),
]

SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$NOTED"; fi
"""

# Notes how it is called, and leaves with a code.
SRUN_OF_A_CODE = """#!/bin/sh
echo "$@" >> "$NOTED"
exit $CODE
"""

# Waits for SIGTERM, which has to reach it, and leaves with 143 a moment later.
SRUN_THAT_WAITS = """#!/bin/sh
trap 'sleep 0.3; exit 143' TERM
echo ready >> "$NOTED"
while :; do sleep 0.05; done
"""

SRUN = """#!{python}
import os, signal, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/scripts"]
import forked_commands as forked
forked.import_once()
assert sys.argv[1:6] == ["--kill-on-bad-exit=1", "--wait=60", "python", "-m", "amazon_desc"]
num = 2
same = {{"SLURM_STEP_NUM_TASKS": num, "SLURM_STEP_NUM_NODES": 1, "SLURM_NTASKS": num,
        "SLURM_NTASKS_PER_NODE": num, "SLURM_NNODES": 1, "SLURM_NODEID": 0,
        "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "amazon_desc"}}
tasks = []
for rank in range(num):
    own = {{**same, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}}
    given = {{**os.environ, **{{name: str(value) for name, value in own.items()}}}}
    tasks.append(forked.Forked(sys.argv[6:], given))
def tell(number, frame):
    for task in tasks:
        os.kill(task.pid, number)
signal.signal(signal.SIGTERM, tell)
is_ending = False
while any(task.poll() is None for task in tasks):
    time.sleep(0.05)
    if not is_ending and any(task.poll() for task in tasks):
        is_ending = True
        for task in tasks:
            if task.poll() is None:
                os.kill(task.pid, signal.SIGTERM)
sys.exit(max(task.code if task.code >= 0 else 128 - task.code for task in tasks))
"""


def started(script: str, arguments: list[str], folder: Path, **programs: str) -> subprocess.Popen:
    """Starts a script as sbatch does, with these programs in its PATH."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        **{"PATH": path, "NOTED": str(folder / "noted"), "PYTHONPATH": str(ROOT)},
        **{"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "127.0.0.1", "MASTER_PORT": port},
        **{"PROCESSES": "2", "PORT": port},
    }
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            ["bash", script, *arguments], env=environment, cwd=ROOT, stdout=said, stderr=said
        )


def noted(folder: Path) -> list[str]:
    file = folder / "noted"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("code", "is_put_back"),
    [(0, False), (1, False), (2, False), (5, False), (137, False), (143, True), (124, True)],
)
def test_a_job_is_put_back_only_where_it_was_asked_to_leave(
    code: int, is_put_back: bool, tmp_path: Path
):
    srun = SRUN_OF_A_CODE.replace("$CODE", str(code))
    job = started(SLURM, ["fit", "--config", "a b.yaml"], tmp_path, srun=srun, scontrol=SCONTROL)
    assert job.wait(20) == code
    called, *put_back = noted(tmp_path)
    assert called == "--kill-on-bad-exit=1 --wait=60 python -m amazon_desc fit --config a b.yaml"
    assert put_back == ["requeue 4711"] * is_put_back


def test_a_warning_reaches_the_tasks_and_their_code_is_waited_for(tmp_path: Path):
    job = started(SLURM, ["fit"], tmp_path, srun=SRUN_THAT_WAITS, scontrol=SCONTROL)
    end = time.monotonic() + 20
    while noted(tmp_path) != ["ready"] and time.monotonic() < end:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    assert noted(tmp_path) == ["ready", "requeue 4711"]


def test_the_job_asks_to_be_warned_and_to_be_put_back():
    asked = [line for line in Path(SLURM).read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"} <= set(asked)


@pytest.mark.slow
def test_a_job_that_is_taken_away_ends_with_the_bits_of_one_that_torchrun_ran(tmp_path: Path):
    bench = load_script("bench_resume")
    base = str(shallow_base(tmp_path / "base"))
    where = [*SMALL, "--model.backbone", base, "--data.corpora", str(tmp_path / "corpora")]
    whole = tmp_path / "whole"
    job = started(TORCHRUN, [*where, "--trainer.default_root_dir", str(whole)], tmp_path / "torch")
    assert job.wait(120) == 0, (tmp_path / "torch/said").read_text()

    taken, of = tmp_path / "taken", [*where, "--trainer.default_root_dir", str(tmp_path / "taken")]
    programs = {"srun": SRUN.format(python=sys.executable, root=str(ROOT)), "scontrol": SCONTROL}
    job = started(SLURM, of, tmp_path / "slurm", **programs)
    end = time.monotonic() + 120
    while not bench.checkpoints(taken) and time.monotonic() < end:
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    said = tmp_path / "slurm/said"
    assert job.wait(60) == 143, said.read_text()
    assert noted(tmp_path / "slurm") == ["requeue 4711"]
    assert not bench.is_finished(taken)
    assert started(SLURM, of, tmp_path / "slurm", **programs).wait(120) == 0, said.read_text()
    assert said.read_text().count("stopped by SIGTERM. The same command resumes") == 1
    for folder in (whole, taken):
        (folder / "predictions").mkdir()
        (folder / "predictions/titles.txt.jsonl").touch()  # none are written here
    assert bench.outcome(taken) == bench.outcome(whole)
