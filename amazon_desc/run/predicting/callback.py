"""Writes predictions as they come: each batch of them is on its way to the disk at once.

In come batches of predictions, out go the lines that follow from them: of several processes each
writes a part, and the first one joins them. That is done in the background, so that no card waits
for it. What the files are called, and what is resumed, is decided in output.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.data.loading.order import batched
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.predicting.lines import GrowingLines
from amazon_desc.run.predicting.parts import Joined, Part
from amazon_desc.run.predicting.summary import Summary
from amazon_desc.support.background import Background
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import InUseError, PeerLostError
from amazon_desc.support.locks import is_held
from amazon_desc.support.printing import say

JOINED_AT_A_TIME = 1024
LOOKED_EVERY_SECONDS = 0.1
# A process that is killed is noticed by its lock; not where machines do not see each other's locks,
# but there its part grows.
LOST_AFTER_SECONDS = 300


class PredictionFile(Callback):
    """Adds each batch to an output as it comes, and has added all where `background` ends.

    Args:
        lines: those of the output; None: this is a trial, and nothing is kept, or another process
            has them
        weights: file and digest of those that it is written with
        part: what this one of several processes writes to
        joined: the parts of all, which the first one has
    """

    def __init__(
        self,
        lines: GrowingLines | None = None,
        weights: dict[str, str] | None = None,
        part: Part | None = None,
        joined: Joined | None = None,
    ) -> None:
        self.lines, self.weights = lines, weights
        self.part, self.joined = part, joined
        self.background = Background()
        self.summary = Summary()
        self.num_new = 0
        self.begun_at = time.perf_counter()
        self.seconds = 0.0

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

    def add(self, predictions: Iterable[Prediction], is_old: bool = False) -> None:
        assert self.lines is not None, "a trial keeps nothing"
        for record, is_repeated in self.lines.add(predictions):
            self.summary.add(record, is_repeated, is_old)

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
        self.background.do(self.keep, batch, outputs)

    def keep(self, numbers: Sequence[int], predictions: Sequence[Prediction]) -> None:
        """Adds what was written for the titles of these numbers."""
        if self.part is not None:
            self.part.add(numbers, predictions)
            self.join()
        elif self.lines is not None:
            self.add(predictions)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.background.finish()
        self.seconds = time.perf_counter() - self.begun_at
        if self.lines is None and self.part is None:
            num_titles = trainer.datamodule.num_titles  # pyright: ignore
            say(f"Tried with {self.num_new} of {num_titles} titles: nothing is kept.")

    # Of several processes

    def join(self) -> None:
        """Adds what is there of all parts and comes next."""
        if self.joined is None:
            return
        for is_old, some in groupby(self.joined.ready(), key=itemgetter(1)):
            for few in batched((prediction for prediction, _ in some), JOINED_AT_A_TIME):
                self.add(few, is_old)

    def finish(self) -> None:
        """Says that nothing more comes of this process; the first one waits for all others.

        Raises:
            PeerLostError: one of them has ended before it was through.
        """
        self.background.finish()
        if self.part is not None:
            self.part.close()
        if self.joined is None:
            return
        size, grew_at = 0, time.monotonic()
        while unfinished := self.joined.unfinished():
            self.join()
            before, size = size, sum(path.stat().st_size for path in unfinished)
            if size != before:
                grew_at = time.monotonic()
            elif time.monotonic() - grew_at > LOST_AFTER_SECONDS:
                refuse_lost(unfinished)
            time.sleep(LOOKED_EVERY_SECONDS)
        self.join()
        self.seconds = time.perf_counter() - self.begun_at


def refuse_lost(parts: list[Path]) -> None:
    """Refuses to wait for processes that are not there any more."""
    for path in parts:
        if not is_held(path):
            raise PeerLostError(
                f"process {path.stem} has ended before it was through. Look at what it said; the "
                f"same command goes on after the titles that are done."
            )
