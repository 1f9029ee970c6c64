"""Starts the processes of a command that runs on several devices, and answers for them.

In come a command's arguments and how many processes it wants here, out goes nothing, or what the
first of them that failed says. torch's elastic agent, which is torchrun, starts them, watches them,
hands signals on and ends all when one has ended with an error: the first one is a child like the
others, so none is left where it is killed. Nothing is computed in this process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from amazon_desc.support.errors import Interrupted, PeerLostError, UserError
from amazon_desc.support.ranks import ERROR_FILE, LAUNCHED, here
from amazon_desc.support.signals import handlers_restored, stopping_signals

ACROSS_NODES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")

KILLED = (
    "{name} was ended by {signal}{reason}. All others were ended with it; the same command resumes."
)
ENDED = "{name} ended with code {code}; what it said of it stands above."


class FailedProcess(UserError):
    """What the process that failed first has said, with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(arguments: Sequence[str], num_processes: int, num_nodes: int) -> None:
    """Runs `python -m amazon_desc` in several processes, and returns when all have succeeded.

    Args:
        num_processes: on this machine
        num_nodes: machines, each of which is given the same command

    Raises:
        UserError: what the first process that failed has said.
        Interrupted: this process was asked to leave; the others were, too, and have left.
    """
    # imported where it is needed: no other command has to wait for it
    from torch.distributed.elastic.multiprocessing import SignalException

    threads = max(1, (os.cpu_count() or 1) // num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # all others are taken here
    os.environ[LAUNCHED] = str(os.getpid())
    logging.disable(logging.ERROR)  # what others say of their end is said here, once
    try:
        with tempfile.TemporaryDirectory(prefix="amazon_desc-") as folder:
            agent = agent_of(arguments, num_processes, num_nodes, folder)
            with signals_handed_on(agent):
                result = agent.run()
            if result.is_failed():
                told = told_in(Path(folder))
                raise cause_of(result.failures, told, num_processes * num_nodes)
    except SignalException as asked:
        raise Interrupted(asked.sigval.name, 128 + asked.sigval.value) from None
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[LAUNCHED]


def agent_of(arguments: Sequence[str], num_processes: int, num_nodes: int, folder: str) -> Any:
    """Returns what starts the processes and watches them.

    Args:
        folder: where the processes leave word
    """
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
    from torch.distributed.launcher.api import LaunchConfig

    meeting, master = meeting_of(num_nodes)
    meeting |= {"min_nodes": num_nodes, "max_nodes": num_nodes}
    specification = WorkerSpec(
        role="amazon_desc",
        local_world_size=num_processes,
        entrypoint=sys.executable,
        args=("-m", "amazon_desc", *arguments),
        rdzv_handler=get_rendezvous_handler(RendezvousParameters(**meeting)),
        max_restarts=0,
        # torchrun's own choice of cores that are near to a card
        numa_options=LaunchConfig(num_nodes, num_nodes, num_processes).numa_options,
        **master,
    )
    return LocalElasticAgent(specification, logs_specs=DefaultLogsSpecs(log_dir=folder))


@contextmanager
def signals_handed_on(agent: Any) -> Iterator[None]:
    """Hands the first signal that asks to leave on to the processes; a second one ends all.

    The agent goes on watching them: they have all the time that they need, until the first has
    left. What is left of them ends with this process, as they have asked the system for.
    """
    from torch.distributed.elastic.agent.server.api import WorkerState
    from torch.distributed.elastic.multiprocessing import SignalException

    asked: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        if asked and signal.Signals(number).name == "SIGHUP":  # system and shell both send it
            return
        if asked:
            os._exit(128 + number)
        asked.append(number)
        group = agent.get_worker_group()
        if group.state != WorkerState.HEALTHY:  # they are not all there yet, or not any more
            raise SignalException("asked to leave", signal.Signals(number))
        for worker in group.workers:
            with suppress(ProcessLookupError):
                os.kill(worker.id, number)

    numbers = stopping_signals()
    with handlers_restored(numbers) as may_set:
        for number in numbers if may_set else ():
            signal.signal(number, take)
        yield


def meeting_of(num_nodes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns where the agents of all machines meet, and where their processes do.

    Raises:
        UserError: there are several machines, and nothing says which one this is.
    """
    if num_nodes == 1:
        here_alone = {"endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
        meeting = {"backend": "c10d", "run_id": uuid.uuid4().hex, **here_alone}
        return meeting, {"local_addr": "127.0.0.1"}
    missing = [name for name in ACROSS_NODES if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"--trainer.num_nodes {num_nodes}: wanted {', '.join(ACROSS_NODES)} in the environment "
            f"of each machine's command, found no {', '.join(missing)}. Set them: the address and "
            f"a free port of the first machine, and this one's number from 0. torchrun and SLURM "
            f"do that by themselves: see scripts/README.md."
        )
    address, port, node = (os.environ[name] for name in ACROSS_NODES)
    place = f"{address}:{port}"
    meeting = {"backend": "static", "endpoint": place, "run_id": place, "rank": int(node)}
    return meeting, {"master_addr": address, "master_port": int(port)}


# What a process leaves for the one that started it


def leave_word(error: UserError | Interrupted) -> None:
    """Writes down why this process fails, for the one that started it."""
    if path := os.environ.get(ERROR_FILE):
        why = error.why if isinstance(error, Interrupted) else None
        extra = {
            "timestamp": str(int(time.time())),  # torch reads it
            "seconds": time.time(),
            "rank": here().rank,
            "exit_code": error.exit_code,
            "why": why,
        }
        text = json.dumps({"message": {"message": why or str(error), "extraInfo": extra}})
        half = Path(f"{path}.half")  # whoever reads it finds all of it, or none
        half.write_text(text, encoding="utf-8")
        half.replace(path)


class Told(NamedTuple):
    """What a process has written down before it left."""

    message: str
    seconds: float
    exit_code: int
    why: str | None
    """what it was asked by; None: it has failed"""


def told_in(folder: Path) -> dict[int, Told]:
    """Returns what the processes of this machine have written down, by their rank."""
    found: dict[int, Told] = {}
    for file in folder.rglob("error.json"):
        message = json.loads(file.read_text(encoding="utf-8")).get("message")
        if isinstance(message, dict) and "why" in (extra := message.get("extraInfo", {})):
            values = (extra[name] for name in ("seconds", "exit_code", "why"))
            found[extra["rank"]] = Told(message["message"], *values)
    return found


def cause_of(
    failures: dict[int, Any], told: dict[int, Told], num_processes: int
) -> FailedProcess | Interrupted:
    """Returns what is said where processes have failed: by the one that failed by itself.

    The others fail since they talked to it, or are asked to leave by the agent, which kills those
    that do not.
    """

    def order(rank: int) -> tuple[bool, bool, bool, float, bool, int]:
        cause, word = causes[rank], told.get(rank)
        is_lost = cause.exit_code == PeerLostError.exit_code
        is_asked = isinstance(cause, Interrupted)
        has_failed = word is not None and not is_asked  # what it was to save before is lost
        seconds = word.seconds if word else failures[rank].timestamp
        return is_lost, not has_failed, is_asked and word is None, seconds, is_asked, rank

    causes = {
        rank: spoken(told[rank], rank, num_processes)
        if rank in told
        else unspoken(failure.exitcode, rank, num_processes)
        for rank, failure in failures.items()
    }
    return causes[min(causes, key=order)]


def spoken(word: Told, rank: int, num_processes: int) -> FailedProcess | Interrupted:
    """Returns what is said of a process that has left word."""
    if word.why is not None:
        return Interrupted(word.why, word.exit_code)
    name = f"process {rank} of {num_processes}: " if rank else ""
    return FailedProcess(f"{name}{word.message}", word.exit_code)


def unspoken(code: int, rank: int, num_processes: int) -> FailedProcess | Interrupted:
    """Returns what is said of a process that has left none, by its exit code."""
    name, number = f"process {rank} of {num_processes}", -code if code < 0 else code - 128
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # before it could write
        return Interrupted(signal.Signals(number).name, 128 + number)
    if code > 0:
        return FailedProcess(ENDED.format(name=name, code=code), code)
    reason = ", most likely for lack of memory" if number == signal.SIGKILL else ""
    told = KILLED.format(name=name, signal=signal.Signals(number).name, reason=reason)
    return FailedProcess(told, 128 + number)
