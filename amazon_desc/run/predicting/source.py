"""Where the titles come from that predict writes for: a file, a stream, or the command line.

In come the options, out goes a file on the disk that can be read twice, and the name by which its
output and its record know it. What stands in it is not known here.
"""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from amazon_desc.data.corpus.product_files import source_path
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.reading import standard_input
from amazon_desc.data.reading.formats import AS_THEY_TELL, Form
from amazon_desc.data.reading.kept import Kept
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.files import storage
from amazon_desc.support.printing import say

STANDARD_INPUT = "-"
FORMS = ".txt with one title a line, .csv, .tsv, .jsonl, .json, .json.gz or .parquet"


@dataclass(frozen=True)
class TitleSource:
    """What `--data.titles` or `--data.title` names."""

    file: Path | None = None
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
        file = None if data.titles == STANDARD_INPUT else source_path(data.titles)
        of = data.settings.sources
        return cls(file, None, of.title_column, columns_to_keep(data.keep_columns), of.form)

    @property
    def name(self) -> str:
        """What the source is called among others, as a file: titles.csv -> titles.csv"""
        if self.typed is not None:
            return "typed"
        is_stream = self.file is None or is_pipe(self.file)
        return standard_input.NAME if is_stream else self.file.name  # pyright: ignore

    def readable(self, folder: Path) -> Path:
        """Returns the file that holds the titles; of a stream, its copy in `folder`.

        Raises:
            DataError: the stream is empty, or there is none.
            StorageError: the disk refused the copy.
        """
        if self.typed is not None:
            lines = "".join(json.dumps({self.column: title}) + "\n" for title in self.typed)
            with storage(folder):
                (folder / "typed.jsonl").write_text(lines, encoding="utf-8")
            return folder / "typed.jsonl"
        if self.file is None:
            return standard_input.copy_stream(stdin(), folder)
        if is_pipe(self.file):
            with self.file.open("rb") as stream:
                return standard_input.copy_stream(stream, folder)
        return self.file


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
