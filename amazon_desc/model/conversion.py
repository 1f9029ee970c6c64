"""Turns weights that are pickled (.bin) into safetensors, once for each base.

In come a base's .bin files, out goes a folder of safetensors with the same numbers, kept beside the
hub's cache. torch reads a pickle with `weights_only=True`, mapped from the disk, and in no other
way: what asks for code is refused, and no tensor is held in memory besides those of one part.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amazon_desc.support.digests import facts_of, remembered_sha256, sha256_of
from amazon_desc.support.errors import StorageError, UserError
from amazon_desc.support.files import (
    free_space,
    remove_leftovers,
    replacing_folder,
    storage,
    write_text,
)
from amazon_desc.support.hub import ANOTHER_DISK, first_line, hub_cache
from amazon_desc.support.layouts import SAFETENSORS_INDEX
from amazon_desc.support.locks import one_at_a_time
from amazon_desc.support.printing import say

if TYPE_CHECKING:
    from torch import Tensor

# Bytes of a file of safetensors: only so much of a pickle is read from the disk at a time.
PART_BYTES = 500_000_000

# The hub names a large file of its cache by the sha256 of its content.
BLOB_NAME = re.compile(r"[0-9a-f]{64}")
CODE = re.compile(r"GLOBAL (\S+)")


def cache_folder() -> Path:
    """Returns the folder that keeps converted weights: beside that of the hub's own cache."""
    return hub_cache().parent / "amazon_desc"


def as_safetensors(files: list[Path], name: str) -> Path:
    """Returns a folder with the weights of .bin files as safetensors; it is made if need be.

    Args:
        files: all .bin files of a base
        name: of the base, to speak of it

    Raises:
        UserError: a file asks for code, is damaged, or holds other things than weights.
        StorageError: there is no room for the folder, or it cannot be written.
    """
    cache = cache_folder()
    with storage(cache, ANOTHER_DISK):
        cache.mkdir(parents=True, exist_ok=True)
        folder = cache / source_digest(files, cache)
        if not folder.is_dir():
            with one_at_a_time(folder, say):
                remove_leftovers(folder)
                if not folder.is_dir():  # another process may just have made it
                    convert(files, name, folder)
    return folder


def source_digest(files: list[Path], cache: Path) -> str:
    """Returns a sha256 of the files: their own, or, of several, that of all of theirs."""
    of_files = [named_sha256(file) or remembered_sha256(file, cache) for file in files]
    if len(of_files) == 1:
        return of_files[0]
    return hashlib.sha256("".join(of_files).encode()).hexdigest()


def named_sha256(file: Path) -> str | None:
    """Returns the sha256 by which the hub's cache names a file, or None for any other file."""
    blob = file.resolve()
    is_named = blob.parent.name == "blobs" and BLOB_NAME.fullmatch(blob.name)
    return blob.name if is_named else None


def convert(files: list[Path], name: str, folder: Path) -> None:
    """Writes the folder, whole or not at all."""
    num_bytes = sum(file.stat().st_size for file in files)
    if shutil.disk_usage(folder.parent).free < num_bytes:
        raise StorageError(
            f"--model.backbone {name}: its weights become safetensors once, which takes "
            f"{num_bytes / 1e9:.2f} GB in {folder.parent}{free_space(folder.parent)}. Make room "
            f"there, or {ANOTHER_DISK}."
        )
    say(
        f"Converting the weights of {name} to safetensors, once: {num_bytes / 1e9:.2f} GB, kept in "
        f"{folder}"
    )
    for file in files:
        refuse_damaged(file, name)
    before = [facts_of(file) for file in files]
    with replacing_folder(folder) as temporary:
        places: dict[str, str] = {}
        for number, part in enumerate(parts(files, name)):
            part_name = f"model-{number:05}.safetensors"
            save_part(files, name, part, temporary / part_name)
            places |= dict.fromkeys(part, part_name)
        index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
        write_text(temporary / SAFETENSORS_INDEX, json.dumps(index, indent=1) + "\n")
        if [facts_of(file) for file in files] != before:
            raise UserError(
                f"--model.backbone {name}: its weights changed while they were read. Wait until "
                f"they are all there, then run the same command again."
            )


def refuse_damaged(file: Path, name: str) -> None:
    """Refuses a file of the hub's cache that is not what its name says; the hub checks its length.

    A bit that is wrong in a pickle's numbers would be read without a word.
    """
    wanted = named_sha256(file)
    if wanted is not None and sha256_of(file) != wanted:
        raise UserError(
            f"--model.backbone {name}: {file.name} was damaged on its way or on the disk: its "
            f"sha256 is not {wanted[:12]}.... Remove {file.resolve()}, and the same command "
            f"fetches it again."
        )


def parts(files: list[Path], name: str) -> Iterator[list[str]]:
    """Yields the names of weights that are written into a file together."""
    part: list[str] = []
    num_bytes = 0
    for file in files:
        for key, tensor in read(file, name).items():
            if part and num_bytes + tensor.nbytes > PART_BYTES:
                yield part
                part, num_bytes = [], 0
            part.append(key)
            num_bytes += tensor.nbytes
    yield part


def save_part(files: list[Path], name: str, keys: list[str], path: Path) -> None:
    """Writes some of the weights. The files are mapped anew for each part: what was read of them
    before would stay in memory.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    wanted = set(keys)
    part: dict[str, Tensor] = {}
    places: set[int] = set()
    for file in files:
        for key, tensor in read(file, name).items():
            if key in wanted:
                # a head that is the embedding is written twice: which of them a model wants is not
                # known here
                storage_place = tensor.untyped_storage().data_ptr()
                is_shared = storage_place in places
                places.add(storage_place)
                dense = torch.contiguous_format
                part[key] = tensor.clone(memory_format=dense) if is_shared else tensor.contiguous()
    try:
        save_file(part, path, metadata={"format": "pt"})
    except SafetensorError as error:  # all that can go wrong here is the disk
        raise OSError(str(error)) from error
    path.chmod(files[0].stat().st_mode | 0o600)  # safetensors lets nobody else read it


def read(file: Path, name: str) -> dict[str, Tensor]:
    """Maps a .bin file: its tensors by name, on the disk until they are looked at.

    Raises:
        UserError: it asks for code, is damaged, or holds other things than tensors.
    """
    import torch

    place = f"--model.backbone {name}: {file.name}"
    try:
        found: Any = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        code = CODE.search(str(error))
        if code is None:
            raise UserError(damaged(place, error)) from None
        raise UserError(
            f"{place} asks to run code when it is read ({code[1]}), which weights never need. "
            f"Nothing of it was run. Name another base, best one with safetensors."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if is_older_than_zip(file):
            raise UserError(
                f"{place} is in a form that torch wrote before version 1.6, which cannot be mapped "
                f"from the disk. Name a base with safetensors, or save these weights anew with a "
                f"current torch."
            ) from None
        raise UserError(damaged(place, error)) from None
    entries = found if isinstance(found, dict) else {}
    others = [key for key, value in entries.items() if not isinstance(value, torch.Tensor)]
    if others or not entries:
        shown = f"{others[0]!r}, which is none" if others else "none"
        raise UserError(
            f"{place}: wanted the weights of a model, tensors by name, found {shown}. Name a base "
            f"that transformers saved."
        )
    return found


def is_older_than_zip(file: Path) -> bool:
    """Whether a file is a bare pickle, as torch wrote them at first."""
    with file.open("rb") as opened:
        return opened.read(1) == pickle.PROTO


def damaged(place: str, error: BaseException) -> str:
    return (
        f"{place} cannot be read ({first_line(error)}): it is damaged or cut short. Copy or "
        f"download it again."
    )
