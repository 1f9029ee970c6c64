"""Commands of several processes, started as torchrun would, but out of one that has imported all.

In come arguments and a number of processes, out go their exit codes. Importing what a command needs
takes longer than a small fit; a server that is forked has done it once. What a script starts with
`subprocess.run` is such a fork where a test has it call `run_python`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

SECONDS = 300
# What commands import when they need it, too.
IMPORTED = [
    *("amazon_desc.cli", "bitsandbytes", "datasets", "peft"),
    *("transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
]


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Returns what torchrun tells a process of one machine."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}
    ranks |= {"LOCAL_WORLD_SIZE": world_size, "GROUP_RANK": 0, "MASTER_PORT": port}
    told = {name: str(value) for name, value in ranks.items()}
    told |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "a-test"}
    return told | {"GLOO_SOCKET_IFNAME": "lo"}


def work(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """What each process does."""
    os.environ.update(environment)
    begin(log, "w")
    from amazon_desc.cli import main

    main(arguments)


def begin(log: str, mode: str) -> None:
    """Prepares a fork to run a command, all of whose output goes to a file."""
    with open(log, mode, encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    import torch

    from tests.conftest import leave_out_drawings

    torch.set_num_threads(1)
    leave_out_drawings()
    gc.freeze()


def forkserver() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def started(arguments: Sequence[str], world_size: int, logs: Path) -> list[BaseProcess]:
    """Starts a command in several processes; what each prints goes to `logs`/<rank>.log."""
    context = forkserver()
    logs.mkdir(parents=True, exist_ok=True)
    port, processes = free_port(), []
    for rank in range(world_size):
        environment = environment_of(rank, world_size, port) if world_size > 1 else {}
        given = (list(arguments), environment, str(logs / f"{rank}.log"))
        processes.append(context.Process(target=work, args=given))
        processes[-1].start()
    return processes


def run(arguments: Sequence[str], world_size: int, logs: Path) -> list[int | None]:
    """Runs a command in several processes; returns their exit codes, None where one hangs."""
    processes = started(arguments, world_size, logs)
    for process in processes:
        process.join(SECONDS)
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [None if process.exitcode == -9 else process.exitcode for process in processes]


def work_of_python(arguments: list[str], place: str, log: str) -> None:
    """Does in this process what `python ARGUMENTS` does: a script, or `-m` and a module."""
    begin(log, "a")
    os.chdir(place)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


def run_python(
    command: Sequence[str], *, stdout: IO[str], stderr: IO[str], check: bool
) -> subprocess.CompletedProcess[str]:
    """Does what `subprocess.run` does of a command of this Python whose output goes to a file."""
    assert command[0] == sys.executable
    assert stdout is stderr
    assert not check
    given = (list(command[1:]), os.getcwd(), stdout.name)
    process = forkserver().Process(target=work_of_python, args=given)
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(command, SECONDS)
    return subprocess.CompletedProcess(list(command), int(process.exitcode or 0))
