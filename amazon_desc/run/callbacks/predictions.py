"""Writes predictions as they come, one line a title, in the titles' order.

In come batches of predictions, out goes a file that is flushed after each of them, and gets its own
name when every title has its line. What its files are called, and what is resumed, is in
prediction_files.py.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.prediction_files import WEIGHTS, PredictionFiles
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import InUseError
from amazon_desc.support.files import read_json, storage, sync_folder
from amazon_desc.support.printing import say

# What a terminal takes for a command, and some readers for the end of a line, though JSON does not
# have to escape it.
CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


class PredictionFile(Callback):
    """Writes each batch as it comes; of a trial, nothing."""

    file: IO[str] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "predict":
            run = RunFolder(Path(trainer.default_root_dir))
            self.files = PredictionFiles.of(run, trainer.datamodule.titles_file)  # pyright: ignore

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.num_written = trainer.datamodule.num_predicted  # pyright: ignore
        self.num_new, self.num_tokens, self.begun = 0, 0, time.perf_counter()
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
        self.num_new += len(outputs)
        self.num_tokens += sum(prediction.description.num_tokens for prediction in outputs)

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
            seconds = time.perf_counter() - self.begun
            say(
                f"{num_titles} descriptions are in {self.files.path}; {self.num_new} were written "
                f"in {seconds:.1f} s: {self.num_new / seconds:,.1f} titles/s, "
                f"{self.num_tokens / seconds:,.0f} tokens/s"
            )
        else:
            say(
                f"{self.num_written} of {num_titles} descriptions are in {self.files.partial}. The "
                f"same command without --trainer.limit_predict_batches resumes from there."
            )


def line(prediction: Prediction) -> str:
    """Returns one line of the file, as JSON; where there are several texts, with all of them."""
    title, first, others, *_ = prediction
    record: dict[str, Any] = {"title": title, **columns(first)}
    if others:
        record["candidates"] = [columns(candidate) for candidate in (first, *others)]
    return json.dumps(record, ensure_ascii=False).translate(CONTROLS) + "\n"


def columns(description: Description) -> dict[str, Any]:
    text, finish_reason, num_tokens = description
    return {"description": text, "finish_reason": finish_reason, "num_tokens": num_tokens}
