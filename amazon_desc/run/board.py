"""What TensorBoard shows beside the module's own numbers: the data, speed, and text as it improves.

In come the trainer's events, out go histograms of the data's lengths, `train/tokens_per_second`
and, after each validation, what the model writes for a few held-out titles.
"""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from amazon_desc.data.batches import RowBatch
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.evaluation.report import Sample
from amazon_desc.module import DescriptionModule
from amazon_desc.printing import say


class DataLengths(Callback):
    """Shows, once a run, how long titles, descriptions and examples are."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, DescriptionData)
        if trainer.global_step or not isinstance(trainer.logger, TensorBoardLogger):
            return
        for name, lengths in data.opened.report()["lengths"].items():
            trainer.logger.experiment.add_histogram_raw(
                f"data/{name}",
                min=lengths["min"],
                max=lengths["max"],
                num=lengths["num"],
                sum=lengths["sum"],
                sum_squares=lengths["sum_squares"],
                bucket_limits=lengths["bin_ends"],
                bucket_counts=lengths["bin_counts"],
                global_step=0,
            )


class ChosenPath(Callback):
    """Has the module choose how training computes, and says it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DescriptionModule)
        say(pl_module.choose_path())


class Throughput(Callback):
    """Logs the tokens (padding left out) trained on per second since the last log, pauses left out.

    The clock stops while validation runs and while nothing is trained.
    """

    def __init__(self) -> None:
        self.num_tokens, self.seconds = 0, 0.0
        self.resumed_at: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RowBatch, batch_idx: int
    ) -> None:
        if self.resumed_at is None:
            self.resumed_at = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: RowBatch,
        batch_idx: int,
    ) -> None:
        self.num_tokens += batch.num_tokens
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # pyright: ignore
            self.pause()
            rate = self.num_tokens / self.seconds
            pl_module.log("train/tokens_per_second", rate, prog_bar=True)
            self.num_tokens, self.seconds = 0, 0.0
            self.resumed_at = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pause()

    def pause(self) -> None:
        if self.resumed_at is not None:
            self.seconds += time.perf_counter() - self.resumed_at
            self.resumed_at = None


class TextSamples(Callback):
    """Shows, after each validation of a fit, title, reference and tuned text side by side."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DescriptionModule)
        if trainer.state.fn != "fit" or not isinstance(trainer.logger, TensorBoardLogger):
            return
        table = markdown_table(pl_module.samples)
        trainer.logger.experiment.add_text("validation/samples", table, trainer.global_step - 1)


# Of what could end a cell or become markup; "&" too, or an entity in a text would.
ENTITIES = {ord(character): f"&#{ord(character)};" for character in "&\\`*_{}[]<>|#"}


def markdown_table(samples: list[Sample]) -> str:
    rows = ["| title | reference | tuned |", "|---|---|---|"]
    rows += [
        "| " + " | ".join(cell(text) for text in (s.title, s.reference, s.tuned)) + " |"
        for s in samples
    ]
    return "\n".join(rows)


def cell(text: str) -> str:
    """Returns text that cannot leave its cell or become markup."""
    return " ".join(text.translate(ENTITIES).split())
