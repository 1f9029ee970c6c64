"""Where the titles come from that predict writes for: a file, a stream, or the command line.

In come the options, out go files on the disk that can be read twice, and the name by which their
output and its record know them. What stands in them is not known here.
"""

from __future__ import annotations

import functools
import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.reading.files import standard_input
from amazon_desc.data.reading.files.kinds import SUPPORTED
from amazon_desc.data.reading.files.places import Place, place_of
from amazon_desc.data.reading.files.remote import is_address, shown
from amazon_desc.data.reading.formats import AS_THEY_TELL, Form
from amazon_desc.data.reading.kept import Kept
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.files import storage
from amazon_desc.support.printing import say
from amazon_desc.support.resources import SAMPLE_PRODUCTS

STANDARD_INPUT = "-"
FORMS = ".txt with one title a line, .csv, .tsv, .jsonl, .json, .json.gz or .parquet"
OPTION = "--data.titles"
PIPES = "/dev/fd/"
"""where a shell has what `<(COMMAND)` writes"""


@dataclass(frozen=True)
class TitleSource:
    """What `--data.titles` or `--data.title` names."""

    named: str | None = None
    """None: standard input, or titles that were typed"""
    typed: tuple[str, ...] | None = None
    column: str = "title"
    keep: Kept = "none"
    form: Form = AS_THEY_TELL

    @classmethod
    def of(cls, data: DescriptionData) -> TitleSource:
        """Returns what the options name.

        Raises:
            UserError: they name nothing, or two things.
        """
        if data.title and data.titles is not None:
            raise UserError(
                f"--data.titles {data.titles} and --data.title: wanted one of them, found both. "
                f"Leave one away."
            )
        if data.title:
            return cls(typed=tuple(data.title))
        if data.titles is None:
            raise UserError(
                f"predict needs titles: --data.titles FILE ({FORMS}; - for standard input), or "
                f'--data.title "A TITLE".'
            )
        named = None if data.titles == STANDARD_INPUT else data.titles
        of = data.settings.sources
        return cls(named, None, of.title_column, columns_to_keep(data.keep_columns), of.form)

    @functools.cached_property
    def place(self) -> Place | None:
        """The files that are named; None: it can be read once only, or titles were typed.

        Raises:
            DataError: nothing that can be read has such a name.
        """
        if self.named is None or is_pipe(Path(self.named).expanduser()):
            return None
        if self.named.startswith(PIPES) and not Path(self.named).exists():
            raise DataError(
                f"{OPTION} {self.named} is not open here: a pipe of the shell is there for the "
                f"process that it starts, and not for those that --trainer.devices starts. Write "
                f"`COMMAND | python -m amazon_desc predict {OPTION} -`."
            )
        if self.named == "sample":
            return Place(SAMPLE_PRODUCTS.name, (SAMPLE_PRODUCTS,))
        return place_of(self.named, OPTION, (".txt", *SUPPORTED))

    @property
    def name(self) -> str:
        """What the source is called among others, as a file: titles.csv -> titles.csv"""
        if self.typed is not None:
            return "typed"
        return standard_input.NAME if self.place is None else self.place.name

    @property
    def known_as(self) -> str:
        """What the record of its output calls it: a path or an address as it was named."""
        if self.named is None:
            return self.name
        return shown(self.named) if is_address(self.named) else self.named

    def readable(self, folder: Path) -> tuple[Path, ...]:
        """Returns the files that hold the titles; of a stream, its copy in `folder`.

        Raises:
            DataError: the stream is empty, or there is none.
            StorageError: the disk refused the copy.
        """
        if self.typed is not None:
            lines = "".join(json.dumps({self.column: title}) + "\n" for title in self.typed)
            with storage(folder):
                (folder / "typed.jsonl").write_text(lines, encoding="utf-8")
            return (folder / "typed.jsonl",)
        if self.place is not None:
            for remark in self.place.remarks:
                say(remark)
            return self.place.files
        if self.named is None:
            return (standard_input.copy_stream(stdin(), folder),)
        with Path(self.named).expanduser().open("rb") as stream:
            return (standard_input.copy_stream(stream, folder),)


def is_pipe(file: Path) -> bool:
    """Whether a file can be read once only, as `<(zcat titles.gz)` of a shell."""
    try:
        return stat.S_ISFIFO(file.stat().st_mode)
    except OSError:
        return False


def stdin() -> BinaryIO:
    if sys.stdin is None:
        raise DataError("--data.titles -: wanted standard input, found it closed. Name a file.")
    if sys.stdin.isatty():
        say("Reading titles from the terminal: one a line, Ctrl-D after the last.")
    return sys.stdin.buffer


def columns_to_keep(option: str | list[str]) -> Kept:
    """Returns the columns to keep: "all" -> "all", "sku, price" -> ["sku", "price"]"""
    if option in ("none", "all"):
        return option  # pyright: ignore[reportReturnType]
    return [name.strip() for name in option.split(",")] if isinstance(option, str) else option
