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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amazon_desc.support.errors import Interrupted, PeerLostError, UserError
from amazon_desc.support.ranks import LAUNCHED

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
ACROSS_NODES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")

KILLED = (
    "{name} was ended by {signal}{reason}. All others were ended with it; the same command resumes "
    "from the last checkpoint."
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
    # imported where they are needed: no other command has to wait for them
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # what others say of their end is said here, once
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    logging.disable(logging.ERROR)
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[LAUNCHED] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="amazon_desc-") as folder:
        config = LaunchConfig(
            min_nodes=num_nodes,
            max_nodes=num_nodes,
            nproc_per_node=num_processes,
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            **meeting(num_nodes),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "amazon_desc", *arguments)
        except ChildFailedError as error:
            raise cause_of(error.failures, num_processes * num_nodes) from None
        except SignalException as asked:
            if (failed := lost_while_leaving(Path(folder))) is not None:
                raise failed from None
            raise Interrupted(asked.sigval.name, 128 + asked.sigval.value) from None
        finally:
            logging.disable(logging.NOTSET)


def meeting(num_nodes: int) -> dict[str, Any]:
    """Returns where the processes of all machines meet.

    Raises:
        UserError: there are several machines, and nothing says which one this is.
    """
    if num_nodes == 1:
        return {
            "rdzv_backend": "c10d",
            "rdzv_endpoint": "127.0.0.1:0",
            "local_addr": "127.0.0.1",
            "run_id": uuid.uuid4().hex,
        }
    missing = [name for name in ACROSS_NODES if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"--trainer.num_nodes {num_nodes}: wanted {', '.join(ACROSS_NODES)} in the environment "
            f"of each machine's command, found no {', '.join(missing)}. Set them: the address and "
            f"a free port of the first machine, and this one's number from 0. torchrun and SLURM "
            f"do that by themselves: see scripts/README.md."
        )
    address, port, node = (os.environ[name] for name in ACROSS_NODES)
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{address}:{port}",
        "rdzv_configs": {"rank": int(node)},
        "run_id": f"{address}:{port}",
    }


# What a process leaves for the one that started it


def is_answered_for() -> bool:
    """Whether the process that started this one says what becomes of it."""
    return LAUNCHED in os.environ and bool(os.environ.get(ERROR_FILE))


def leave_word(error: UserError | Interrupted) -> None:
    """Writes down why this process fails, for the one that started it."""
    if path := os.environ.get(ERROR_FILE):
        why = error.why if isinstance(error, Interrupted) else None
        extra = {"timestamp": str(int(time.time())), "exit_code": error.exit_code, "why": why}
        text = json.dumps({"message": {"message": why or str(error), "extraInfo": extra}})
        Path(path).write_text(text, encoding="utf-8")


def cause_of(failures: dict[int, Any], num_processes: int) -> FailedProcess | Interrupted:
    """Returns what is said where processes have failed: by the one that failed by itself.

    Those that talked to it fail for that, and the rest are asked to leave.
    """

    def order(rank: int) -> tuple[bool, bool, int, int]:
        failure = failures[rank]
        is_asked = failure.exitcode == -signal.SIGTERM or asked_to_leave(failure) is not None
        return failure.exitcode == PeerLostError.exit_code, is_asked, failure.timestamp, rank

    rank = min(failures, key=order)
    failure, name = failures[rank], f"process {rank} of {num_processes}"
    if (asked := asked_to_leave(failure)) is not None:
        return asked
    if word_of(failure.error_file_data):
        return FailedProcess(
            f"{name}: {failure.message}" if rank else failure.message, failure.exitcode
        )
    if failure.exitcode < 0:
        number = -failure.exitcode
        reason = ", most likely for lack of memory" if number == signal.SIGKILL else ""
        told = KILLED.format(name=name, signal=signal.Signals(number).name, reason=reason)
        return FailedProcess(told, 128 + number)
    return FailedProcess(ENDED.format(name=name, code=failure.exitcode), failure.exitcode)


def asked_to_leave(failure: Any) -> Interrupted | None:
    """Returns what a process was asked by, if it has left for that."""
    extra = word_of(failure.error_file_data)
    return Interrupted(extra["why"], extra["exit_code"]) if extra.get("why") else None


def word_of(found: dict[str, Any]) -> dict[str, Any]:
    """Returns what leave_word() has written beside the message; empty: it has not."""
    message = found.get("message")
    return message["extraInfo"] if isinstance(message, dict) else {}


def lost_while_leaving(folder: Path) -> FailedProcess | None:
    """Returns what a process has said that could not keep what it had to before it left."""
    for file in sorted(folder.rglob("error.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        extra = word_of(found)
        if extra and not extra["why"] and extra["exit_code"] != PeerLostError.exit_code:
            return FailedProcess(found["message"]["message"], extra["exit_code"])
    return None
