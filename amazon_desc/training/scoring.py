"""The scores of base and tuned weights, found in the same way for both.

In come a model with batches of packed rows, and what either side has written; out go the scores of
either side, with intervals, how the two compare, and the samples. The base is the same model with
LoRA switched off. What becomes of the scores is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.evaluation.counted import CountedLosses
from amazon_desc.evaluation.metrics import TargetLoss, TextScores
from amazon_desc.evaluation.summary import Sample, SideBySide
from amazon_desc.generation.writing import Prediction
from amazon_desc.model.loss import target_scores
from amazon_desc.training.exchange import gathered, interleaved

if TYPE_CHECKING:
    from peft import PeftModel

T = TypeVar("T")
Weights = Literal["base", "tuned"]
BOTH: tuple[Weights, Weights] = ("base", "tuned")

LOSS_STATES = ("loss_sums", "num_targets", "num_right")
"""what a TargetLoss keeps, one entry a batch"""

FindCopied = Callable[[Sequence[str]], Sequence[bool]]
"""Says of texts which of them are copied from what was trained on."""


class Scoring(nn.Module):
    """Counts over the batches since the last reset, which lie on the device of the model."""

    def __init__(self) -> None:
        super().__init__()
        # join() has what others counted, in the order of the titles, which torchmetrics would lose
        alone = {"sync_on_compute": False}
        self.losses: Any = nn.ModuleDict({weights: TargetLoss(**alone) for weights in BOTH})
        self.texts: Any = nn.ModuleDict({weights: TextScores(**alone) for weights in BOTH})
        self.predictions: dict[Weights, list[Prediction]] = {weights: [] for weights in BOTH}
        self.written: dict[Weights, list[list[Prediction]]] = {weights: [] for weights in BOTH}
        """batch by batch, until all are joined"""
        self.packed: Sequence[int] = ()
        self.copied_references: float | None = None
        """share of the real descriptions that would count as copied, where that was looked for"""

    def reset(self, packed: Sequence[int]) -> None:
        """Forgets what was counted.

        Args:
            packed: the examples' numbers in the order in which the rows to come hold them
        """
        self.packed, self.copied_references = packed, None
        for metric in (*self.losses.values(), *self.texts.values()):
            metric.reset()
        self.predictions = {weights: [] for weights in BOTH}
        self.written = {weights: [] for weights in BOTH}

    def add_rows(self, model: PeftModel, batch: RowBatch, sides: Iterable[Weights]) -> None:
        """Finds loss and hits of each example with the weights of each side."""
        num_targets = batch.sums_of_examples(torch.ones_like(batch.before_targets))
        for weights in sides:
            with using(model, weights):
                losses, is_right = map(batch.sums_of_examples, target_scores(model, batch))
            self.losses[weights].update(losses, num_targets, is_right)

    def add_loss(self, weights: Weights, loss_sum: Tensor, num_targets: int) -> None:
        """Takes the loss of a batch that was found elsewhere, of which no examples are known."""
        self.losses[weights].update(loss_sum, num_targets)

    def add_texts(self, weights: Weights, predictions: list[Prediction]) -> None:
        """Takes what the weights of a side have written for a batch of titles."""
        self.written[weights].append(predictions)

    def join(self) -> None:
        """Takes what other processes have counted and written for the batches they were dealt."""
        for weights in BOTH:
            for name in LOSS_STATES:
                mine = [state.cpu() for state in getattr(self.losses[weights], name)]
                setattr(self.losses[weights], name, interleaved(gathered(mine)))
            batches = interleaved(gathered(self.written[weights]))
            self.predictions[weights] += [prediction for batch in batches for prediction in batch]
            self.written[weights] = []

    def count_texts(self, find_copied: FindCopied | None = None) -> None:
        """Counts what was written, of all sides and processes together, when all of it is there.

        Args:
            find_copied: None: copies are not looked for, which takes a pass over what was learnt
        """
        self.join()
        texts = {weights: texts_of(self.predictions[weights]) for weights in BOTH}
        references = [prediction.reference for prediction in self.predictions["tuned"]]
        is_copied: dict[Weights, Sequence[bool]] = {}
        if find_copied is not None:
            every = [text for of in (*texts.values(), references) for text in of]
            found = iter(find_copied(every))
            for weights in BOTH:
                is_copied[weights] = [next(found) for _ in texts[weights]]
            self.copied_references = sum(found) / max(1, len(references))
        for weights, predictions in self.predictions.items():
            self.texts[weights].update(
                [prediction.title for prediction in predictions],
                texts[weights],
                [prediction.reference for prediction in predictions],
                [prediction.description.finish_reason == "stop" for prediction in predictions],
                is_copied.get(weights),
            )

    @property
    def samples(self) -> list[Sample]:
        """Titles and references with the texts of both sides; the base's are empty in a fit."""
        return [
            Sample(tuned.title, tuned.reference, text, tuned.description.text)
            for tuned, text in zip_longest(
                self.predictions["tuned"], texts_of(self.predictions["base"]), fillvalue=""
            )
            if isinstance(tuned, Prediction)
        ]

    def loss(self, weights: Weights) -> dict[str, float]:
        """Returns loss (nats a target token) and perplexity."""
        return self.losses[weights].compute()

    def scores(self, weights: Weights) -> dict[str, float]:
        """Returns the scores of the losses, and those of the texts where any were written."""
        texts = self.texts[weights].compute() if self.predictions[weights] else {}
        return {**self.loss(weights), **texts}

    def side_by_side(self) -> SideBySide:
        """Returns the scores of both sides on the same titles, with intervals, and compared."""
        base, tuned = ((self.counted_losses(side), self.texts[side].counted()) for side in BOTH)
        pairs = zip(base, tuned, strict=True)
        return SideBySide(
            joined([of.intervals() for of in base]),
            joined([of.intervals() for of in tuned]),
            joined([after.compared_with(before) for before, after in pairs]),
        )

    def counted_losses(self, weights: Weights) -> CountedLosses:
        """Returns the losses of the examples in the order of their titles, as texts have it."""
        rows = self.losses[weights].counted().rows
        return CountedLosses(rows[np.argsort(self.packed[: len(rows)])])

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields each title with its reference, and text, loss and scores of either side."""
        losses = {weights: self.counted_losses(weights).records() for weights in BOTH}
        texts = {weights: self.texts[weights].counted().records() for weights in BOTH}
        for number, (title, reference) in enumerate(map(titled, self.predictions["tuned"])):
            found: dict[str, Any] = {"title": title, "reference": reference}
            for weights in BOTH:
                text, finish_reason, num_tokens = self.predictions[weights][number].description
                written = {"description": text, "finish_reason": finish_reason}
                counts = {**losses[weights][number], **texts[weights][number]}
                found[weights] = {**written, "num_tokens": num_tokens, **counts}
            yield found


def joined(parts: Sequence[dict[str, T]]) -> dict[str, T]:
    return {name: value for part in parts for name, value in part.items()}


def titled(prediction: Prediction) -> tuple[str, str]:
    return prediction.title, prediction.reference


def texts_of(predictions: Sequence[Prediction]) -> list[str]:
    return [prediction.description.text for prediction in predictions]


def using(model: PeftModel, weights: Weights) -> Any:
    """Switches LoRA off for the base's turn."""
    return model.disable_adapter() if weights == "base" else nullcontext()
