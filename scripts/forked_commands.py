"""Commands as processes, without the seconds that each takes to import torch and Lightning.

In come the arguments of a command, out goes its process, which can be waited for and hit: a fork of
this one, which has imported all. So are the processes of a fit on several devices. What is done to
them is not known here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

ROOT = Path(__file__).resolve().parents[1]
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def import_once() -> None:
    """Imports all that a run needs: without a card every run is a fork of this process."""
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM  # noqa: F401

    from amazon_desc.__main__ import imported_cli

    imported_cli()  # a fork that looked for garbage among all this would make it a copy of its own
    torch.set_num_threads(1)


class Forked:
    """A process that calls the command with all that is imported here, and is asked as a Popen."""

    def __init__(self, arguments: list[str], environment: dict[str, str], file: int = 2) -> None:
        self.code: int | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # until nothing here is called by them
        self.pid = os.fork()
        if self.pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            return
        code = 1
        try:
            for number in HANDLED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            os.setsid()
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.environ.clear()
            os.environ.update(environment)
            code = called(arguments)
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """Returns the exit code (minus a signal's number), or None if it still runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired("amazon_desc", timeout or 0)
            time.sleep(0.002)
        return code


def fork_several() -> None:
    """Has the processes of a fit on several devices be forks of the one that starts them, too."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def forked(_: Any, arguments: tuple[str, ...], environment: dict[str, str]) -> Forked:
        return Forked([*arguments[3:]], environment)  # after `python -m amazon_desc`

    subprocess_handler.SubprocessHandler._popen = forked  # pyright: ignore


class Run:
    """A command, started as a process group of its own; what it says goes to a file."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        import torch

        self.log = log
        sys.stdout.flush()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if torch.cuda.is_available():
            self.process = spawned(arguments, file)
        else:
            self.process = Forked(arguments, dict(os.environ), file)
        os.close(file)

    def processes(self) -> list[int]:
        """Returns the id of the process, and of those that it has started and that are alive."""
        return [self.process.pid, *alive("--ppid", str(self.process.pid))]

    def send(self, number: int) -> None:
        for pid in self.processes():
            try:
                os.killpg(pid, number)
            except ProcessLookupError:  # it has no group yet, or is gone
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def wait(self, seconds: float | None = None) -> int | None:
        """Returns the exit code (minus a signal's number), or None if it still runs after that."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def alive(*of: str) -> list[int]:
    """Returns the ids of the processes that ps finds, without those that have ended."""
    found = subprocess.run(["ps", *of, "-o", "pid=,stat="], capture_output=True, text=True)
    lines = [line.split() for line in found.stdout.splitlines()]
    return [int(pid) for pid, state in lines if not state.startswith("Z")]


def have_ended(processes: list[int], seconds: float) -> bool:
    """Says whether processes have ended after that time, and ends those that have not."""
    ids, end = ",".join(map(str, processes)) or "0", time.monotonic() + seconds
    while True:
        found = subprocess.run(
            ["ps", "-p", ids, "-o", "pid=,stat="], capture_output=True, text=True
        )
        of = [line.split() for line in found.stdout.splitlines()]
        left = [int(pid) for pid, state in of if not state.startswith("Z")]
        if not left or time.monotonic() >= end:
            break
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return not left


def spawned(arguments: list[str], file: int) -> subprocess.Popen[bytes]:
    """Returns a process that imports all itself: no fork can use a card."""
    command = [sys.executable, "-m", "amazon_desc", *arguments]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    there = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, env=there, stdout=file, stderr=file, start_new_session=True)


def called(arguments: list[str]) -> int:
    """Does what `python -m amazon_desc ARGUMENTS` does, in this process; returns its exit code."""
    import traceback

    from amazon_desc.__main__ import main

    sys.argv = ["amazon_desc", *arguments]
    try:
        main()
    except SystemExit as exit_:
        sys.stdout.flush()
        return exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    sys.stdout.flush()
    return 0
