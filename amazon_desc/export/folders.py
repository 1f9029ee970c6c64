"""The folder of an export: whole under its name or not there, and known by what it was made of.

In come a name, what the export is made of and a function that writes its files; out goes a folder
with them and `export.json`, its manifest: what it is, and each file's size and sha256. Nothing
else's folder is ever replaced. What is in the files is the business of those who write them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import StorageError, UserError
from amazon_desc.support.files import (
    empty_folder_removed,
    read_json,
    remove_leftovers,
    replacing_folder,
    storage,
    write_text,
)
from amazon_desc.support.locks import alone

MANIFEST = "export.json"
FORMAT = "amazon_desc export 1"

# What a file system takes for itself, and small files beside the weights.
SPARE_BYTES = 16 * 2**20

ELSEWHERE = "name another --output"


class Contents(NamedTuple):
    """What an export will hold."""

    num_bytes: int
    """of all that is large in it"""
    write: Callable[[Path], None]
    """fills an empty folder"""


def write_export(
    folder: Path,
    made_of: Mapping[str, Any],
    plan: Callable[[], Contents],
    *,
    overwrite: bool = False,
) -> bool:
    """Fills a folder, which then gets its name; False: it is there already, and whole.

    Args:
        made_of: what decides the files, as plain values: the same is not written twice
        plan: says what will be written; asked only where something is
        overwrite: whether another export of that name may go, once this one is whole

    Raises:
        UserError: something else has that name.
        StorageError: there is no room, or the disk refuses.
        InUseError: another process writes there.
    """
    folder = folder.absolute()
    with (
        storage(folder.parent, ELSEWHERE),
        nullcontext() if folder.parent.exists() else empty_folder_removed(folder.parent),
        alone(folder, "written"),
    ):
        remove_leftovers(folder)
        if is_there(folder, made_of, overwrite):
            return False
        contents = plan()
        refuse_without_room(folder, contents.num_bytes)
        with replacing_folder(folder) as temporary:
            contents.write(temporary)
            write_manifest(temporary, made_of)
    return True


def is_there(folder: Path, made_of: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether a folder is this very export; refuses what may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"--output {folder}: wanted a new name, or a folder that export has written; found "
            f"something else there, which is never replaced. Name another --output, or move it."
        )
    strangers = {name_in(folder, path) for path in files_in(folder)} - {*manifest["files"]}
    if strangers := sorted(strangers - {MANIFEST}):
        raise UserError(
            f"--output {folder}: wanted an export alone, found files of somebody else in it "
            f"(first: {strangers[0]}), which would go with it. Move them, or name another --output."
        )
    if (flaw := flaw_of(folder, manifest)) is None and manifest["made_of"] == plain(made_of):
        return True
    if not overwrite:
        raise UserError(
            f"--output {folder}: wanted a new name, found {difference(flaw, manifest, made_of)}. "
            f"Name another --output, or replace it with --overwrite."
        )
    return False


def difference(flaw: str | None, manifest: dict[str, Any], made_of: Mapping[str, Any]) -> str:
    if flaw is not None:
        return f"an export that was changed since ({flaw})"
    before, now = manifest["made_of"], plain(made_of)
    changed = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    return f"another export there (its {', '.join(changed)} differs)"


def refuse_without_room(folder: Path, num_bytes: int) -> None:
    """Refuses before the first byte: a merged model takes minutes to be written."""
    free, wanted = shutil.disk_usage(folder.parent).free, num_bytes + SPARE_BYTES
    if free < wanted:
        raise StorageError(
            f"--output {folder}: wanted {size(wanted)} of free disk ({wanted:,} bytes), found "
            f"{size(free)} ({free:,} bytes). Make room there, or name an --output on another disk."
        )


def size(num_bytes: int) -> str:
    """629,744 -> "0.6 MB"; 2,200,000,000 -> "2.20 GB" """
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


# Manifests


def write_manifest(folder: Path, made_of: Mapping[str, Any]) -> None:
    files = {
        name_in(folder, path): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files_in(folder)
    }
    manifest = {"format": FORMAT, "made_of": plain(made_of), "files": files}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of an export's folder; None: it is none."""
    file = folder / MANIFEST
    if not folder.is_dir() or not file.is_file():
        return None
    manifest = read_json(file)
    is_ours = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    return manifest if is_ours else None


def flaw_of(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Returns in what a folder is no longer what its manifest says; None: it is."""
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != wanted["bytes"]:
            return f"{name} has {found:,} bytes, wanted {wanted['bytes']:,}"
        if sha256_of(path) != wanted["sha256"]:
            return f"{name} has other bytes"
    return None


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def name_in(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as JSON gives them back."""
    return json.loads(json.dumps(dict(values)))


def size_of(folder: Path) -> int:
    """Returns how many bytes the files of a folder have together."""
    return sum(path.stat().st_size for path in files_in(folder))
