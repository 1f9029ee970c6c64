"""Runs commands of several processes for tests, one after another, without importing all each time.

In comes a list of runs as JSON, out goes a line of JSON for each. A run is a run folder (`name`),
the name of its `log`, what it is a `copy_of`, code that is executed before the command (`patch`),
and arguments and environment of each of the `commands` that are started at once. All processes are
forks of this one, which has imported all: of a command, the one that starts the others, and these.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

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


def run_all(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns of each run the exit codes, what was said, seconds, and whether all has ended."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.several"],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    while None in codes and time.monotonic() < begun + 120:
        for number, process in enumerate(started):
            processes.update(process.processes())
            codes[number] = process.wait(0.02)
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

    runs = json.load(sys.stdin)
    forked_commands.import_once()
    forked_commands.fork_several()
    called = forked_commands.called

    def patched(arguments: list[str]) -> int:
        if "RANK" not in os.environ:  # the others are forked from it
            exec(os.environ["TESTED_PATCH"], {"__name__": "patch"})
        return called(arguments)

    forked_commands.called = patched
    for run in runs:
        print(json.dumps(run_one(run)), flush=True)


if __name__ == "__main__":
    main()
