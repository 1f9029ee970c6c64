"""Writes RUN/predictions/<stem of the titles' file>.jsonl, one line a title, in the titles' order.

In come batches of predictions, out goes a file that grows as `.jsonl.partial`, flushed after each
batch, and gets its own name when every title has its line. Beside it, `.settings.json` says what
it is made with: the same command resumes after the last whole batch, another one is refused. A
file that is there already is never overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.describe import Prediction
from amazon_desc.generation.texts import Description
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.settings import changes, content
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import InUseError, UserError
from amazon_desc.support.files import (
    empty_folder_removed,
    read_json,
    remove_leftovers,
    storage,
    sync_folder,
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

# What a terminal takes for a command, and some readers for the end of a line, though JSON does not
# have to escape it.
CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


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

    def begin(self, settings: dict[str, Any], batch_size: int, titles: Sequence[str]) -> int | None:
        """Returns how many titles are done: the first so many, or None if the output is complete.

        What comes after the last whole batch of an interrupted run is cut off: a batch has to be
        written for whole to give the same texts. A file that got its name too early, as some did,
        is completed; one with other lines is refused.

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
                return None
            if num_lines is None:
                raise UserError(
                    f"{self.path}: wanted a line for each of the {len(titles)} titles, in their "
                    f"order, found others. {REMEDY}"
                )
            with storage(self.path.parent):
                self.path.replace(self.partial)
        num_done, first, size = 0, 0, batch_size
        if record is not None and self.partial.exists():
            first, size = record["batches"]["first"], record["batches"]["size"]
            num_done = cut_to_whole_batches(self.partial, first, size, len(titles) - 1)
        if size != batch_size:
            first, size = num_done, batch_size
        text = json.dumps(
            {"settings": settings, "batches": {"first": first, "size": size}}, indent=1
        )
        with storage(self.path.parent):
            write_text(self.settings, text + "\n")
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


def cut_to_whole_batches(partial: Path, first: int, size: int, most: int) -> int:
    """Cuts a file after the last line of a whole batch; returns how many lines it keeps.

    At least one title of all is left to write, so `most` lines are kept. Batches of `size` begin
    after the line `first`; with batches of 4 after line 2:

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


class PredictionFile(Callback):
    """Writes each batch as it comes; of a trial, nothing."""

    file: IO[str] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "predict":
            run = RunFolder(Path(trainer.default_root_dir))
            self.files = PredictionFiles.of(run, trainer.datamodule.titles_file)  # pyright: ignore

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.num_written = trainer.datamodule.num_predicted  # pyright: ignore
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        weights = read_json(self.files.settings)["settings"][WEIGHTS]
        if sha256_of(Path(weights["name"])) != weights["sha256"]:
            raise InUseError(
                f"{weights['name']} was replaced, by a fit, while it was being loaded. Run the "
                f"same command again."
            )
        with storage(self.files.path.parent):
            self.files.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.files.partial.open("a", encoding="utf-8", newline="\n")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: list[Prediction],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.file is not None:
            with storage(self.files.path.parent):
                self.file.write("".join(line(prediction) for prediction in outputs))
                self.file.flush()
        self.num_written += len(outputs)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        num_titles = len(trainer.datamodule.product_titles)  # pyright: ignore
        if self.file is None:
            say(f"Tried with {self.num_written} of {num_titles} titles: nothing is kept.")
            return
        with storage(self.files.path.parent):
            os.fsync(self.file.fileno())
            self.file.close()
            if self.num_written == num_titles:
                self.files.partial.replace(self.files.path)
            sync_folder(self.files.path.parent)
        if self.num_written == num_titles:
            say(f"{num_titles} descriptions are in {self.files.path}")
        else:
            say(
                f"{self.num_written} of {num_titles} descriptions are in {self.files.partial}. The "
                f"same command without --trainer.limit_predict_batches resumes from there."
            )


def line(prediction: Prediction) -> str:
    """Returns one line of the file, as JSON; where there are several texts, with all of them."""
    title, first, others = prediction
    record: dict[str, Any] = {"title": title, **columns(first)}
    if others:
        record["candidates"] = [columns(candidate) for candidate in (first, *others)]
    return json.dumps(record, ensure_ascii=False).translate(CONTROLS) + "\n"


def columns(description: Description) -> dict[str, Any]:
    text, finish_reason, num_tokens = description
    return {"description": text, "finish_reason": finish_reason, "num_tokens": num_tokens}
