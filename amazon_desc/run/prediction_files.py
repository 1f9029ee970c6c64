"""The files of RUN/predictions: `<stem of the titles' file>.jsonl`, and what is resumed of it.

In come the settings of a command, out goes how many titles have their line already. The file grows
as `.jsonl.partial`. Beside it, `.settings.json` says what it is made with: the same command resumes
after the last line, or the last whole group of titles that have to be written for together; another
one is refused. A file that is there already is never overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model.writing_plan import Engine
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.micro_batch import choose_engine
from amazon_desc.run.options.settings import changes, content
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import (
    empty_folder_removed,
    read_json,
    remove_leftovers,
    storage,
    write_text,
)
from amazon_desc.support.locks import alone
from amazon_desc.support.printing import say
from amazon_desc.training.module import DescriptionModule

WEIGHTS = "--model.adapter"
REMEDY = (
    "Move or delete it, give the titles' file another name, or predict in another "
    "--trainer.default_root_dir."
)


class Way(NamedTuple):
    """How texts are written, as the settings of their file record it."""

    engine: Engine
    size: int
    """texts at a time"""
    titles_together: int
    """titles that have to be written for together, to give the same texts again"""


def way_of(batches: dict[str, Any]) -> Way:
    """Returns what a record says; one of before knows the size of its batches only."""
    size = batches["size"]
    return Way(batches.get("engine", "plain"), size, batches.get("titles_together", size))


def choose_way(
    model: DescriptionModule,
    data: DescriptionData,
    trainer: Any,
    precision: Any,
    before: Way | None,
) -> Way:
    """Has model and data write as the options say, and as before where they leave that open.

    Args:
        trainer: its options
    """
    same = None if before is None else (before.engine, before.size)
    plan = model.writing_plan = choose_engine(model, data, trainer, precision, same)
    data.titles_at_a_time = plan.titles_at_a_time
    return Way(plan.engine, plan.at_a_time, plan.titles_together)


@dataclass(frozen=True)
class PredictionFiles:
    """The names of one output: `path` is there only when it is complete."""

    path: Path

    @classmethod
    def of(cls, run: RunFolder, titles: Path) -> PredictionFiles:
        """Returns where predictions go: for `a/titles.csv.gz` to `predictions/titles.jsonl`."""
        return cls(run.predictions / f"{titles.name.split('.')[0] or 'titles'}.jsonl")

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    @property
    def settings(self) -> Path:
        return self.path.with_suffix(".settings.json")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Has the output to itself, in a folder that goes again if it stays empty, or refuses."""
        with ExitStack() as held:
            with storage(self.path.parent):
                held.enter_context(empty_folder_removed(self.path.parent))
            held.enter_context(alone(self.path, "written"))
            yield

    def begin(
        self, settings: dict[str, Any], titles: Sequence[str], choose: Callable[[Way | None], Way]
    ) -> int | None:
        """Returns how many titles are done: the first so many, or None if the output is complete.

        Where titles have to be written for together to give the same texts, what comes after the
        last whole group of an interrupted run is cut off. A file that got its name too early, as
        some did, is completed; one with other lines is refused.

        Args:
            choose: decides how to write on, of how it was written before

        Raises:
            UserError: what is there was made with other settings.
        """
        remove_leftovers(self.settings)
        record = read_json(self.settings) if self.settings.is_file() else None
        for there in (self.path, self.partial):
            if there.exists():
                self.refuse_other(there, record, settings)
        if self.path.exists():
            num_lines = lines_of(self.path, titles)
            if num_lines == len(titles):
                say(f"{num_lines} descriptions are in {self.path} already")
                return None
            if num_lines is None:
                raise UserError(
                    f"{self.path}: wanted a line for each of the {len(titles)} titles, in their "
                    f"order, found others. {REMEDY}"
                )
            with storage(self.path.parent):
                self.path.replace(self.partial)
        num_done, first, before = 0, 0, None
        if record is not None and self.partial.exists():
            first, before = record["batches"]["first"], way_of(record["batches"])
            size, most = before.titles_together, len(titles) - 1
            num_done = cut_to_whole_groups(self.partial, first, size, most)
        way = choose(before)
        if way != before:
            first = num_done
        batches = {"first": first, **way._asdict()}
        text = json.dumps({"settings": settings, "batches": batches}, indent=1)
        with storage(self.path.parent):
            write_text(self.settings, text + "\n")
        if num_done:
            say(f"Resuming after title {num_done} of {len(titles)} in {self.partial}")
        return num_done

    def refuse_other(self, there: Path, record: Any, settings: dict[str, Any]) -> None:
        if not isinstance(record, dict) or not {"settings", "batches"} <= set(record):
            raise UserError(
                f"{there} is there already, and predictions are never overwritten. {REMEDY}"
            )
        if changed := changes(record["settings"], settings):
            differences = "\n".join(changed)
            raise UserError(
                f"{there} is there already, made with other settings, and predictions are never "
                f"overwritten:\n{differences}\nSet them back to resume. Or: {REMEDY}"
            )


def lines_of(file: Path, titles: Sequence[str]) -> int | None:
    """Returns how many titles have their line, from the first on; None: there are other lines.

    Of the titles a, b and c: lines of a and b -> 2; of a and c -> None
    """
    num_lines = 0
    with file.open("rb") as lines:
        for text in lines:
            # an editor may have left the last line without its end
            is_next = num_lines < len(titles) and is_whole(text.removesuffix(b"\n") + b"\n")
            if not is_next or json.loads(text).get("title") != titles[num_lines]:
                return None
            num_lines += 1
    return num_lines


def cut_to_whole_groups(partial: Path, first: int, size: int, most: int) -> int:
    """Cuts a file after the last line of a whole group; returns how many lines it keeps.

    At least one title of all is left to write, so `most` lines are kept. Groups of `size` begin
    after the line `first`; with groups of 4 after line 2:

        9 lines, the last one torn -> 8 whole lines -> 2 + 4 = 6 lines stay
    """
    ends = [0]
    with partial.open("rb") as file:
        for line in file:
            if not is_whole(line):
                break
            ends.append(ends[-1] + len(line))
    num_whole = min(len(ends) - 1, most)
    num_kept = first + (num_whole - first) // size * size if num_whole > first else num_whole
    with partial.open("rb+") as file:
        file.truncate(ends[num_kept])
        os.fsync(file.fileno())
    return num_kept


def is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def prediction_settings(
    model: DescriptionModule, data: DescriptionData, precision: str, weights: Path
) -> dict[str, Any]:
    """Returns what decides the texts; `weights` is an adapter's file, or a checkpoint."""
    identity, sources = model.identity(data), data.settings.sources
    cleaning = asdict(data.settings.cleaning)
    return {
        "--data.titles": content(str(data.titles_file), data.titles_read[1]),
        "--data.title_column": sources.title_column,
        **{f"--data.cleaning.{rule}": value for rule, value in cleaning.items()},
        "--data.prompt.template": identity.template,
        "--data.prompt.chat": identity.is_chat,
        "--data.prompt.system": identity.system,
        "--data.max_seq_length": data.max_seq_length,
        "--model.backbone": content(identity.backbone, identity.base_sha256),
        "--model.quantization": identity.quantization,
        WEIGHTS: content(str(weights), sha256_of(weights)),
        **{f"--model.decoding.{name}": value for name, value in deciding(model.decoding).items()},
        "--trainer.precision": precision,
    }


def deciding(decoding: DecodingSettings) -> dict[str, Any]:
    """Returns the settings of decoding that decide the texts: of greedy ones not the seed."""
    settings = asdict(decoding)
    if not decoding.is_sampled:
        del settings["seed"]
    return settings
