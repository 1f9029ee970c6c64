"""How the module is validated and tested: losses and texts of base and tuned weights.

In come batches of packed rows and the numbers of titles, out go scores and samples. While training
the tuned weights alone are scored, for the base does not change, and on the path that trains. How
scores are counted is known in scoring.py; the terminal and files are the callbacks' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amazon_desc.data.datamodule import ROWS
from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.evaluation.copied import copied
from amazon_desc.evaluation.summary import SCORES, Sample
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model.writing_plan import EngineOption
from amazon_desc.training.scoring import BOTH, Scoring, Weights
from amazon_desc.training.writing import WritingModule

if TYPE_CHECKING:
    from amazon_desc.model.kernels.step import FusedStep

# What a fit logs at its validations, and which way is better. Copies are not looked for there, and
# the path that trains knows nothing of single tokens.
MONITORED = {
    f"validation/{name}": shown.better
    for name, shown in SCORES.items()
    if shown.better != "near 1" and name not in ("copied", "accuracy")
}
OF_LOSSES = ("validation/loss", "validation/perplexity")
"""those for which no text has to be written"""


class ValidatingModule(WritingModule):
    """A module whose weights are scored; validation and test take the same steps."""

    def __init__(self, decoding: DecodingSettings, engine: EngineOption) -> None:
        super().__init__(decoding, engine)
        self.fused: FusedStep | None = None  # of a fit, where that is planned
        self.scoring = Scoring()

    @property
    def sides(self) -> tuple[Weights, ...]:
        """What is scored: while training the tuned weights only, for the base does not change."""
        return ("tuned",) if self.trainer.state.fn == "fit" else BOTH

    def on_validation_epoch_start(self) -> None:
        if self.fused is not None:
            self.fused.release()  # scores need memory too
        self.scoring.reset(self.data.scored.packed)
        self.writing_plan = None  # the same for base and tuned weights

    def validation_step(
        self, batch: RowBatch | list[int], batch_idx: int, dataloader_idx: int = ROWS
    ) -> None:
        if isinstance(batch, RowBatch):
            if not len(batch.input_ids):
                return
            # the fused step knows nothing of weights without LoRA, and of single targets
            if self.fused is not None and self.trainer.state.fn == "fit":
                self.scoring.add_loss("tuned", *self.fused.score(batch))
            else:
                self.scoring.add_rows(self.network, batch, self.sides)
            return
        weights = self.sides[dataloader_idx - 1]
        if batch_idx == 0:
            is_test = self.trainer.state.fn == "test"
            limits = self.trainer.num_test_batches if is_test else self.trainer.num_val_batches
            self.begin_writing(int(limits[dataloader_idx]), has_lora=weights == "tuned")
        self.scoring.add_texts(weights, self.take_written(len(batch)))

    def on_validation_epoch_end(self) -> None:
        self.end_scoring()
        if self.trainer.state.fn == "fit":
            self.log("epoch", self.data.epoch)
            for name, value in self.scoring.scores("tuned").items():
                self.log(f"validation/{name}", value, prog_bar=name == "loss")

    def end_scoring(self) -> None:
        """Counts what was written; copies are looked for where it is all that is to be scored."""
        self.end_writing()
        is_reported = self.trainer.state.fn != "fit" and self.trainer.is_global_zero
        self.scoring.count_texts(self.find_copied if is_reported else None)

    def find_copied(self, texts: Sequence[str]) -> Sequence[bool]:
        """Says which texts are taken out of descriptions that may have been trained on."""
        rows = self.data.opened.rows()
        return copied(texts, rows.examples, self.data.tokenizer, rows.numbers())

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(
        self, batch: RowBatch | list[int], batch_idx: int, dataloader_idx: int = ROWS
    ) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self.end_scoring()

    @property
    def samples(self) -> list[Sample]:
        return self.scoring.samples
