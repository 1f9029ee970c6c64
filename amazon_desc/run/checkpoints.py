"""Checkpoint files: written whole, proved by a checksum, chosen by step, read without pickle.

In come a trainer's states, out go files `step=00002000.ckpt`. Each is a zip file as torch.save
writes it, whose comment holds the sha256 of all else: `sha256:9f86d0...`. A file that is damaged is
set aside, never deleted and never loaded. What is saved when, and how a run is resumed from it, is
decided in resuming.py.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO

from amazon_desc.run.folder import DAMAGED, RunFolder
from amazon_desc.support.errors import CheckpointError, NotFiniteError, StorageError, UserError
from amazon_desc.support.files import replacing_file, storage
from amazon_desc.support.printing import say
from amazon_desc.training.finite import is_finite

# A zip file ends with the length of its comment, two bytes, little-endian, and the comment.
NO_COMMENT = (0).to_bytes(2, "little")
SEAL = b"sha256:"
SEAL_HEX = 64
SEAL_START = (len(SEAL) + SEAL_HEX).to_bytes(2, "little") + SEAL

BLOCK_BYTES = 2**20

# What torch raises for a file that holds more than tensors and plain values.
UNREADABLE = (RuntimeError, UnpicklingError, EOFError, ValueError, LookupError)

CKPT_PATH_HELP = (
    "checkpoint to read instead of the run's own choice: fit resumes from it, the others use its "
    "weights; `last`: the newest of the run"
)


class SealedCheckpointIO(CheckpointIO):
    """Lightning's way to the functions below; writes in the background, one after the other."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.jobs: list[Future[None]] = []

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Copies a checkpoint, which training may then change, and begins to write it.

        Raises:
            NotFiniteError: a weight or an optimizer's state is none; it is not written.
            StorageError: the one before could not be written.
        """
        self.finish()
        refuse_not_finite(checkpoint)
        self.submit(write_sealed, serialized(checkpoint), Path(path))

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Has something done after the files that were begun before it."""
        self.jobs.append(self.pool.submit(work, *arguments))

    def finish(self) -> None:
        """Waits until all is written, or raises why it could not be."""
        while self.jobs:
            self.jobs.pop(0).result()

    def wait(self) -> None:
        """Waits, and leaves it at that: the run ends for another reason."""
        wait(self.jobs)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def serialized(checkpoint: dict[str, Any]) -> memoryview:
    """Returns the zip file of a checkpoint, without the length of its comment at the end."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getbuffer()[: -len(NO_COMMENT)]


def write_sealed(data: memoryview, path: Path) -> None:
    """Writes what `serialized` gave beside its place, flushes it, reads it back, and renames it.

    Raises:
        StorageError: the disk is full, or does not give back what it was given.
    """
    with storage(path.parent), replacing_file(path) as temporary:
        seal = seal_of(data)
        with temporary.open("wb") as file:
            file.write(data)
            file.write(seal)
            file.flush()
            os.fsync(file.fileno())
            forget_cached(file)
        if not gives_back(temporary, [data, memoryview(seal)]):
            raise StorageError(
                f"{path.parent}: the disk does not give back the checkpoint that was just written "
                f"there. Check that disk, or name another --trainer.default_root_dir."
            )


def seal_of(data: memoryview) -> bytes:
    """Returns the end of a checkpoint file that begins with `data`."""
    digest = hashlib.sha256(data)
    digest.update(NO_COMMENT)
    return SEAL_START + digest.hexdigest().encode()


def gives_back(path: Path, parts: list[memoryview]) -> bool:
    """Says whether a file holds these bytes and no more."""
    with path.open("rb") as file:
        for part in parts:
            for start in range(0, len(part), BLOCK_BYTES):
                block = bytes(part[start : start + BLOCK_BYTES])
                if file.read(len(block)) != block:
                    return False
        return file.read(1) == b""


def forget_cached(file: IO[bytes]) -> None:
    """Has the next read come from the disk, not from memory, where the system can be told so."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # some file systems take no advice
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def refuse_not_finite(checkpoint: dict[str, Any]) -> None:
    """Keeps weights and optimizer states that are not finite out of every checkpoint.

    What callbacks keep is theirs to judge: the best score of one that has seen none is infinite.
    """
    ours = {name: checkpoint.get(name) for name in ("state_dict", "optimizer_states")}
    for name, tensor in tensors_in(ours, ""):
        if tensor.is_floating_point() and not is_finite(tensor):
            raise NotFiniteError(
                f"{name.lstrip('.')} is no longer finite after step "
                f"{checkpoint.get('global_step')}: no checkpoint of it was written. Lower "
                f"--model.optimizer.init_args.lr or --trainer.gradient_clip_val, and start anew in "
                f"another --trainer.default_root_dir."
            )


def tensors_in(value: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    entries = value.items() if isinstance(value, dict) else ()
    entries = enumerate(value) if isinstance(value, (list, tuple)) else entries
    return [found for key, entry in entries for found in tensors_in(entry, f"{name}.{key}")]


def flaw_of(path: Path) -> str | None:
    """Returns what is wrong with a checkpoint file, or None if it is what was written."""
    try:
        with path.open("rb", buffering=0) as file:
            return flaw_in(file)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def flaw_in(file: IO[bytes]) -> str | None:
    num_hashed = max(0, file.seek(0, io.SEEK_END) - len(SEAL_START) - SEAL_HEX)
    file.seek(num_hashed)
    seal = file.read()
    if not seal.startswith(SEAL_START):
        return "it has no checksum at its end, so it is cut short, or no checkpoint of ours"
    file.seek(0)
    digest = sha256_of_next(file, num_hashed)
    digest.update(NO_COMMENT)
    if seal != SEAL_START + digest.hexdigest().encode():
        return "its checksum is not that of its bytes"
    return None


def sha256_of_next(file: Any, num_bytes: int) -> Any:
    """Hashes that many bytes of a file from where it stands, or up to its end."""
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    while num_bytes and (num_read := file.readinto(block[:num_bytes])):
        digest.update(block[:num_read])
        num_bytes -= num_read
    return digest


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU; a file that would need code to load is refused.

    Raises:
        UserError: there is no such file.
        CheckpointError: it is damaged, or none of ours.
    """
    if not path.is_file():
        raise UserError(
            f"--ckpt_path {path}: no such file. Name a file of the run's checkpoints folder."
        )
    checkpoint: Any = None
    try:
        data = path.read_bytes()
        flaw = flaw_in(io.BytesIO(data))
        if flaw is None:
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if not isinstance(checkpoint, dict) or "identity" not in checkpoint:
                flaw = "it was not written by amazon_desc"
    except OSError as error:
        flaw = f"it cannot be read: {error.strerror or error}"
    except UNREADABLE as error:
        flaw = f"it holds more than numbers and plain values ({error})"[:200]
    if flaw:
        raise CheckpointError(
            f"checkpoint {path}: {flaw}. Name another one, or leave --ckpt_path away: fit then "
            f"resumes from the newest one that is intact."
        )
    return checkpoint


def chosen_checkpoint(
    run: RunFolder, asked: str | None, is_fit: bool, sets_aside: bool = True
) -> Path | None:
    """Returns the checkpoint to read: the one asked for, or, for fit, the newest intact one.

    Args:
        sets_aside: a fit gives damaged ones another name: of its processes, the first does

    Raises:
        UserError: `last` is asked for, and there is none.
        CheckpointError: all there are are damaged.
    """
    if is_fit and run.is_finished():
        return None
    if asked != "last" and not (asked is None and is_fit):
        return Path(asked) if asked else None
    newest = newest_intact(run, set_aside=is_fit and sets_aside, say=say)
    if newest is None and not is_fit:
        raise UserError(
            f"--ckpt_path last: there is no checkpoint in {run.checkpoints}. Run fit first, or "
            f"name a checkpoint with --ckpt_path FILE."
        )
    return newest


def newest_intact(run: RunFolder, set_aside: bool, say: Callable[[str], None]) -> Path | None:
    """Returns the intact checkpoint of the highest step, or None for a run that has none yet.

    With `set_aside`, damaged ones of higher steps get another name, under which nothing looks for
    them; only the process that trains in the folder may ask for that.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in run.checkpoint_files():
        flaw = flaw_of(path)
        if flaw is None:
            for other, why in damaged:
                if set_aside:
                    other.replace(other.with_name(other.name + DAMAGED))
                say(f"Checkpoint {other.name} is damaged and not used: {why}.")
            return path
        damaged.append((path, flaw))
    lost = [f"{path} ({flaw})" for path, flaw in damaged]
    lost += [f"{path} (set aside as damaged)" for path in run.damaged_files()]
    if lost:
        raise CheckpointError(
            f"no intact checkpoint to resume from: {'; '.join(lost)}. Copy an intact one back, or "
            f"start anew in another --trainer.default_root_dir; to start anew here, delete "
            f"{run.checkpoints} first."
        )
    return None


def trained_precision(run: RunFolder) -> str | None:
    """Returns the precision that a run was computed in, as an intact checkpoint says it."""
    for path in run.checkpoint_files():
        if flaw_of(path) is None:
            return read_checkpoint(path).get("precision")
    return None


def remove_oldest(run: RunFolder, keep: int, newest: Path) -> None:
    """Deletes all but the `keep` checkpoints of the highest steps, and never the `newest`."""
    for path in run.checkpoint_files()[keep:]:
        if path != newest:
            path.unlink(missing_ok=True)
