"""What a file is, by its content: size and sha256, computed once for a file that does not change.

In come files, out go their descriptions. What was computed is remembered in a small file beside the
prepared data, by path, size and time; a copy under another path or time is read once more, and
turns out to be the same.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from amazon_desc.support.errors import DataError
from amazon_desc.support.files import write_text

# When a file's sha256 is computed again: if its size or time has changed, or at every start.
Verify = Literal["changed", "always"]
Use = Literal["train", "test"]

KNOWN_FILES = "known_files.json"
KEPT = ("path", "bytes", "mtime_ns", "sha256")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path, use: Use, known_files: Path, verify: Verify) -> dict[str, Any]:
    """Returns use, path, size in bytes, time and sha256 of a file of products.

    Raises:
        DataError: there is no such file.
    """
    check_is_file(path, use)
    facts = facts_of(path)
    sha256 = known_sha256(facts, known_files)
    if sha256 is None or verify == "always":
        try:
            sha256 = sha256_of(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}. Check the file.") from error
    return {"use": use, **facts, "sha256": sha256}


def remembered_sha256(path: Path, folder: Path) -> str:
    """Returns the sha256 of a file of any kind, computed once and then remembered in `folder`."""
    facts, known_files = facts_of(path), folder / KNOWN_FILES
    sha256 = known_sha256(facts, known_files) or sha256_of(path)
    remember([{**facts, "sha256": sha256}], known_files)
    return sha256


def refuse_replaced(files: Sequence[dict[str, Any]], known_files: Path) -> None:
    """Refuses files that are no more what describe_file found, once they have been read.

    What was read of them would be kept under the name of what they were before.

    Raises:
        DataError: one was replaced or removed meanwhile.
    """
    for file in files:
        path, place = Path(file["path"]), f"--data.{file['use']}_file {file['path']}"
        try:
            sha256, facts = sha256_of(path), facts_of(path)
        except OSError as error:
            raise DataError(
                f"{place} could not be read again after it was read: {error}. Put it back, and run "
                f"the same command again."
            ) from error
        if sha256 != file["sha256"]:
            remember([{**facts, "sha256": sha256}], known_files)  # so that it is known next time
            raise DataError(
                f"{place} was replaced while it was read: wanted sha256 {file['sha256'][:12]}, "
                f"found {sha256[:12]}. When it is whole, run the same command again."
            )


def facts_of(path: Path) -> dict[str, Any]:
    """Returns what a file that has not changed still has."""
    stat = path.stat()
    return {"path": str(path.absolute()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def known_sha256(facts: dict[str, Any], known_files: Path) -> str | None:
    known = read_known(known_files)
    return next((k["sha256"] for k in known if facts.items() <= k.items()), None)


def remember(files: list[dict[str, Any]], known_files: Path) -> None:
    """Keeps what describe_file found out, so that it need not be computed again."""
    found = [{name: file[name] for name in KEPT} for file in files]
    known = read_known(known_files)
    if any(file not in known for file in found):
        paths = {file["path"] for file in found}
        others = [k for k in known if k["path"] not in paths]
        write_text(known_files, json.dumps([*others, *found], indent=1) + "\n")


def read_known(known_files: Path) -> list[dict[str, Any]]:
    """Returns what was computed before; a file that is missing or damaged costs only time."""
    try:
        known = json.loads(known_files.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    if not isinstance(known, list):
        return []
    return [k for k in known if isinstance(k, dict) and set(KEPT) <= k.keys()]


def check_is_file(path: Path, use: Use) -> None:
    option = f"--data.{use}_file"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass  # there is no such file
    except OSError as error:
        raise DataError(f"{option} {path} cannot be read: {error}. Name another file.") from error
    if path.is_dir():
        raise DataError(
            f"{option} {path}: wanted a file of products, found a directory. Name the "
            f"file in it (for example trn.json.gz)."
        )
    if not path.exists():
        raise DataError(
            f"{option} {path}: no such file (looked for {path.absolute()}). Name a file "
            f"of products, or `sample` for the invented ones that ship with the package."
        )
