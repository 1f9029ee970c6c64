"""One process at a time: another one waits, or is refused and told who is there."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amazon_desc.support import locks
from amazon_desc.support.errors import InUseError
from amazon_desc.support.locks import alone, one_at_a_time


class Killed(BaseException):
    """Stands for whatever ends a holder in the middle of its work."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


HOLDER = """
import sys
from pathlib import Path
from amazon_desc.support.locks import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), say=lambda text: print(text, flush=True)):
    print("in", flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""


class Holder:
    """A process that is in a block of one_at_a_time for a path until it gets a line."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def says(self) -> str:
        """Returns the next line that it prints; it fails when there is none within 20 seconds."""
        assert self.process.stdout is not None
        timer = threading.Timer(20, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().rstrip()
        finally:
            timer.cancel()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=20)


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    """Those that a test starts, ended with it."""
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def hold(path: Path, holders: list[Holder]) -> Holder:
    holders.append(Holder(path))
    return holders[-1]


def waiting(path: Path) -> str:
    return f"Another process is at work on {path}; waiting for it."


def one_that_waits_for_another(path: Path, holders: list[Holder]) -> tuple[Holder, Holder]:
    """Returns the one that is in, and the one that waits for it."""
    first = hold(path, holders)
    assert first.says() == "in"
    second = hold(path, holders)
    assert second.says() == waiting(path)
    return first, second


def test_a_second_process_waits_and_says_so(tmp_path: Path, holders: list[Holder]):
    first, second = one_that_waits_for_another(tmp_path / "corpus", holders)
    first.leave()
    assert second.says() == "in"  # and not before: it had said that it waits
    second.leave()
    assert (first.process.returncode, second.process.returncode) == (0, 0)
    assert names(tmp_path) == []


@pytest.mark.slow
def test_many_processes_are_never_in_at_the_same_time(tmp_path: Path):
    """Each of four comes and goes as often as it can; while it is in it is alone."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from amazon_desc.support.locks import one_at_a_time\n"
        "path, name = Path(sys.argv[1]), sys.argv[2]\n"
        "for _ in range(1000):\n"
        "    with one_at_a_time(path, lambda _: None), open(path, 'a') as log:\n"
        "        for _ in range(2):\n"
        "            print(name, end='', file=log, flush=True)\n"
    )
    path = tmp_path / "corpus"
    command = [sys.executable, "-c", script, path]
    started = [subprocess.Popen([*command, name], env=environment()) for name in "abcd"]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0, 0]
    log = path.read_text()
    assert sorted(log) == sorted("abcd" * 2000)
    assert log[::2] == log[1::2]
    assert names(tmp_path) == ["corpus"]


def test_nobody_waits_for_another_path_or_for_one_who_is_done(
    tmp_path: Path, holders: list[Holder]
):
    first, other = hold(tmp_path / "corpus", holders), hold(tmp_path / "other", holders)
    assert first.says() == "in"
    assert other.says() == "in"
    first.leave()
    said: list[str] = []
    for _ in range(2):
        with one_at_a_time(tmp_path / "corpus", said.append):
            pass
    assert said == []


def test_a_killed_process_holds_nobody_up(tmp_path: Path, holders: list[Holder]):
    first, second = one_that_waits_for_another(tmp_path / "corpus", holders)
    first.process.send_signal(signal.SIGKILL)
    assert second.says() == "in"


def test_who_fails_in_the_block_holds_nobody_up(tmp_path: Path, holders: list[Holder]):
    path = tmp_path / "corpus"
    with pytest.raises(Killed), one_at_a_time(path, print):
        raise Killed
    assert hold(path, holders).says() == "in"


def test_a_child_that_outlives_its_killed_holder_holds_nobody_up(tmp_path: Path):
    """Such as a process that loads batches: it has all that was open when it was forked."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from amazon_desc.support.locks import alone\n"
        "with alone(Path(sys.argv[1]), 'trained'):\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = tmp_path / "run"
    command = [sys.executable, "-c", script, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(InUseError), alone(path, "trained"):
                raise AssertionError("is in")
            holder.kill()
            holder.wait(20)
            with alone(path, "trained"):
                os.kill(child, 0)  # it is there
        finally:
            os.kill(child, signal.SIGKILL)


NO_LOCKS = [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK]


@pytest.mark.parametrize("failure", [*NO_LOCKS, errno.EINVAL, errno.EBADF])
@pytest.mark.parametrize("left", [None, "", "4242\nanother-host\n"])
def test_without_locks_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str | None, failure: int
):
    """Some network file systems have none; a lost machine may have left the lock's file there."""
    fcntl = pytest.importorskip("fcntl")

    def no_lock(*_: object) -> None:
        raise OSError(failure, os.strerror(failure))

    def refuse(text: str) -> None:
        raise AssertionError(text)

    if left is not None:
        (tmp_path / ".lock-corpus").write_text(left)
    monkeypatch.setattr(fcntl, "flock", no_lock)
    for _ in range(2):
        with one_at_a_time(tmp_path / "corpus", refuse):
            (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus").rmdir()


def test_that_there_are_no_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def no_lock(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_lock)
    monkeypatch.setattr(locks, "SAID", set())
    for name in ("checkpoints", "titles.jsonl", "checkpoints"):
        with alone(tmp_path / name, "trained"):
            pass
    assert capsys.readouterr().out == (
        f"{tmp_path} is on a file system without locks (Invalid argument): nobody is kept out. Let "
        f"one command at a time work there.\n"
    )


def test_another_failure_to_lock_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), alone(tmp_path / "run", "trained"):
        raise AssertionError("is in")


# Refused at once


def test_who_is_not_alone_is_told_by_whom(tmp_path: Path, holders: list[Holder]):
    first = hold(tmp_path / "run", holders)
    assert first.says() == "in"
    wanted = rf"/run is in use: trained by process {first.process.pid} on .+, since 20\d\d-.*Wait"
    with pytest.raises(InUseError, match=wanted), alone(tmp_path / "run", "trained"):
        raise AssertionError("is in")
    first.leave()
    with alone(tmp_path / "run", "trained"):
        assert names(tmp_path) == [".lock-run"]
    assert names(tmp_path) == []


def test_a_lock_file_that_a_killed_process_left_locks_nothing(tmp_path: Path):
    (tmp_path / ".lock-run").write_text("process 1 on elsewhere, since 2001-01-01T00:00:00+00:00")
    with alone(tmp_path / "run", "trained"):
        pass
    assert names(tmp_path) == []
