"""A next token is what the settings say, and depends on nothing but what choose is given."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from amazon_desc.generation import choosing
from amazon_desc.generation.choosing import (
    NOTHING,
    choose,
    counts_of,
    draw,
    may_be_drawn,
    penalised,
    repeats_ngram,
    splitmix64,
    state_of,
    tempered,
    uniform,
    wrapped,
)
from amazon_desc.generation.decoding import GREEDY, DecodingSettings

INF = math.inf
LOGITS = torch.tensor([[1.0, 0.5, 2.0, 0.0]] * 2)
WRITTEN = torch.tensor([[2, 0, -1], [-1, -1, -1]])
PLACES = torch.tensor([2, 0])
ROWS = torch.arange(2)


def sampling(**settings) -> DecodingSettings:
    return replace(GREEDY, **{"temperature": 1.0, **settings})


def random_logits(num_texts: int, num_ids: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(num_texts, num_ids, generator=generator)


# The worked examples


@pytest.mark.parametrize(
    ("settings", "scores", "ids"),
    [
        ({}, [1.0, 0.5, 2.0, 0.0], [2, 2]),
        ({"repetition_penalty": 5}, [0.2, 0.5, 0.4, 0.0], [1, 2]),
        ({"presence_penalty": 1}, [0.0, 0.5, 1.0, 0.0], [2, 2]),
        ({"presence_penalty": 1, "frequency_penalty": 1}, [-1.0, 0.5, 0.0, 0.0], [1, 2]),
        ({"no_repeat_ngram_size": 1}, [-INF, 0.5, -INF, 0.0], [1, 2]),
    ],
)
def test_the_worked_example(settings: dict, scores: list[float], ids: list[int]):
    decoding = replace(GREEDY, **settings)
    found = penalised(LOGITS, WRITTEN, decoding, PLACES)
    torch.testing.assert_close(found[0], torch.tensor(scores))
    assert torch.equal(found[1], LOGITS[1]), "nothing is written there"
    assert choose(LOGITS, WRITTEN, decoding, ROWS, PLACES).tolist() == ids


def test_the_worked_example_of_a_temperature():
    torch.testing.assert_close(tempered(LOGITS[:1], 0.5), torch.tensor([[-2.0, -3.0, 0.0, -4.0]]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_k": 3}, [True, True, True, False]),
        ({"top_k": 3, "top_p": 0.9}, [True, False, True, False]),
    ],
)
def test_the_worked_example_of_what_is_drawn_from(settings: dict, expected: list[bool]):
    found = may_be_drawn(torch.tensor([[-2.0, -3.0, 0.0, -4.0]]), sampling(**settings))
    assert found.tolist() == [expected]


def test_the_worked_examples_of_counts_and_of_ngrams():
    assert counts_of(torch.tensor([[2, 0, 2, -1]]), 4).tolist() == [[1, 0, 2, 0]]
    written = torch.tensor([[5, 6, 7, 5, 6, -1]])
    assert repeats_ngram(written, 5, 3, 9).nonzero().tolist() == [[0, 7]]
    assert not repeats_ngram(torch.tensor([[5, 6, 7, 5, -1, -1]]), 4, 3, 9).any(), "7 5 is new"


def drawn_by(monkeypatch, scores: Tensor, numbers: list[list[float]], **settings) -> list[int]:
    """Draws a token for each row, by the numbers of each time."""
    found = torch.tensor(numbers, dtype=torch.float64)
    monkeypatch.setattr(choosing, "uniform", lambda state, time=0: found[time])
    scores = scores - scores.amax(-1, keepdim=True)
    return draw(scores, may_be_drawn(scores, sampling(**settings)), torch.zeros(1)).tolist()


def test_the_worked_example_of_a_draw(monkeypatch):
    scores = torch.tensor([[1.0, 0.0, 3.0]]).log().expand(5, -1)
    numbers = [0.0, 0.2, 0.26, 0.9, 1 - 2**-53]
    assert drawn_by(monkeypatch, scores, [numbers]) == [0, 0, 2, 2, 2]


def test_a_token_outside_is_drawn_again_among_the_likelier_ones(monkeypatch):
    """Weights 1, 4, 2, 3 (of 10), of which 3 and 4 are drawn from, with top-p 0.7.

    0.55 gives weight 2, which is outside; left are 4 and 3: 0.5 gives 4, and 0.6 gives 3.
    0.05 gives weight 1; left are 4, 2 and 3: 0.5 gives 2, outside; left are 4 and 3.
    """
    scores = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).log().expand(4, -1)
    numbers = [[0.55, 0.55, 0.05, 0.2], [0.5, 0.6, 0.5, 0.9], [0.9, 0.9, 0.9, 0.9]]
    assert drawn_by(monkeypatch, scores, numbers, top_p=0.69) == [1, 3, 3, 1]
    assert drawn_by(monkeypatch, scores, numbers, top_k=2) == [1, 3, 3, 1]


# Filters and penalties are those of transformers, of the written text


@pytest.mark.parametrize("num_ids", [50, 32_000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("settings", "warpers"),
    [
        ({}, []),
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_k": 100_000}, [TopKLogitsWarper(100_000)]),
        ({"top_p": 0.9}, [TopPLogitsWarper(0.9)]),
        ({"top_p": 1e-6}, [TopPLogitsWarper(1e-6)]),
        ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
        (
            {"top_k": 40, "top_p": 0.8, "min_p": 0.02},
            [TopKLogitsWarper(40), TopPLogitsWarper(0.8), MinPLogitsWarper(0.02)],
        ),
    ],
)
def test_what_is_drawn_from_is_what_transformers_draws_from(
    settings: dict, warpers: list, temperature: float, num_ids: int
):
    logits = random_logits(16, num_ids)
    expected: Tensor = logits
    for warper in [TemperatureLogitsWarper(temperature), *warpers]:
        expected = warper(None, expected)
    scores = tempered(logits, temperature)
    is_drawn = may_be_drawn(scores, sampling(temperature=temperature, **settings))
    assert torch.equal(is_drawn, expected.isfinite())
    assert is_drawn.any(-1).all()
    found = scores.masked_fill(~is_drawn, -INF)
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "processor"),
    [
        ({"repetition_penalty": 1.3}, RepetitionPenaltyLogitsProcessor(1.3)),
        ({"no_repeat_ngram_size": 1}, NoRepeatNGramLogitsProcessor(1)),
        ({"no_repeat_ngram_size": 2}, NoRepeatNGramLogitsProcessor(2)),
        ({"no_repeat_ngram_size": 3}, NoRepeatNGramLogitsProcessor(3)),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2, 9])
def test_penalties_are_those_of_transformers_without_its_prompt(settings, processor, place: int):
    logits = random_logits(64, 5)
    ids = torch.randint(0, 5, (64, place), generator=torch.Generator().manual_seed(3))
    written = torch.cat([ids, torch.full((64, 4), NOTHING)], 1)
    found = penalised(logits, written, replace(GREEDY, **settings), place)
    expected = processor(ids, logits) if place else logits
    torch.testing.assert_close(found, expected)
    assert place < 3 or not torch.equal(found, logits)


def test_frequency_counts_each_time_and_presence_once():
    written = torch.tensor([[1, 1, 1, 3, -1]])
    logits = torch.zeros(1, 5)
    found = penalised(logits, written, replace(GREEDY, frequency_penalty=0.5), 4)
    assert found.tolist() == [[0, -1.5, 0, -0.5, 0]]
    found = penalised(logits, written, replace(GREEDY, presence_penalty=0.5), 4)
    assert found.tolist() == [[0, -0.5, 0, -0.5, 0]]


def test_no_text_ends_before_its_least_length():
    logits = torch.tensor([[0.0, 1.0, 5.0, 4.0]] * 2)
    settings = replace(GREEDY, min_new_tokens=3)
    written = torch.tensor([[1, 1, -1], [1, 1, 1]])
    found = choose(logits, written, settings, ROWS, torch.tensor([2, 3]), end_ids=[2, 3])
    assert found.tolist() == [1, 2]


def test_a_tiny_temperature_is_nearly_greedy():
    logits = random_logits(32, 1000) * 10
    written = torch.full((32, 1), NOTHING)
    found = choose(logits, written, sampling(temperature=1e-30), torch.arange(32), 0)
    assert torch.equal(found, logits.argmax(-1))


# Drawing


def test_splitmix64_is_the_published_one():
    """From 1234567 it begins 6457827717110365317, 3203168211198807973."""
    gamma = 0x9E3779B97F4A7C15 - 2**64
    states = torch.tensor([1234567, 1234567 + gamma])
    assert [number % 2**64 for number in splitmix64(states).tolist()] == [
        6457827717110365317,
        3203168211198807973,
    ]


def test_numbers_are_even_from_0_to_below_1_along_each_of_what_they_depend_on():
    many = torch.arange(20_000)
    none = torch.zeros_like(many)
    numbers = {
        "rows": uniform(state_of(0, many, 0, 0)),
        "candidates": uniform(state_of(0, none, many, 0)),
        "places": uniform(state_of(0, none, 0, many)),
        "seeds": torch.cat([uniform(state_of(seed, none[:1], 0, 0)) for seed in range(2000)]),
        "times": torch.cat([uniform(state_of(0, none[:1], 0, 0), time) for time in range(2000)]),
    }
    for name, found in numbers.items():
        assert found.dtype == torch.float64
        assert ((found >= 0) & (found < 1)).all()
        assert found.unique().numel() == found.numel(), name
        size = 4 / math.sqrt(12 * found.numel())
        assert abs(found.mean() - 0.5) < size, name
        following = torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1]
        assert abs(following) < 4 / math.sqrt(found.numel()), name
    assert torch.corrcoef(torch.stack([numbers["rows"], numbers["places"]]))[0, 1].abs() < 0.03


def test_numbers_are_the_same_on_any_machine():
    rows = torch.tensor([0, 1, 2**40])
    expected = [0.3177900558787706, 0.5273016827473349, 0.12769287963580367]
    assert uniform(state_of(7, rows, 1, 5)).tolist() == expected


def test_a_number_is_wrapped_as_int64_does_it():
    assert [wrapped(n) for n in (2**63, -(2**63) - 1, 5)] == [-(2**63), 2**63 - 1, 5]


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {},
            {"temperature": 0.7, "top_p": 0.9},
            {"temperature": 3.0, "top_p": 0.3},
            {"top_k": 5},
            {"min_p": 0.1},
        ),
        {"temperature": 2.0, "top_k": 9, "top_p": 0.8, "min_p": 0.1},
    ],
)
def test_draws_have_the_probabilities_of_what_is_drawn_from(settings: dict):
    """Chi-squared: of 40,000 draws, at a chance of 10^-6 to fail for nothing."""
    num_draws, num_ids = 40_000, 24
    logits = random_logits(1, num_ids, seed=5) / 2
    decoding = sampling(**settings)
    rows = torch.arange(num_draws)
    written = torch.full((num_draws, 1), NOTHING)
    ids = choose(logits.expand(num_draws, -1), written, decoding, rows, 0)
    scores = tempered(logits, decoding.temperature)
    scores = scores.masked_fill(~may_be_drawn(scores, decoding), -INF)
    expected = num_draws * scores[0].softmax(-1).double()
    found = ids.bincount(minlength=num_ids)
    assert (found[expected == 0] == 0).all()
    often = expected > 5
    distance = ((found - expected)[often] ** 2 / expected[often]).sum()
    freedom = int(often.sum()) - 1
    assert distance < freedom + 5 * math.sqrt(2 * freedom) + 12
    assert freedom >= 2


def test_a_token_that_is_not_drawn_from_is_never_drawn(monkeypatch):
    """Also by the largest number, and where it stands at either end."""
    scores = torch.tensor([[-INF, 0.0, -INF, 0.0, -INF]]).expand(4, -1)
    numbers = [0.0, 0.49, 0.51, 1 - 2**-53]
    assert drawn_by(monkeypatch, scores, [numbers]) == [1, 1, 3, 3]
    assert drawn_by(monkeypatch, torch.zeros(1, 2**18), [numbers[-1:]]) == [2**18 - 1]


def test_a_draw_is_a_function_of_seed_row_candidate_and_place():
    logits = random_logits(1, 1000).expand(8, -1) / 8
    written, rows = torch.full((8, 4), NOTHING), torch.arange(8)
    first = choose(logits, written, sampling(), rows, 0)
    assert torch.equal(choose(logits[:3], written[:3], sampling(), rows[:3], 0), first[:3])
    assert torch.equal(choose(logits, written, sampling(), rows.flip(0), 0), first.flip(0))
    assert torch.equal(choose(logits, written, sampling(), rows, torch.zeros(8).long()), first)
    for other in (
        choose(logits, written, sampling(seed=1), rows, 0),
        choose(logits, written, sampling(), rows + 8, 0),
        choose(logits, written, sampling(), rows, 0, candidates=1),
        choose(logits, written, sampling(), rows, 1),
    ):
        assert (other != first).sum() >= 6
