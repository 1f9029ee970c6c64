"""Workers of a Ray cluster as forks of one process, which has imported what each of them needs.

Ray starts this file in the place of its own `default_worker.py`, with its arguments; they go to the
process that `forked_workers` started, and a fork of that runs Ray's file. What Ray starts lives as
long as the fork. So a worker takes a part of a second to start, not several.
"""

import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOCKET = "TESTED_RAY_WORKERS"


@contextmanager
def forked_workers(folder: Path) -> Iterator[None]:
    """Has all clusters that are begun meanwhile fork their workers; `folder` is for a socket."""
    from functools import partialmethod

    import pytest
    from ray._private.parameter import RayParams

    address = str(folder / "workers")
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(address)
        listening.listen(64)
        command = [sys.executable, "-m", "tests.ray_workers", str(listening.fileno())]
        patch.setenv(SOCKET, address)
        patch.setattr(
            RayParams, "__init__", partialmethod(RayParams.__init__, worker_path=__file__)
        )
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[listening.fileno()]) as process:
            try:
                yield
            finally:
                process.kill()


def ask() -> None:
    """What Ray starts: asks for a fork, and waits for its end."""
    asked = {"arguments": [os.getcwd(), *sys.argv[1:]], "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(os.environ[SOCKET])
        asking.sendall(json.dumps(asked).encode())
        asking.shutdown(socket.SHUT_WR)
        asking.recv(1)  # nothing comes: it ends with the fork


def serve(listening: socket.socket) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from scripts import forked_commands  # pyright: ignore

    forked_commands.import_once()
    # not Ray itself, which reads its token when it is imported, but what it imports
    for name in ("aiohttp", "google.protobuf.descriptor", "pandas", "pyarrow.parquet"):
        importlib.import_module(name)
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    workers = Path(found.origin).parent / "_private" / "workers" / "default_worker.py"

    def called(arguments: list[str]) -> int:
        import runpy

        listening.close()
        place, *given = arguments
        os.chdir(place)
        sys.argv = [str(workers), *given]
        runpy.run_path(str(workers), run_name="__main__")
        return 0

    forked_commands.called = called
    forks = []
    while True:
        asking, _ = listening.accept()
        with asking, asking.makefile("rb") as file:
            asked = json.load(file)
            forks.append(forked_commands.Forked(asked["arguments"], asked["environment"]))
        forks = [fork for fork in forks if fork.poll() is None]


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        ask()
