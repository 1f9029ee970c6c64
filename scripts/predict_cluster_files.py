"""Where predict_cluster.py reads titles and writes parts: a folder here, or one of an object store.

In come paths and addresses that fsspec knows, out go the files of titles in their order, and a
folder of parts. A part has its name only when it is whole: it is written under another one, in a
folder that readers pass over, and moved. What a part holds is not known here.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from amazon_desc.data.reading.files.packing import without_packing
from amazon_desc.data.reading.files.places import in_order
from amazon_desc.data.reading.files.remote import is_address, shown
from amazon_desc.support.errors import DataError, UserError

FORMS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
UNFINISHED = "_unfinished"  # what begins with `_` no reader of a folder takes for data


class Titles(NamedTuple):
    """The files of titles."""

    form: str
    names: list[str]
    """as they are known in their folder, in their order"""
    addresses: list[str]
    """where each of them lies"""


def absolute(named: str) -> str:
    """Returns a path as every process knows it; an address as it is."""
    return named if is_address(named) else str(Path(named).expanduser().absolute())


def reached(address: str, option: str) -> tuple[Any, str]:
    """Returns the file system of an address, and the path on it.

    Raises:
        UserError: nothing drives such addresses here.
    """
    try:
        files, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{option} {shown(address)}: wanted a path, or an address that fsspec can reach here, "
            f"found: {' '.join(str(error).split())}. Install what it names on every machine."
        ) from error
    return files, str(path)


def found_titles(named: str) -> Titles:
    """Returns the files that a folder, a pattern or a name stands for.

    Their order is that in which `predict` reads a folder: by names, of numbers by what they count.

        shop/part-10.jsonl, shop/part-2.jsonl, shop/_SUCCESS -> part-2.jsonl, part-10.jsonl

    Raises:
        DataError: there are none, or both Parquet and JSON Lines.
    """
    files, path = reached(absolute(named), "--titles")
    if fsspec.core.has_magic(path):
        fixed = PurePosixPath(path[: min(path.find(c) for c in "*?[" if c in path)] + "x").parent
        root, paths = str(fixed), [p for p in files.glob(path) if files.isfile(p)]
    elif files.isfile(path):
        root, paths = str(PurePosixPath(path).parent), [path]
    else:
        root, paths = path, files.find(path)
    names = in_order([str(p).removeprefix(root).lstrip("/") for p in paths])
    names = [n for n in names if not any(part[:1] in "_." for part in n.split("/"))]
    forms = {name: FORMS.get(PurePosixPath(without_packing(name)).suffix) for name in names}
    kinds = sorted({form for form in forms.values() if form})
    if len(kinds) != 1:
        there = " and ".join(kinds) or ", ".join(names[:5]) or "nothing"
        raise DataError(
            f"--titles {shown_place(named)}: wanted files of one kind, Parquet (.parquet) or JSON "
            f"Lines (.jsonl), found {there}. Name those that are meant, as in 'FOLDER/*.parquet'."
        )
    names = [name for name, form in forms.items() if form]
    addresses = [files.unstrip_protocol(f"{root.rstrip('/')}/{name}") for name in names]
    return Titles(kinds[0], names, addresses)


def shown_place(named: str) -> str:
    return shown(named) if is_address(named) else named


@contextmanager
def on_disk(address: str) -> Iterator[Path]:
    """Yields a file on this machine's disk: itself, or a copy for as long as it is read."""
    files, path = reached(address, "--titles")
    if isinstance(files, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="amazon_desc-") as folder:
        copy = Path(folder, PurePosixPath(path).name)
        files.get_file(path, str(copy))
        yield copy


class Parts:
    """A folder of parts, with what is known of them.

        part-000000000000-1f6a0c9e.jsonl   records from the first of all on, and by which command
        _settings.json                     what it is made with
        _writer                            the command that may add to it: the one that came last
        _unfinished/                       parts that are being written
        _summary.json, _SUCCESS            all parts are there

    Args:
        named: its path or address
    """

    def __init__(self, named: str) -> None:
        self.named = named
        self.files, path = reached(absolute(named), "--output")
        self.root = path.rstrip("/")

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self) -> list[str]:
        """Returns what is in the folder, but for folders in it."""
        self.files.invalidate_cache()
        if not self.files.isdir(self.root):
            return []
        found = self.files.ls(self.root, detail=True)
        return sorted(PurePosixPath(f["name"]).name for f in found if f["type"] == "file")

    def whole(self) -> list[str]:
        """Returns the names of all parts that are there."""
        return [name for name in self.names() if name.startswith("part-")]

    def read(self, name: str) -> bytes | None:
        """Returns what is in a file; None: there is none."""
        self.files.invalidate_cache()
        try:
            return self.files.cat_file(self.path(name))
        except FileNotFoundError:
            return None

    def read_json(self, name: str) -> Any:
        """Returns what is in a file of JSON; None: there is none, or something else in it."""
        try:
            return json.loads(self.read(name) or b"null")
        except ValueError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file that is whole or not there."""
        self.write_unfinished(f"{name}.{os.getpid()}", data)
        self.finish(f"{name}.{os.getpid()}", name)

    def write_unfinished(self, name: str, data: bytes) -> None:
        self.files.makedirs(self.path(UNFINISHED), exist_ok=True)
        with self.files.open(self.path(f"{UNFINISHED}/{name}"), "wb") as file:
            file.write(data)
            if isinstance(self.files, LocalFileSystem):  # a store has it when it is closed
                file.flush()
                os.fsync(file.fileno())

    def finish(self, unfinished: str, name: str) -> None:
        """Gives what was written its name."""
        self.files.mv(self.path(f"{UNFINISHED}/{unfinished}"), self.path(name))

    def remove(self, name: str) -> None:
        if self.files.exists(self.path(name)):
            self.files.rm(self.path(name), recursive=True)
