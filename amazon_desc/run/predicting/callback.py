"""Writes predictions as they come: each batch of them is on its way to the disk at once.

In come batches of predictions, out go the lines that follow from them. What the files are called,
and what is resumed, is decided in output.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.generation.writing import Prediction
from amazon_desc.run.predicting.lines import GrowingLines
from amazon_desc.run.predicting.summary import Summary
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import InUseError
from amazon_desc.support.printing import say


class PredictionFile(Callback):
    """Adds each batch to an output as it comes.

    Args:
        lines: those of the output; None: this is a trial, and nothing is kept
        weights: file and digest of those that it is written with
    """

    def __init__(
        self,
        lines: GrowingLines | None = None,
        weights: dict[str, str] | None = None,
    ) -> None:
        self.lines, self.weights = lines, weights
        self.summary = Summary()
        self.num_new = 0
        self.begun_at = self.seconds = 0.0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begun_at = time.perf_counter()
        if self.weights is None:
            return
        name, sha256 = self.weights["name"], self.weights["sha256"]
        if sha256_of(Path(name)) != sha256:
            raise InUseError(
                f"{name} was replaced, by a fit, while it was being loaded. Run the same command "
                f"again."
            )

    def add(self, predictions: Iterable[Prediction]) -> None:
        assert self.lines is not None, "a trial keeps nothing"
        for record, is_repeated in self.lines.add(predictions):
            self.summary.add(record, is_repeated)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: list[Prediction],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.num_new += len(outputs)
        if self.lines is not None:
            self.add(outputs)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.begun_at
        if self.lines is None:
            num_titles = trainer.datamodule.num_titles  # pyright: ignore
            say(f"Tried with {self.num_new} of {num_titles} titles: nothing is kept.")
