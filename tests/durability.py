"""A stand-in of a disk: what is flushed of a file, and of its folder, when it is given its name.

In come the calls of fsync and rename that a program makes, out go the files and folders that a
power cut could leave torn, or could take the name from again.
"""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

Inode = tuple[int, int]


def inode_of(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


class Disk:
    """Sees what happens below a folder from `watch` on.

    A file has to be flushed after its last byte was written, a folder after all in it, before
    either is given a name that is kept; and then the folder that holds the name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.placed: list[Path] = []
        """what was given a name that is kept, in this order"""
        self.faults: list[str] = []
        self.flushed: dict[Inode, Any] = {}
        """of files size and time of the last byte, of folders the names in them"""
        self.pending: dict[Inode, list[Path]] = {}
        """what was named in a folder that was not flushed since"""

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        fsync, replace = os.fsync, os.replace

        def flush(descriptor: int) -> None:
            fsync(descriptor)
            self.flush(descriptor)

        def rename(source: Any, target: Any, **named: Any) -> None:
            is_ours = Path(target).is_relative_to(self.root)
            if is_ours:
                self.before_rename(Path(source), Path(target))
            replace(source, target, **named)
            if is_ours:
                self.after_rename(Path(target))

        patch.setattr(os, "fsync", flush)
        patch.setattr(os, "replace", rename)
        patch.setattr(os, "rename", rename)

    def flush(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        inode = inode_of(status)
        if stat.S_ISDIR(status.st_mode):
            self.flushed[inode] = sorted(os.listdir(descriptor))
            self.pending.pop(inode, None)
        else:
            self.flushed[inode] = (status.st_size, status.st_mtime_ns)

    def has(self, path: Path) -> bool:
        """Says whether what is in a file now is on the disk."""
        status = path.stat()
        return self.flushed.get(inode_of(status)) == (status.st_size, status.st_mtime_ns)

    def has_folder(self, path: Path) -> bool:
        """Says whether the names in a folder are on the disk."""
        return self.flushed.get(inode_of(path.stat())) == sorted(os.listdir(path))

    def before_rename(self, source: Path, target: Path) -> None:
        if is_moved_aside(target):
            return
        inside = sorted(source.rglob("*")) if source.is_dir() else []
        for path in (source, *inside):
            if not (self.has_folder(path) if path.is_dir() else self.has(path)):
                name = self.name(target / path.relative_to(source))
                self.faults.append(f"{name} was not flushed before the rename")
        self.note_pending(target.parent)

    def after_rename(self, target: Path) -> None:
        if not is_moved_aside(target):
            self.placed.append(target)
            self.pending.setdefault(inode_of(target.parent.stat()), []).append(target)

    def note_pending(self, folder: Path) -> None:
        for path in self.pending.pop(inode_of(folder.stat()), []):
            self.faults.append(f"the folder of {self.name(path)} was not flushed after the rename")

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def all_faults(self) -> list[str]:
        """Returns all that was seen, to be asked when the program has ended."""
        for paths in list(self.pending.values()):
            for path in paths:
                self.note_pending(path.parent)
        return self.faults

    def unplaced(self) -> list[str]:
        """Returns the files that are there without a rename of them, or of a folder they are in."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(
            self.name(path) for path in files if not {path, *path.parents} & set(self.placed)
        )


def is_moved_aside(path: Path) -> bool:
    return path.name.startswith(".tmp-old-")
