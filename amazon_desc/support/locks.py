"""Locks between processes: one waits for another, or refuses and says who is there.

In comes a path that one process at a time may work on, out goes a lock beside it. filelock takes
it (flock, on Windows LockFileEx); the system ends it with the process that holds it, however that
ends, so a lock file that is left over locks nothing. Here is what filelock leaves to others: who
holds it is written into the file, and the file goes with the lock. filelock's other way, a file
whose being there is the lock, is not taken where a file system has no locks: a killed process would
leave it there. Then nobody is kept out, which is said.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from amazon_desc.support import printing
from amazon_desc.support.errors import InUseError

# What a file system that has no locks answers, such as CIFS, 9p and some mounts of Drive.
NO_LOCKS = (
    *(errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
    *(errno.ENOLCK, errno.EINVAL, errno.EBADF),
)
SAID: set[int] = set()  # of which file systems it was said that they have none


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
        raise InUseError(
            f"{path} is in use: {what} by {holder(path) or 'another process'}. Wait until that has "
            f"ended, or end it; the same command then goes on."
        )

    with locked(path, refuse):
        yield


def is_held(path: Path) -> bool:
    """Whether another process holds the lock for `path`, as far as the file system tells."""
    try:
        with alone(path, ""):
            return False
    except InUseError:
        return True


def holder(path: Path) -> str:
    """Returns who holds the lock for `path`, in words; empty: nobody, as far as is seen here."""
    with suppress(OSError, UnicodeDecodeError):
        return lock_file(path).read_text(encoding="utf-8")
    return ""


@contextmanager
def locked(path: Path, when_held: Callable[[], None]) -> Iterator[None]:
    """Holds the lock for `path`; calls `when_held` before it would wait for another's end."""
    file = lock_file(path)
    lock = FileLock(file, fallback_to_soft=False)
    take(lock, when_held)
    try:
        with suppress(OSError):  # a full disk, or Windows: then nobody is told who this is
            file.write_text(myself(), encoding="utf-8")
        yield
    finally:
        # While it is held: who waits for a file that is gone finds that out and makes another.
        with suppress(OSError):  # on Windows filelock removes it, after the release
            file.unlink()
        lock.release()


def take(lock: BaseFileLock, when_held: Callable[[], None]) -> None:
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            when_held()
            lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say_that_nobody_is_kept_out(Path(lock.lock_file).parent, error)


def say_that_nobody_is_kept_out(folder: Path, error: OSError) -> None:
    """Says once of a file system that it has no locks."""
    file_system = folder.stat().st_dev
    if file_system not in SAID:
        SAID.add(file_system)
        printing.say(
            f"{folder} is on a file system without locks ({error.strerror}): nobody is kept out. "
            f"Let one command at a time work there."
        )


def lock_file(path: Path) -> Path:
    return path.with_name(f".lock-{path.name}")


def myself() -> str:
    """Returns how a process that is kept out is told of this one."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}"
