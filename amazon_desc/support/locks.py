"""Locks between processes: one waits for another, or refuses and says who is there.

In comes a path that one process at a time may work on, out goes a lock beside it. The system ends a
lock with the process that holds it, however that ends; a lock file that is left behind locks
nothing. Where a file system has no locks, nobody is kept out.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from amazon_desc.support.errors import InUseError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

# What a file system that has no locks answers.
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


@contextmanager
def one_at_a_time(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process holds a lock for the same `path`.

    Where there are no locks the work is done twice, and the later one replaces the earlier one's.
    """
    with locked(path, lambda: say(f"Another process is at work on {path}; waiting for it.")):
        yield


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Holds the lock for `path`, or refuses at once.

    Raises:
        InUseError: another process holds it; the message names `what` it does, and who it is.
    """

    def refuse() -> None:
        holder = ""
        with suppress(OSError, UnicodeDecodeError):
            holder = lock_file(path).read_text(encoding="utf-8")
        raise InUseError(
            f"{path} is in use: {what} by {holder or 'another process'}. Wait until that has "
            f"ended, or end it; the same command then goes on."
        )

    with locked(path, refuse):
        yield


@contextmanager
def locked(path: Path, when_held: Callable[[], None]) -> Iterator[None]:
    """Holds the lock for `path`; calls `when_held` before it would wait for another's end."""
    lock = lock_file(path)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
        try:
            take(descriptor, when_held)
            # Its last holder may have removed the file that was waited for.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        with suppress(OSError):  # a full disk: then nobody is told who this is
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, myself().encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def take(descriptor: int, when_held: Callable[[], None]) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        when_held()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def lock_file(path: Path) -> Path:
    return path.with_name(f".lock-{path.name}")


def myself() -> str:
    """Returns how a process that is kept out is told of this one."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}"
