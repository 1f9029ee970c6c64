"""Settings of decoding that make no sense are refused, with what to set instead."""

import dataclasses
import math

import pytest

from amazon_desc.generation.decoding import RANGES, DecodingSettings
from amazon_desc.support.errors import UserError


def refusal(**settings) -> str:
    with pytest.raises(UserError) as refused:
        DecodingSettings(**settings)
    return str(refused.value)


WRONG = [
    *[("max_new_tokens", 0), ("min_new_tokens", -1), ("temperature", -0.1), ("top_k", -1)],
    *[("top_p", 0.0), ("top_p", 1.1), ("min_p", 1.0), ("min_p", -0.1)],
    *[("repetition_penalty", 0.0), ("no_repeat_ngram_size", -1)],
    *[("presence_penalty", 2.1), ("frequency_penalty", -2.1)],
    *[("num_beams", 0), ("num_candidates", 0), ("seed", -1), ("seed", 2**63)],
    *[("temperature", math.inf), ("temperature", math.nan), ("top_p", math.nan)],
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_out_of_range_is_refused_with_its_option(name: str, value: float):
    said = refusal(**{name: value})
    assert said.startswith(f"--model.decoding.{name} {value}: wanted ")
    assert "Set it to" in said


def test_every_number_has_its_range():
    numbers = {field.name for field in dataclasses.fields(DecodingSettings)} - {"trim"}
    assert numbers == set(RANGES) == {name for name, _ in WRONG}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top_p": 0.9}, ("top_p 0.9: ", "temperature 0.")),
        ({"top_k": 5}, ("top_k 5: ", "temperature 0.")),
        ({"min_p": 0.1}, ("min_p 0.1: ", "temperature 0.")),
        ({"num_beams": 2, "temperature": 0.7}, ("num_beams 2: wanted 1", "temperature 0.7.")),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, ("min_new_tokens 9: ", "found 8")),
        ({"num_candidates": 2}, ("num_candidates 2: ", "num_beams 1.")),
        ({"num_candidates": 3, "num_beams": 2}, ("num_candidates 3: ", "num_beams 2.")),
    ],
)
def test_what_does_not_go_together_is_refused_with_both_options(
    settings: dict, words: tuple[str, str]
):
    said = refusal(**settings)
    assert all(word in said for word in words)
    assert said.count("--model.decoding.") >= 2


def test_what_makes_sense_is_taken():
    DecodingSettings(temperature=0.7, top_k=50, top_p=0.9, min_p=0.05, num_candidates=4)
    DecodingSettings(num_beams=4, num_candidates=4, no_repeat_ngram_size=4)
    DecodingSettings(min_new_tokens=8, max_new_tokens=8, repetition_penalty=1.1, trim=True)


def test_without_settings_texts_are_greedy_and_nothing_is_penalised():
    assert not DecodingSettings().is_sampled
    assert DecodingSettings(repetition_penalty=1.0) == DecodingSettings()


def test_null_is_recorded_as_the_number_that_it_means():
    assert DecodingSettings(top_k=None) == DecodingSettings(top_k=0)
