"""Writes files whole or not at all: a reader, or a later run, never meets half of one.

Everything goes to a temporary name in the same folder, is flushed to the disk and then renamed.
A leftover of a killed writer is recognised by `.tmp-` in its name and is never read.
"""

import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from amazon_desc.support.errors import StorageError, UserError

# What a file system answers that cannot flush a folder, such as CIFS, 9p and some mounts of Drive.
# It keeps renames in a way of its own; what was written is whole.
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the file system can."""
    if sys.platform == "win32":  # opens no folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; what was written there becomes `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_all(folder: Path) -> None:
    """Has the files in `folder` on the disk, and the names of them in it and in its folders."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder; it becomes `path`, and what was there goes, if the block succeeds.

    A rename cannot replace a folder that holds files, so the old one is moved aside first and
    deleted last: at every moment one whole folder is there under `path` or as `.tmp-old-`, from
    where `remove_leftovers` brings it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    retired = path.with_name(f".tmp-old-{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        sync_all(temporary)
        if path.exists():
            path.replace(retired)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
        elif retired.exists():
            retired.replace(path)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which goes after the block, with all that is in it."""
    folder = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def empty_folder_removed(path: Path) -> Iterator[None]:
    """Makes a folder, and removes it and the parents made for it if nothing was put there."""
    made = [path, *(parent for parent in path.parents if not parent.exists())]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty, or was moved
            for folder in made:
                folder.rmdir()


def remove_leftovers(path: Path) -> None:
    """Removes what killed writers of `path` left beside it; only while nobody else can write it.

    A folder that was moved aside and not yet replaced is put back.
    """
    of_path = re.compile(rf"\.tmp-(old-)?\d+-{re.escape(path.name)}")
    for leftover in path.parent.glob(".tmp-*"):
        match = of_path.fullmatch(leftover.name)
        if match and match[1] and not path.exists():
            leftover.replace(path)
        elif match and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif match:
            leftover.unlink(missing_ok=True)


def refuse_unwritable(folder: Path) -> None:
    """Refuses a folder in which no file can be made, or none be filled.

    Raises:
        StorageError: what the disk said.
    """
    with storage(folder), tempfile.TemporaryFile(dir=folder) as probe:  # it has no name
        probe.write(bytes(4096))
        probe.flush()
        os.fsync(probe.fileno())


@contextmanager
def storage(folder: Path, elsewhere: str = "name another folder") -> Iterator[None]:
    """Says what to do when the disk refuses something in `folder`.

    Args:
        elsewhere: what a user does to have it in another folder

    Raises:
        StorageError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if "No space left on device" in reason:  # pyarrow says more, but nothing of use
            reason = "No space left on device"
        place = kept_place(folder)
        raise StorageError(
            f"{place} cannot be written: {reason}{free_space(place)}. Make room there, or "
            f"{elsewhere}."
        ) from error


def kept_place(path: Path) -> Path:
    """Returns a path as its user knows it: the folder in which its temporary folder lies.

    runs/shop/predictions/.tmp-42-scratch/table -> runs/shop/predictions
    """
    names = (name for name, part in enumerate(path.parts) if part.startswith(".tmp-"))
    return path if (first := next(names, None)) is None else Path(*path.parts[:first])


def free_space(folder: Path) -> str:
    for path in (folder, *folder.parents):
        if path.exists():
            return f" ({shutil.disk_usage(path).free / 1e9:.1f} GB free)"
    return ""


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns what is in a JSON file.

    Raises:
        UserError: it is not JSON; the message says where the damage is.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: wanted JSON, found something else ({error}). Copy it again, or "
            f"remove it."
        ) from error
