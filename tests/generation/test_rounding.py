"""A token for which rounding decides is found out, and chosen by the logits of its text alone."""

import pytest
import torch

from amazon_desc.generation.choosing import NOTHING, choose
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.rounding import ROUNDING, choose_surely, chosen

NUM_TEXTS, NUM_IDS, PLACE = 2000, 60, 3
SETTINGS = {
    "greedy": DecodingSettings(repetition_penalty=1.3),
    "drawn": DecodingSettings(temperature=0.8),
    "of the nucleus": DecodingSettings(temperature=1.0, top_p=0.9, frequency_penalty=0.5),
    "of few": DecodingSettings(temperature=1.5, top_k=7, top_p=0.8, min_p=0.02),
}
NEAR = 300  # times as far as rounding, so that it decides often


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """Logits, what is written, rows and candidates; what counts as rounding moves them a lot."""
    monkeypatch.setattr("amazon_desc.generation.rounding.ROUNDING", ROUNDING * NEAR)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(NUM_TEXTS, NUM_IDS, generator=generator)
    written = torch.randint(NUM_IDS, (NUM_TEXTS, PLACE), generator=generator)
    return logits, written, torch.arange(NUM_TEXTS), torch.zeros(NUM_TEXTS, dtype=torch.int64)


def moved(logits: torch.Tensor, seed: int) -> torch.Tensor:
    """Returns logits that rounding has moved as far as it may."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randint(2, logits.shape, generator=generator) * 2 - 1
    return logits + 0.99 * ROUNDING * NEAR * logits.abs().amax(-1, keepdim=True) * sides


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_is_settled_is_chosen_wherever_rounding_moves_the_logits(
    settings: DecodingSettings, texts: tuple[torch.Tensor, ...]
):
    logits, written, rows, candidates = texts
    which = written, settings, rows, PLACE, candidates
    found, settled = chosen(logits, *which)
    wanted = choose(logits, *which)
    assert torch.equal(found[settled], wanted[settled])
    is_other = torch.zeros(NUM_TEXTS, dtype=torch.bool)
    for seed in range(20):
        is_other |= choose(moved(logits, seed), *which) != wanted
    assert is_other.sum() > 5, "rounding decides"
    assert not (is_other & settled).any()
    assert settled.float().mean() > 0.8


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_texts_do_not_depend_on_how_their_logits_are_rounded(
    settings: DecodingSettings, texts: tuple[torch.Tensor, ...]
):
    logits, written, rows, candidates = texts
    which = written, settings, rows, PLACE, candidates
    wanted, are_equal = choose(logits, *which), []
    for seed in range(3):
        rounded = moved(logits, seed)
        found = choose_surely(rounded, *which, (), lambda number: logits[number])
        assert torch.equal(found, wanted)
        are_equal.append(torch.equal(choose_surely(rounded, *which, (), None), wanted))
    assert not all(are_equal), "rounding decides"


def test_the_worked_example():
    settings = DecodingSettings()
    logits = torch.tensor([[20.0, 19.9999, 3.0], [20.0, 19.9, 3.0]])
    written = torch.full((2, 1), NOTHING)
    zeros = torch.zeros(2, dtype=torch.int64)
    assert chosen(logits, written, settings, zeros, 0, zeros)[1].tolist() == [False, True]
