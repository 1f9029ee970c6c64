"""A fit scores on the path that trains; base and tuned weights are compared on the plain one."""

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import amazon_desc.training.scoring
from amazon_desc.data.corpus.corpus import Scored
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.model.loss import TargetScores
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.scoring import BOTH, Scoring

ROW: Any = {"input_ids": [1, 5, 6, 7], "lengths": [4], "prompt_lengths": [1]}
BATCH: RowBatch = collate_rows([ROW], 8, 0, "completion")


class Step:
    """Stands for a FusedStep: 2 nats a target."""

    def __init__(self) -> None:
        self.num_released = 0

    def score(self, batch: RowBatch) -> tuple[torch.Tensor, int]:
        return torch.tensor(6.0), len(batch.before_targets)

    def release(self) -> None:
        self.num_released += 1


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> DescriptionModule:
    """Its plain path finds 3 nats a target, and is right with one of three."""
    found = TargetScores(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([True, False, False]))
    monkeypatch.setattr(amazon_desc.training.scoring, "target_scores", lambda *_: found)
    monkeypatch.setattr(DescriptionData, "scored", Scored([ROW], [0], [("title", "text")]))
    module = DescriptionModule()
    module.network = SimpleNamespace(disable_adapter=nullcontext)
    module.fused = Step()  # pyright: ignore[reportAttributeAccessIssue]
    return module


def score(module: DescriptionModule, command: str) -> None:
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=command))
    module._trainer = trainer
    trainer.datamodule = DescriptionData()
    module.on_validation_epoch_start()
    module.validation_step(BATCH, 0)


def test_a_fit_scores_on_the_path_that_trains(module: DescriptionModule):
    score(module, "fit")
    assert module.scoring.loss("tuned")["loss"] == 2.0
    assert module.fused.num_released == 1  # pyright: ignore
    module.fused = None
    score(module, "fit")
    assert module.scoring.loss("tuned")["loss"] == 3.0


def test_base_and_tuned_weights_are_compared_on_the_plain_path(module: DescriptionModule):
    score(module, "validate")
    for side in ("base", "tuned"):
        scores = module.scoring.loss(side)
        assert (scores["loss"], scores["accuracy"]) == (3.0, pytest.approx(1 / 3))


def test_what_is_copied_is_looked_for_once_for_both_sides_and_the_real_texts():
    asked: list[list[str]] = []

    def find_copied(texts: Sequence[str]) -> list[bool]:
        asked.append(list(texts))
        return [text.startswith("copy") for text in texts]

    scoring = Scoring()
    for weights, texts in (("base", ["copy a", "b"]), ("tuned", ["copy c", "copy d"])):
        scoring.add_texts(
            weights,  # pyright: ignore[reportArgumentType]
            [
                Prediction(f"title {n}", Description(text, "stop", 2), reference=reference)
                for n, (text, reference) in enumerate(zip(texts, ["copy r", "s"], strict=True))
            ],
        )
    scoring.count_texts(find_copied)
    assert asked == [["copy a", "b", "copy c", "copy d", "copy r", "s"]]
    shares = [scoring.texts[weights].compute()["copied"] for weights in BOTH]
    assert (shares, scoring.copied_references) == ([0.5, 1.0], 0.5)
    scoring.reset([0, 1])
    assert scoring.copied_references is None
