"""The kernel chooses what the reference does, under every setting."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from amazon_desc.generation.choosing import NOTHING, choose
from amazon_desc.generation.decoding import GREEDY
from amazon_desc.generation.engine.drawing import Chooser
from tests.conftest import slow_case
from tests.model.fused import DEVICE, HAS_CARD, RUNS_KERNELS

pytestmark = RUNS_KERNELS

NUM_SLOTS, NUM_PIECES, LENGTH = (200, 32_000, 40) if HAS_CARD else (4, 300, 12)
ENDS = [2, 7]


def texts(num_repeated: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what texts of 0, 1, 2, ... tokens have, of few different ones, and their lengths."""
    places = torch.arange(NUM_SLOTS, device=DEVICE) % LENGTH
    ids = torch.randint(num_repeated, (NUM_SLOTS, LENGTH), device=DEVICE)
    is_there = torch.arange(LENGTH, device=DEVICE) < places[:, None]
    return ids.where(is_there, NOTHING), places


def counted(chooser: Chooser, written: torch.Tensor) -> None:
    """Has a chooser know of texts that it did not write."""
    for slot, ids in enumerate(written.tolist()):
        for token in ids:
            if token != NOTHING and chooser.has_counts:
                chooser.counts[slot, token] += 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.7, "frequency_penalty": 0.4},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 1.1},
        {"min_new_tokens": 5},
        {"temperature": 1.0},
        {"temperature": 0.7, "seed": 5},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.5, "top_p": 0.5, "top_k": 40, "min_p": 0.02},
        {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.1},
        {"temperature": 1e-4},
        {"temperature": 3.0, "top_p": 0.2},
        {"temperature": 9.0, "top_k": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), slow_case(0.5, 5.0)])
def test_the_kernel_chooses_what_the_reference_does(
    settings: dict[str, Any], scale: float, cap: float | None
):
    torch.manual_seed(0)
    decoding = replace(GREEDY, max_new_tokens=LENGTH, **settings)
    chooser = Chooser(decoding, ENDS, NUM_SLOTS, NUM_PIECES, DEVICE, scale, cap)
    written, places = texts()
    counted(chooser, written)
    logits = (torch.randn(NUM_SLOTS, NUM_PIECES, device=DEVICE) * 3).bfloat16()
    logits[:, [*ENDS, *range(6)]] += 6  # what is written or ends is likely
    rows = torch.arange(NUM_SLOTS, device=DEVICE) * 3
    has_ended = torch.zeros(NUM_SLOTS, dtype=torch.bool, device=DEVICE)
    shaped = scale * logits.float()
    shaped = shaped if cap is None else cap * torch.tanh(shaped / cap)
    candidates = torch.arange(NUM_SLOTS, device=DEVICE) % 3
    wanted = choose(shaped, written, decoding, rows, places, candidates, ENDS)
    before = chooser.counts.clone()
    found = chooser(logits, written, rows, candidates, places, has_ended)
    # probabilities of the card's exp may differ in the last bit, and a draw between two tokens
    num_other = int((found != wanted).sum())
    assert num_other <= (NUM_SLOTS // 100 if decoding.is_sampled else 0)
    if not settings.get("temperature"):
        assert len(set(found.tolist())) > 1
    if chooser.has_counts:  # one more of what was chosen, and no mark is left
        before[torch.arange(NUM_SLOTS, device=DEVICE), found] += 1
        assert torch.equal(chooser.counts, before)


def test_a_text_that_has_ended_counts_nothing_and_a_slot_forgets():
    decoding = replace(GREEDY, repetition_penalty=1.2)
    chooser = Chooser(decoding, ENDS, 2, NUM_PIECES, DEVICE)
    logits = torch.randn(2, NUM_PIECES, device=DEVICE).bfloat16()
    written = torch.full((2, 4), NOTHING, device=DEVICE)
    zeros = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    has_ended = torch.tensor([True, False], device=DEVICE)
    found = chooser(logits, written, zeros, zeros, zeros, has_ended)
    assert chooser.counts.sum(1).tolist() == [0, 1]
    assert int(chooser.counts[1, found[1]]) == 1
    chooser.begin(torch.tensor([1], device=DEVICE))
    assert int(chooser.counts.sum()) == 0
