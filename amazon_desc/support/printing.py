"""What is said on the terminal: text that cannot steer it, and nothing secret.

In comes any text, of products and file names too, out goes printable text, line by line. A terminal
that knows fewer characters, or is gone, ends no command.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from amazon_desc.support.ranks import here
from amazon_desc.support.secrets import masked

# What a terminal answers that was closed, and a pipe whose reader has ended.
NOBODY_THERE = (errno.EIO, errno.EPIPE)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a text, on stdout unless told otherwise; what is secret is left out.

    Of several processes of a command the first alone prints on stdout.
    """
    if file is None and not here().is_first:
        return
    stream = file or sys.stdout
    try:
        print("\n".join(map(printable, masked(text).split("\n"))), file=stream, flush=True)
    except OSError as error:
        if error.errno not in NOBODY_THERE:
            raise
        drop(stream)


def drop(stream: TextIO) -> None:
    """Has what is still printed there go nowhere: a progress bar's next line would end the run."""
    with suppress(OSError, ValueError):
        there = os.fstat(stream.fileno())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (stream.fileno(), 1, 2):  # as `2>&1 | head` has both in one pipe
            if os.path.samestat(os.fstat(number), there):
                os.dup2(nowhere, number)
        os.close(nowhere)


def printable(text: str) -> str:
    """Returns one line: white space becomes a space, what is not printable is spelled out.

    "Mug\\x1b[2J\\nred" -> "Mug\\\\x1b[2J red"
    """
    return "".join(map(shown, text))


def shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


def spell_out_what_is_not_encoded() -> None:
    """Has stdout and stderr write \\xe7 for a letter that the terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints what sys.excepthook does, without what is secret."""
    lines = traceback.format_exception(kind, error, trace)
    with suppress(OSError):
        sys.stderr.write(masked("".join(lines)))
