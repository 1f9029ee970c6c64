"""Promises of intervals and comparisons: sacrebleu's own numbers, the same draws for all scores."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from amazon_desc.evaluation import intervals
from amazon_desc.evaluation.counted import CountedLosses
from amazon_desc.evaluation.counts import signatures
from amazon_desc.evaluation.intervals import Comparison, Interval, bounds, draws, p_value
from amazon_desc.evaluation.metrics import count
from amazon_desc.evaluation.variety import Runs

TEXT = "a the warm soft hat rug mug of wool red blue 12 in. for with handle ü 書 don't, and"
WORDS = TEXT.split()


def texts_like(references: list[str], share: float, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(w if draw.random() < share else draw.choice(["", *WORDS]) for w in text.split())
        for text in references
    ]


@pytest.fixture(scope="module")
def references() -> list[str]:
    draw = random.Random(0)
    return ["", "hat", *(" ".join(draw.choices(WORDS, k=3 + n % 20)) for n in range(78))]


@pytest.mark.parametrize("shares", [(0.5, 0.53), (0.5, 0.7)])
def test_bleu_and_chrf_are_those_of_sacrebleus_paired_test(
    references: list[str], shares: tuple[float, float]
):
    base, tuned = (texts_like(references, share, seed) for seed, share in enumerate(shares))
    systems: list[tuple[str, Sequence[str]]] = [("base", base), ("tuned", tuned)]
    metrics = {"bleu": BLEU(), "chrf": CHRF()}
    expected: Any = PairedTest(systems, metrics, [references], test_type="bs")()[1]
    of_base, of_tuned = count(base, references), count(tuned, references)
    compared = of_tuned.compared_with(of_base)
    for name, shown in (("bleu", "BLEU"), ("chrf", "chrF2")):
        theirs = expected[shown][1]
        value, low, high = of_tuned.intervals()[name]
        assert value == theirs.score
        assert of_tuned.resampled[name].mean() == pytest.approx(theirs.mean, rel=1e-5)
        assert (high - low) / 2 == pytest.approx(theirs.ci, rel=1e-4)
        assert compared[name].p_value == theirs.p_value
        assert compared[name].difference == theirs.score - expected[shown][0].score
    assert (compared["bleu"].p_value < 0.05) == (shares == (0.5, 0.7))


def test_draws_are_those_of_sacrebleu_in_parts_too(monkeypatch: pytest.MonkeyPatch):
    index = np.random.default_rng(12345).choice(7, size=(1000, 7), replace=True)
    expected = [np.bincount(row, minlength=7).tolist() for row in index]
    assert [row for part in draws(7) for row in part.tolist()] == expected
    monkeypatch.setattr(intervals, "_MAX_DRAWN", 21)
    assert [len(part) for part in draws(7)] == [3] * 333 + [1]
    assert [row for part in draws(7) for row in part.tolist()] == expected


def test_every_score_lies_in_its_interval(references: list[str]):
    texts = texts_like(references, 0.5, 1)
    titles = ["Red hat 12", *references[1:]]
    counted = count(texts, references, titles, [n % 3 == 0 for n in range(80)])
    found = counted.intervals()
    assert list(found) == list(counted.scores())
    assert len(found) == 12
    for name, (value, low, high) in found.items():
        assert low <= value <= high, name
        if name != "loops":
            assert low < high, name


def test_the_worked_examples():
    assert bounds(np.arange(1.0, 41)) == (2, 39)
    assert bounds(np.arange(1.0, 41), 30.5) == (12, 49)
    assert p_value(np.array([1.0, -1, 5, -5]), 1.5) == 3 / 5
    runs = Runs(np.array([7, 8, 7]), np.array([2, 1]))
    assert runs.distinct() == 2 / 3
    found = runs.resampled(np.array([[1.0, 1], [2, 0], [0, 2]]))
    assert found.tolist() == [2 / 3, 2 / 4, 1 / 2]


def test_distinct_of_a_draw_is_that_of_the_texts_drawn(references: list[str]):
    counted = count(texts_like(references, 0.5, 2), references)
    ids = np.split(counted.runs[0].ids, np.cumsum(counted.runs[0].lengths)[:-1])
    first = next(draws(80))[:20]
    plain = [
        Runs.of([ids[n].tolist() for n in range(80) for _ in range(int(row[n]))]) for row in first
    ]
    expected = [runs.distinct() for runs in plain]
    assert counted.resampled["distinct1"][:20].tolist() == pytest.approx(expected)


def test_losses_are_weighted_by_targets():
    base = CountedLosses(np.array([[6.0, 2, 1], [2, 6, 5]]))
    tuned = CountedLosses(np.array([[5.0, 2, 1], [1, 6, 6]]))
    assert base.scores() == {"loss": 1, "perplexity": pytest.approx(math.e), "accuracy": 0.75}
    # drawn are both, or one of them twice
    assert set(base.resampled["loss"].tolist()) == {1, 3, 2 / 6}
    assert base.intervals()["loss"] == Interval(1, 2 / 6, 3)
    difference, low, high, _ = tuned.compared_with(base)["loss"]
    assert (difference, low, high) == (-0.25, -0.5, pytest.approx(-1 / 6))
    assert base.records()[0] == {"loss_sum": 6.0, "num_targets": 2, "num_right": 1}


def test_a_side_differs_by_nothing_from_itself(references: list[str]):
    counted = count(references, references)
    assert set(counted.compared_with(counted).values()) == {Comparison(0, 0, 0, 1)}


def test_other_titles_cannot_be_compared():
    with pytest.raises(ValueError, match="2 titles compared with 1"):
        count(["a", "b"], ["a", "b"]).compared_with(count(["a"], ["a"]))
    losses = CountedLosses(np.ones((2, 3)))
    with pytest.raises(ValueError, match="2 titles compared with 1"):
        losses.compared_with(CountedLosses(np.ones((1, 3))))


def test_what_is_no_number_has_no_interval():
    losses = CountedLosses(np.array([[math.nan, 1, math.nan], [1, 1, math.nan]]))
    found = losses.intervals()["loss"]
    assert [math.isnan(number) for number in found] == [True] * 3
    huge = CountedLosses(np.array([[1e6, 1, 1.0]]))
    assert huge.intervals()["perplexity"].value == math.inf
    assert math.isnan(huge.compared_with(huge)["perplexity"].p_value)


def test_records_say_what_is_known_of_a_text():
    loop = "on and on and on and on and on"
    record = {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0, "is_loop": True}
    assert count([loop], [loop]).records() == [record]


def test_signatures_name_the_settings():
    found = signatures()
    assert found["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
