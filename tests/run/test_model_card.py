"""The lines of a model card ask transformers for what it can do, and say what it cannot."""

import pytest

from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.run.model_card import note_on, options_of_generate


def test_greedy_lines_need_no_note():
    assert list(options_of_generate(DecodingSettings(96))) == [
        "max_new_tokens=96",
        "do_sample=False",
        "num_beams=1",
        "repetition_penalty=1.0",
        "no_repeat_ngram_size=0",
    ]
    assert note_on(DecodingSettings(96)) == ""


def test_all_that_limits_a_draw_is_set_since_transformers_would_fill_it_in():
    options = list(options_of_generate(DecodingSettings(temperature=0.7, min_p=0.05)))
    assert options[1:6] == [
        *("do_sample=True", "temperature=0.7", "top_k=0", "top_p=1.0", "min_p=0.05")
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 1.0}, "numbers of its own"),
        ({"presence_penalty": 0.5}, "a presence penalty of 0.5"),
        ({"frequency_penalty": 0.5}, "a frequency penalty of 0.5"),
        ({"no_repeat_ngram_size": 4}, "not in the prompt"),
        ({"trim": True}, "last whole sentence"),
    ],
)
def test_what_transformers_cannot_do_is_said(settings: dict, words: str):
    note = note_on(DecodingSettings(**settings))
    assert words in note
    assert all(line.startswith("# predict ") for line in note.splitlines())


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 1.1}, {"num_beams": 2}, {"min_new_tokens": 3}]
)
def test_what_transformers_can_do_needs_no_note(settings: dict):
    assert note_on(DecodingSettings(**settings)) == ""
