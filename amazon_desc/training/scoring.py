"""The scores of base and tuned weights, found in the same way for both.

In come a model and batches of packed rows or of prompts, out go loss, perplexity, ROUGE and BLEU of
either side, and the samples that were generated for. The base is the same model with LoRA switched
off. What becomes of the scores is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from amazon_desc.data.loading.batches import PromptBatch, RowBatch
from amazon_desc.evaluation.metrics import TargetLoss, TextScores
from amazon_desc.evaluation.summary import Sample
from amazon_desc.generation.texts import Description

if TYPE_CHECKING:
    from peft import PeftModel

Weights = Literal["base", "tuned"]
BOTH: tuple[Weights, Weights] = ("base", "tuned")


class Scoring(nn.Module):
    """Sums over the batches since the last reset, which lie on the device of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: Any = nn.ModuleDict({weights: TargetLoss() for weights in BOTH})
        self.texts: Any = nn.ModuleDict({weights: TextScores() for weights in BOTH})
        self.samples: list[Sample] = []

    def reset(self) -> None:
        for metric in (*self.losses.values(), *self.texts.values()):
            metric.reset()
        self.samples = []

    def add_rows(
        self,
        model: PeftModel,
        batch: RowBatch,
        sides: Iterable[Weights],
        loss: Callable[[RowBatch], tuple[Tensor, int]],
    ) -> None:
        """Has `loss` find that of the batch with the weights of each side."""
        for weights in sides:
            with using(model, weights):
                self.losses[weights].update(*loss(batch))

    def add_prompts(
        self,
        model: PeftModel,
        batch: PromptBatch,
        sides: Iterable[Weights],
        write: Callable[[PromptBatch], list[Description]],
    ) -> None:
        """Has `write` describe the titles with the weights of each side."""
        texts: dict[str, list[str]] = {"base": [""] * len(batch.titles)}
        for weights in sides:
            with using(model, weights):
                texts[weights] = [description.text for description in write(batch)]
            self.texts[weights].update(texts[weights], batch.references)
        self.samples += [
            Sample(*sample)
            for sample in zip(
                batch.titles, batch.references, texts["base"], texts["tuned"], strict=True
            )
        ]

    def loss(self, weights: Weights) -> dict[str, float]:
        """Returns loss (nats a target token) and perplexity."""
        return self.losses[weights].compute()

    def scores(self, weights: Weights) -> dict[str, float]:
        """Returns the loss, perplexity, ROUGE (0 to 1) and BLEU (0 to 100)."""
        return {**self.loss(weights), **self.texts[weights].compute()}


def using(model: PeftModel, weights: Weights) -> Any:
    """Switches LoRA off for the base's turn."""
    return model.disable_adapter() if weights == "base" else nullcontext()
