"""The scores of base and tuned weights, found in the same way for both.

In come a model with batches of packed rows, and what either side has written; out go the
scores of either side, and the samples. The base is the same model with LoRA
switched off. What becomes of the scores is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.evaluation.metrics import TargetLoss, TextScores
from amazon_desc.evaluation.summary import Sample
from amazon_desc.generation.writing import Prediction

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
        self.predictions: dict[Weights, list[Prediction]] = {weights: [] for weights in BOTH}

    def reset(self) -> None:
        for metric in (*self.losses.values(), *self.texts.values()):
            metric.reset()
        self.predictions = {weights: [] for weights in BOTH}

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

    def add_texts(self, weights: Weights, predictions: list[Prediction]) -> None:
        """Takes what the weights of a side have written."""
        texts = [prediction.description.text for prediction in predictions]
        self.texts[weights].update(
            [prediction.title for prediction in predictions],
            texts,
            [prediction.reference for prediction in predictions],
            [prediction.description.finish_reason == "stop" for prediction in predictions],
        )
        self.predictions[weights] += predictions

    @property
    def samples(self) -> list[Sample]:
        """Titles and references with the texts of both sides; the base's are empty in a fit."""
        base = [prediction.description.text for prediction in self.predictions["base"]]
        return [
            Sample(tuned.title, tuned.reference, text, tuned.description.text)
            for tuned, text in zip_longest(self.predictions["tuned"], base, fillvalue="")
            if isinstance(tuned, Prediction)
        ]

    def loss(self, weights: Weights) -> dict[str, float]:
        """Returns loss (nats a target token) and perplexity."""
        return self.losses[weights].compute()

    def scores(self, weights: Weights) -> dict[str, float]:
        """Returns the loss, perplexity, and the scores of the texts."""
        return {**self.loss(weights), **self.texts[weights].compute()}


def using(model: PeftModel, weights: Weights) -> Any:
    """Switches LoRA off for the base's turn."""
    return model.disable_adapter() if weights == "base" else nullcontext()
