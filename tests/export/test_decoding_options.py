"""The lines of a model card ask transformers for what it can do, and say what it cannot."""

from typing import Any

import pytest
import torch

from amazon_desc.export.decoding_options import (
    function_of_penalties,
    note_on,
    notes_on_vllm,
    options_of_generate,
    options_of_vllm,
)
from amazon_desc.generation.choosing import penalised
from amazon_desc.generation.decoding import DecodingSettings

GREEDY = DecodingSettings(96, no_repeat_ngram_size=0, frequency_penalty=0.0)


def test_greedy_lines_need_no_note():
    assert list(options_of_generate(GREEDY)) == [
        "max_new_tokens=96",
        "do_sample=False",
        "num_beams=1",
        "repetition_penalty=1.0",
        "no_repeat_ngram_size=0",
    ]
    assert note_on(GREEDY) == function_of_penalties(GREEDY) == ""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.0, "presence_penalty": 1.0, "no_repeat_ngram_size": 0},
        {"no_repeat_ngram_size": 1, "frequency_penalty": 0.0},
        {"no_repeat_ngram_size": 2},
    ],
)
def test_penalties_of_the_lines_are_those_of_predict(settings: dict[str, Any]):
    """Each row another text; the prompt is one token, which no penalty counts."""
    decoding = DecodingSettings(**settings)
    assert list(options_of_generate(decoding))[-1] == "logits_processor=[penalised]"
    names: dict[str, Any] = {"torch": torch, "ids": torch.tensor([[3]])}
    exec(function_of_penalties(decoding), names)
    written = torch.tensor([[3, 5, 3, 5, 3], [4, 4, 4, 4, 4], [0, 1, 2, 3, 4]])
    found = torch.cat([torch.full((3, 1), 3), written], 1)
    for length in range(6):
        scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(length))
        wanted = penalised(scores, written[:, :length], decoding, length)
        given = names["penalised"](found[:, : 1 + length], scores.clone())
        torch.testing.assert_close(given, wanted)


def test_all_that_limits_a_draw_is_set_since_transformers_would_fill_it_in():
    options = list(options_of_generate(DecodingSettings(temperature=0.7, min_p=0.05)))
    assert options[1:6] == [
        *("do_sample=True", "temperature=0.7", "top_k=0", "top_p=1.0", "min_p=0.05")
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 1.0}, "numbers of its own"),
        ({"trim": True}, "last whole sentence"),
    ],
)
def test_what_transformers_cannot_do_is_said(settings: dict, words: str):
    note = note_on(DecodingSettings(**settings))
    assert words in note
    assert all(line.startswith("# predict ") for line in note.splitlines())


@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 1.1}, {"num_beams": 2}, {"min_new_tokens": 3}, {"presence_penalty": 1}],
)
def test_what_lines_can_do_needs_no_note(settings: dict):
    assert note_on(DecodingSettings(**settings)) == ""


def test_vllm_is_asked_for_what_it_has_and_the_rest_is_said():
    settings = DecodingSettings(96, presence_penalty=0.5)
    assert list(options_of_vllm(settings)) == [
        *("max_tokens=96", "temperature=0.0", "repetition_penalty=1.0", "presence_penalty=0.5"),
        "frequency_penalty=0.6",
    ]
    assert list(notes_on_vllm(settings)) == [
        "predict lets no run of 7 tokens come twice; vLLM has no such setting."
    ]
    assert list(notes_on_vllm(GREEDY)) == []


def test_a_draw_of_vllm_has_all_limits_and_its_notes():
    settings = DecodingSettings(temperature=0.7, min_p=0.05, min_new_tokens=3, trim=True)
    assert list(options_of_vllm(settings))[1:6] == [
        *("min_tokens=3", "temperature=0.7", "top_k=0", "top_p=1.0", "min_p=0.05")
    ]
    assert any("numbers of its own" in note for note in notes_on_vllm(settings))
    several = DecodingSettings(num_beams=3, repetition_penalty=1.1)
    assert sum("beams" in n or "prompt's tokens" in n for n in notes_on_vllm(several)) == 2
