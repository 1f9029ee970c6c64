"""Runs commands of several processes for tests, one after another, without importing all each time.

In comes a line of JSON for each run, out goes one of what became of it. A run is a run folder
(`name`), the name of its `log`, what it is a `copy_of`, code that is executed before the command
(`patch`), and arguments and environment of each of the `commands` that are started at once. All
processes are forks of this one, which has imported all: of a command, the one that starts the
others, and these. What is done to a run from outside is done between `start` and `result`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120  # far more than a run takes

# In each process of a command, before a micro-batch of that number, from 1, in one process alone.
AT_MICRO_BATCH = """
import os, resource, signal, subprocess, time
import torch
import amazon_desc.training.module as training
step, num_calls = training.DescriptionModule.training_step, 0

def own_step(self, batch, number):
    global num_calls
    num_calls += 1
    if num_calls == {call} and os.environ.get("RANK", "0") == "{rank}":
        {happens}
    return step(self, batch, number)

training.DescriptionModule.training_step = own_step
"""


def happening(happens: str, call: int, rank: int = 0) -> str:
    """Returns code that has something happen before a micro-batch of one process."""
    return AT_MICRO_BATCH.format(happens=happens, call=call, rank=rank)


class Forking:
    """A process that has imported all, and runs what it is given."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.several"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        )

    def start(self, run: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(run)}\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Returns the exit codes, what was said, seconds, and whether all has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.wait(10)
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets it come to its end; a run that is not waited for is ended with it."""
        self.process.communicate(timeout=SECONDS + 20)


def run_all(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the results of runs, one after another."""
    with Forking() as forking:
        found = []
        for run in runs:
            forking.start(run)
            found.append(forking.result())
    return found


def run_one(run: dict[str, Any]) -> dict[str, Any]:
    from scripts.forked_commands import Run, have_ended  # pyright: ignore

    if run.get("copy_of"):
        shutil.copytree(run["copy_of"], run["name"])
    started, processes, logs = [], set[int](), []
    for number, command in enumerate(run["commands"]):
        logs.append(Path(run["name"]).parent / f"{run['log']}-{number}.log")
        environment = {**command.get("environment", {}), "TESTED_PATCH": run.get("patch", "")}
        os.environ.update(environment)
        started.append(Run(command["arguments"], logs[-1]))
        for name in environment:
            del os.environ[name]
    begun, codes = time.monotonic(), [None] * len(started)
    while None in codes and time.monotonic() < begun + SECONDS:
        for number, process in enumerate(started):
            processes.update(process.processes())
            codes[number] = process.wait(0.1)
    seconds = time.monotonic() - begun
    for process, code in zip(started, codes, strict=True):
        if code is None:
            process.send(9)
    said = [log.read_text(errors="replace") for log in logs]
    ended = have_ended(sorted(processes), 10)
    newest = max((file.name for file in Path(run["name"]).glob("checkpoints/*.ckpt")), default="")
    found = {"codes": codes, "said": said, "seconds": seconds, "has_ended": ended}
    return {**found, "newest": newest}


def main() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from scripts import forked_commands  # pyright: ignore
    from tests.conftest import leave_out_drawings

    runs = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # no command reads from there
    forked_commands.import_once()
    forked_commands.fork_several()
    leave_out_drawings()
    called = forked_commands.called

    def patched(arguments: list[str]) -> int:
        if "RANK" not in os.environ:  # the others are forked from it
            try:
                exec(os.environ["TESTED_PATCH"], {"__name__": "patch"})
            except BaseException:
                traceback.print_exc()
                raise
        return called(arguments)

    forked_commands.called = patched
    for line in iter(runs.readline, ""):
        print(json.dumps(run_one(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
