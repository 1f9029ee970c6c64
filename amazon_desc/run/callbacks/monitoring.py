"""What TensorBoard shows beside the module's own numbers: the data, speed, and text as it improves.

In come the trainer's events, out go histograms of the data's lengths, the speed of training, what
share of the card that uses and how much of its memory, and, after each validation, what the model
writes for a few held-out titles.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.evaluation.summary import Sample
from amazon_desc.model.cost.mfu import flops_per_token, matmul_limit
from amazon_desc.run.logger import LENGTHS_OF_TEXTS
from amazon_desc.support.printing import say
from amazon_desc.training.exchange import gathered_numbers, num_processes
from amazon_desc.training.lightning_internals import is_step_logged
from amazon_desc.training.module import DescriptionModule


class DataLengths(Callback):
    """Shows, once a run, how long titles, descriptions and examples are."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, DescriptionData)
        # a run that is resumed after its first step has taken back what was logged before it
        if trainer.global_step > 1 or not isinstance(trainer.logger, TensorBoardLogger):
            return
        for name, lengths in data.opened.report()["lengths"].items():
            trainer.logger.experiment.add_histogram_raw(
                f"{LENGTHS_OF_TEXTS}/{name}",
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
    """Says how training computes."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DescriptionModule)
        say(str(pl_module.plan))


class Throughput(Callback):
    """Logs how fast training is and, on a card, how much of it that uses.

    `train/tokens_per_second` counts tokens without padding since the last log; the clock stops
    while validation runs and while nothing is trained. `train/mfu` is the share of the card's
    measured limit that their arithmetic makes up. `train/peak_memory_gib` is the most that tensors
    have held since training began, not since the last log: what a CUDA graph keeps for its replays
    is only counted while it is captured.

    Steps run on the card while the host prepares the next ones. It is waited for where numbers are
    logged and before a validation, in no other step.
    """

    def __init__(self) -> None:
        self.num_tokens, self.seconds = 0, 0.0
        self.resumed_at: float | None = None
        self.limit: float | None = None  # flop/s; None: not a card, or not measured
        self.flops_per_token = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DescriptionModule)
        if pl_module.device.type == "cuda":
            self.limit = matmul_limit(pl_module.device, pl_module.compute_dtype)
            self.flops_per_token = flops_per_token(pl_module.network)
            torch.cuda.reset_peak_memory_stats(pl_module.device)

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
        if is_step_logged(trainer):
            self.pause(pl_module.device)
            num_tokens = sum(num for (num,) in gathered_numbers([self.num_tokens]))
            rate = num_tokens / self.seconds
            pl_module.log("train/tokens_per_second", rate, prog_bar=True)
            if pl_module.device.type == "cuda":
                self.log_use_of_card(pl_module, rate)
            self.num_tokens, self.seconds = 0, 0.0
            self.resumed_at = time.perf_counter()

    def log_use_of_card(self, pl_module: L.LightningModule, rate: float) -> None:
        if self.limit is not None:
            limit = self.limit * num_processes()
            pl_module.log("train/mfu", rate * self.flops_per_token / limit, prog_bar=True)
        peak = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log("train/peak_memory_gib", peak, prog_bar=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pause(pl_module.device)

    def pause(self, device: torch.device) -> None:
        """Stops the clock when all that was asked of the device is done."""
        if self.resumed_at is not None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.seconds += time.perf_counter() - self.resumed_at
            self.resumed_at = None


class TextSamples(Callback):
    """Shows title, reference and tuned text side by side after each validation of a fit, and the
    base's as well when all is scored at its end."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DescriptionModule)
        if trainer.sanity_checking or not isinstance(trainer.logger, TensorBoardLogger):
            return
        samples = pl_module.samples[:NUM_SAMPLES_SHOWN]
        if samples:
            table = markdown_table(samples, ("reference", *pl_module.sides))
            trainer.logger.experiment.add_text("samples", table, trainer.global_step - 1)


NUM_SAMPLES_SHOWN = 20
TITLE_CHARACTERS, CELL_CHARACTERS = 24, 48

# Of what could end a cell or become markup; "&" too, or an entity in a text would.
ENTITIES = {ord(character): f"&#{ord(character)};" for character in "&\\`*_{}[]<>|#"}


def markdown_table(samples: Sequence[Sample], columns: Sequence[str]) -> str:
    rows = [["title", *columns]]
    for sample in samples:
        texts = [cell(getattr(sample, name), CELL_CHARACTERS) for name in columns]
        rows.append([cell(sample.title, TITLE_CHARACTERS), *texts])
    head, *lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *lines])


def cell(text: str, width: int) -> str:
    """Returns text that cannot leave its cell or become markup, in lines of so many characters.

    Without them a column is as wide as its longest text, and a title beside it a few letters.
    """
    lines = textwrap.wrap(" ".join(text.split()), width, break_long_words=False)
    return "<br>".join(line.translate(ENTITIES) for line in lines)
