"""What a user names -> the files to read, in a stated order.

In comes a path, a folder, a pattern such as exports/*.csv, the address of a file on the network or
the name of a data set on the hub; out go files on the disk, by their names with numbers in order,
and what is to be said of them. What lies on the network is fetched by remote.py; what is in a file
is not known here.
"""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from amazon_desc.data.reading.files import remote
from amazon_desc.data.reading.files.kinds import table_of, text_suffix
from amazon_desc.data.reading.files.packing import packing_of, without_packing
from amazon_desc.data.reading.files.sources import start_of
from amazon_desc.support.errors import DataError

# What Spark and others put beside their files begins with one of these.
_HIDDEN = (".", "_")
_NOT_DATA = ("__MACOSX", "Thumbs.db")
_PART = re.compile(r"part-\d+")
_JSON_NAMES = (".json", ".jsonl", ".ndjson")


class Place(NamedTuple):
    """The files that one name stands for."""

    name: str
    """what it is called among others: exports for exports/*.csv"""
    files: tuple[Path, ...]
    remarks: tuple[str, ...] = ()
    """how it was understood"""


def place_of(named: str, option: str, supported: Sequence[str], split: str = "train") -> Place:
    """Returns the files that an option names; of a file that is not there, that name alone.

    Args:
        option: `--data.train_file`, for refusals
        supported: the suffixes that may be read
        split: which part of a data set is meant, where it has parts

        shop.csv      -> shop.csv
        exports/      -> exports/part-2.csv, exports/part-10.csv
        exports/*.csv -> the same
        owner/name    -> the files of the hub's data set, once it was fetched

    Raises:
        DataError: nothing is there that can be read, or more than one kind of it; by name what the
            network refused.
    """
    if named.startswith("file://"):
        named = named.removeprefix("file://")
    if remote.is_address(named):
        return _fetched(named, option, supported, split)
    path = Path(named).expanduser()
    if _is_there(path):
        return (
            _folder(path, option, supported, split) if path.is_dir() else Place(path.name, (path,))
        )
    if glob.has_magic(named):
        return _pattern(str(path), option, supported)
    if remote.is_data_set(named, supported):
        files = remote.fetched_data_set(named, option, split)
        said = f"{named} is the data set of that name on the hub: its split {split} is read."
        return Place(named.replace("/", "--"), files, (said,))
    return Place(path.name, (path,))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # whoever opens it says why
        return False


def in_order(names: Sequence[str]) -> list[str]:
    """Returns names in their order, of numbers by what they count: part-2 before part-10."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"([0-9]+)", name)
        return [
            (int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts
        ], name

    return sorted(names, key=key)


# Folders


def _folder(folder: Path, option: str, supported: Sequence[str], split: str) -> Place:
    if (folder / "dataset_dict.json").is_file():
        return _saved_parts(folder, option, split)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _saved(folder, option)
    if (folder / "_delta_log").is_dir():
        raise DataError(
            f"{option} {folder} is a Delta table, in which files of former versions lie too. Write "
            f"its rows as Parquet: deltalake.DeltaTable({str(folder)!r}).to_pandas().to_parquet(..)"
        )
    names = in_order(list(_names_in(folder)))
    place = _chosen(folder, str(folder), [folder / name for name in names], option, supported)
    folders = {folder, *(path.parent for path in place.files)}
    is_spark = any(_PART.match(path.name) for path in place.files)
    if is_spark and not any((of / "_SUCCESS").exists() for of in folders):
        said = f"{folder} has no _SUCCESS: if Spark wrote it, it may not have written all of it."
        return place._replace(remarks=(*place.remarks, said))
    return place


def _names_in(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            if not _is_hidden(name) and not name.endswith((".crc", ".md5", ".sha256")):
                yield PurePath(root, name).relative_to(folder).as_posix()


def _is_hidden(name: str) -> bool:
    return name.startswith(_HIDDEN) or name in _NOT_DATA


def _chosen(
    folder: Path, named: str, paths: Sequence[Path], option: str, supported: Sequence[str]
) -> Place:
    """The files of the one kind that can be read, in their order."""
    kinds = [_kind_of(path, supported) for path in paths]
    counts = Counter(filter(None, kinds))
    if len(counts) > 1:
        counts.pop(".txt", None)  # a note beside the files
    if len(counts) > 1:
        found = " and ".join(f"{number} × {kind}" for kind, number in counts.most_common())
        first = counts.most_common(1)[0][0]
        raise DataError(
            f"{option} {named}: wanted files of one kind, found {found}. Name those that are "
            f"meant, as in '{folder}/*{first}'."
        )
    if not counts:
        there = in_order([path.name for path in paths])[:5]
        raise DataError(
            f"{option} {named}: wanted files to read in it (one of {', '.join(supported)}), found "
            f"{', '.join(there) or 'none'}. Name the file or folder that is meant."
        )
    (kind,) = counts
    files = tuple(path for path, of in zip(paths, kinds, strict=True) if of == kind)
    said = f"{named}: {files[0].name} is read."
    if len(files) > 1:
        said = (
            f"{named}: {len(files):,} files ({kind}) are read in the order of their names, "
            f"{files[0].name} to {files[-1].name}."
        )
    if left := len(paths) - len(files):
        said += f" Left out: {left:,} of other kinds."
    return Place(folder.resolve().name or "files", files, (said,))


def _kind_of(path: Path, supported: Sequence[str]) -> str | None:
    plain = without_packing(path.name)
    suffix = next((suffix for suffix in supported if plain.endswith(suffix)), None)
    if suffix is None and ("." not in path.name or _PART.match(path.name)):
        start = start_of(path)
        suffix = table_of(path.name, start) or text_suffix(path.name, start)
        if suffix is None and packing_of(start):
            suffix = ".json"  # its reader tells
    return ".json" if suffix in _JSON_NAMES else suffix


def _saved(folder: Path, option: str) -> Place:
    """What `datasets` wrote with save_to_disk: state.json names its files in their order."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{option} {folder}: its state.json is damaged ({error}): wanted what save_to_disk of "
            f"`datasets` writes. Save it again."
        ) from error
    files = [folder / PurePath(name).name for name in names]
    if missing := [path.name for path in files if not path.is_file()]:
        raise DataError(
            f"{option} {folder}: wanted the files that its state.json names, and "
            f"{', '.join(missing[:3])} is not there. Copy the folder again."
        )
    said = f"{folder} is what save_to_disk of `datasets` wrote: {len(files):,} files are read."
    return Place(folder.name, tuple(files), (said,))


def _saved_parts(folder: Path, option: str, split: str) -> Place:
    try:
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, TypeError):
        names = [path.parent.name for path in sorted(folder.glob("*/state.json"))]
    chosen = split if split in names else names[0] if len(names) == 1 else None
    if chosen is None:
        raise DataError(
            f"{option} {folder}: wanted the split {split}, found {', '.join(names) or 'none'}. "
            f"Name the folder of one, as in {folder / (names[0] if names else 'train')}."
        )
    place = _saved(folder / chosen, option)
    said = f"{folder} holds the splits {', '.join(names)}: {chosen} is read."
    return Place(folder.name, place.files, (said, *place.remarks))


# Patterns, and what lies elsewhere


def _pattern(pattern: str, option: str, supported: Sequence[str]) -> Place:
    found = [Path(name) for name in in_order(glob.glob(pattern, recursive=True))]
    paths: list[Path] = []
    for path in found:
        if path.is_dir() and not pattern.endswith("**"):
            paths += [path / name for name in in_order(list(_names_in(path)))]
        elif path.is_file():
            paths.append(path)
    if not paths:
        raise DataError(
            f"{option} {pattern}: no file has such a name (a relative one starts at {Path.cwd()}). "
            f"Check the pattern, and put it in quotes."
        )
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    folder = Path(fixed) if fixed.endswith("/") else Path(fixed).parent
    return _chosen(folder, pattern, list(dict.fromkeys(paths)), option, supported)


def _fetched(address: str, option: str, supported: Sequence[str], split: str) -> Place:
    if remote.is_folder(address, option):
        names = [name for name in remote.names_in(address, option) if _is_fetched(name)]
        folder = remote.fetched(in_order(names), address, option)
        place = _folder(folder, option, supported, split)
        said = [of.replace(str(folder), remote.shown(address)) for of in place.remarks]
        return place._replace(remarks=tuple(said))
    path = remote.fetched_file(address, option)
    return Place(path.name, (path,))


def _is_fetched(name: str) -> bool:
    parts = PurePath(name).parts
    return not any(_is_hidden(part) for part in parts) or parts[-1] == "_SUCCESS"
