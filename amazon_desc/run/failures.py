"""What went wrong -> a sentence and an exit code, or a traceback where it is our own mistake.

In comes an exception, out goes one that tells the user what to mend, if the user can. This is the
one place that knows what torch, Lightning and the system call their troubles.
"""

from __future__ import annotations

import errno
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from amazon_desc.run.launching import leave_word
from amazon_desc.support.errors import (
    Interrupted,
    OutOfMemoryError,
    PeerLostError,
    StorageError,
    UserError,
)
from amazon_desc.support.files import free_space
from amazon_desc.support.printing import say
from amazon_desc.support.ranks import here, is_answered_for
from amazon_desc.support.signals import Signals

# What a disk that is full, read-only, broken or forbidden answers.
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
)

# What jsonargparse says of a class that an option names, and of one of several or in a list.
CLASS_NOT_MADE = (
    re.compile(r"Problem with given class_path '(?P<name>[^']+)':\s*(?P<reason>.+)"),
    re.compile(r"Union subtypes.*?- (?P<reason>.+?)\n.*class_path='(?P<name>[^']+)'", re.DOTALL),
)

LOADERS = "torch.utils.data.dataloader"

SCORES_NEED_LESS = "Lower --data.batch_size, or --data.generation_batch_size if texts are written."
LESS_MEMORY = {
    "fit": "Lower --data.batch_size to a smaller divisor of --data.rows_per_step: the optimizer "
    "steps stay the same, and the same command resumes from the last checkpoint. If it is 1 "
    "already, try --model.recompute layers, or start anew with a lower --data.row_tokens. For the "
    "texts that are written in between, lower --data.generation_batch_size.",
    "validate": SCORES_NEED_LESS,
    "test": SCORES_NEED_LESS,
    "predict": "Lower --data.generation_batch_size: the same command resumes after the titles "
    "that are done.",
}


@contextmanager
def errors_in_a_sentence(arguments: list[str], program: str) -> Iterator[Signals]:
    """Leaves with the exit code of what the user can mend, which is said without a traceback.

    Inside of it, signals that ask to leave are taken by the Signals that it yields.
    """
    signals = Signals()
    try:
        with signals.handled():
            yield signals
    except Interrupted as interrupted:
        leave(interrupted)
    except BaseException as error:
        # what was to be saved before it leaves
        is_lost = isinstance(error, StorageError) or is_from_lost_peer(error)
        if signals.received is not None and not is_lost:
            leave(signals.received)
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise
        mended = as_user_error(error, arguments)
        if mended is not None:
            leave_word(mended)
            if not is_answered_for():
                place = here()
                name = "" if place.is_first else f" {place.named()}:"
                say(f"amazon_desc:{name} {mended}", file=sys.stderr)
            sys.exit(mended.exit_code)
        if isinstance(error, (ArgumentError, MisconfigurationException)):
            sys.exit(report_options(error, arguments, program))
        raise


def leave(interrupted: Interrupted) -> None:
    leave_word(interrupted)
    if here().is_first and not is_answered_for():
        say(
            f"amazon_desc: stopped by {interrupted.why}. The same command resumes from here.",
            file=sys.stderr,
        )
    sys.exit(interrupted.exit_code)


def as_user_error(error: BaseException, arguments: list[str]) -> UserError | None:
    """Returns what a user can mend of an error: it may be its cause, or be of a library's."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return cause
    if not isinstance(error, ArgumentError) and (unmade := class_not_made(error)) is not None:
        return unmade
    text = str(error)
    if is_out_of_memory(error):
        command = next((name for name in LESS_MEMORY if name in arguments[:1]), "predict")
        return OutOfMemoryError(f"out of memory ({first_words(text)}). {LESS_MEMORY[command]}")
    if text.startswith("DataLoader worker") or is_from_dead_loader(error):
        return OutOfMemoryError(
            f"a process that loads batches died ({first_words(text)}), most likely for lack of "
            f"memory. Lower --data.num_workers; the same command resumes from the last checkpoint."
        )
    if text.startswith("DataLoader timed out"):
        return StorageError(
            f"a process that loads batches hangs ({first_words(text)}): the disk with the prepared "
            f"data (--data.corpora) does not answer. The same command resumes from the last "
            f"checkpoint."
        )
    if is_from_lost_peer(error):
        return PeerLostError(
            f"another process of this command has ended or does not answer ({first_words(text)}). "
            f"Look at what it said; the same command resumes from the last checkpoint."
        )
    if isinstance(error, BrokenPipeError):
        return StorageError(
            "what is printed cannot be written: the program that reads it has ended. The same "
            "command goes on; to keep it in a file, write `> log.txt 2>&1` after it."
        )
    if isinstance(error, OSError) and error.errno in REFUSALS:
        room = free_space(Path(error.filename)) if isinstance(error.filename, str) else ""
        return StorageError(
            f"{error.filename or 'a file'} cannot be written or read: {error.strerror}{room}. Make "
            f"room there, or name another --trainer.default_root_dir."
        )
    return None


def class_not_made(error: BaseException) -> UserError | None:
    """Returns what to say where an option names a class that cannot be made of its arguments."""
    cause: BaseException | None = error
    while cause is not None:
        matches = (pattern.search(str(cause)) for pattern in CLASS_NOT_MADE)
        if match := next(filter(None, matches), None):
            return UserError(
                f"{match['name']}: wanted a class that can be made with these arguments, found: "
                f"{first_words(match['reason'])}. Install what it needs, give other arguments, or "
                f"leave it away."
            )
        cause = cause.__cause__ or cause.__context__
    return None


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_from_lost_peer(error: BaseException) -> bool:
    """Whether processes that compute together have lost each other."""
    is_named = isinstance(error, RuntimeError) and "gloo" in str(error)
    return is_named or isinstance(error, torch.distributed.DistError)


def is_from_dead_loader(error: BaseException) -> bool:
    """Whether a process that loads batches died while one was being handed over."""
    if not isinstance(error, (ConnectionError, EOFError)):
        return False
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == LOADERS for frame in frames)


def first_words(text: str) -> str:
    return " ".join(text.split())[:200]


def report_options(error: Exception, arguments: list[str], program: str) -> int:
    """Says what the parser or Lightning refused, and returns the exit code."""
    message = str(error).strip()
    if message.startswith(("Problems parsing config", "Unexpected config")):
        # the parser does not say which file it read
        message = f"{' '.join(arguments)}: wanted a config in YAML, options by name. {message}"
    say(f"amazon_desc: {message}", file=sys.stderr)
    say(f"All options: {program} --help", file=sys.stderr)
    return UserError.exit_code
