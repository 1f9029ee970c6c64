"""Writes RUN/predictions/<stem of the titles' file>.jsonl, one line a title, in the titles' order.

In come batches of predictions, out goes a file that grows as `.jsonl.partial`, flushed after each
batch, and gets its own name when the last title is written. A file that is there already is
never overwritten.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.errors import UserError
from amazon_desc.files import sync_folder
from amazon_desc.module import Prediction
from amazon_desc.run.folder import RunFolder

# What some readers take for the end of a line, though JSON does not have to escape it.
LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def predictions_file(run: RunFolder, titles: str) -> Path:
    """Returns where predictions go: for `a/titles.csv.gz` to `predictions/titles.jsonl`."""
    return run.predictions / f"{Path(titles).name.split('.')[0] or 'titles'}.jsonl"


class PredictionFile(Callback):
    """Writes each batch as it comes."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        run = RunFolder(Path(trainer.default_root_dir))
        self.path = predictions_file(run, trainer.datamodule.titles)  # pyright: ignore
        refuse_existing(self.path)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.file: IO[str] = self.partial.open("w", encoding="utf-8")
        self.num_written = 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: list[Prediction],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.file.writelines(line(prediction) for prediction in outputs)
        self.file.flush()
        self.num_written += len(outputs)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        os.fsync(self.file.fileno())
        self.file.close()
        self.partial.replace(self.path)
        sync_folder(self.path.parent)
        print(f"{self.num_written} descriptions are in {self.path}")


def line(prediction: Prediction) -> str:
    """Returns one line of the file, as JSON."""
    title, (text, finish_reason, num_tokens) = prediction
    record = {
        "title": title,
        "description": text,
        "finish_reason": finish_reason,
        "num_tokens": num_tokens,
    }
    text = json.dumps(record, ensure_ascii=False)
    for end, escape in LINE_ENDS.items():
        text = text.replace(end, escape)
    return text + "\n"


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(
            f"{path} is there already, and predictions are never overwritten. Move or delete it, "
            f"give the titles' file another name, or predict in another --trainer.default_root_dir."
        )
