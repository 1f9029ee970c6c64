"""Which engine writes, and how many texts at a time, is decided once, and said with the reason."""

import re
from typing import Any

import pytest
import torch

from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.cost.memory import GIB
from amazon_desc.model.cost.shape import shape_of
from amazon_desc.model.cost.writing import cache_bytes, merged_bytes, writing_bytes
from amazon_desc.model.machine import Machine
from amazon_desc.model.plan import Task, bytes_loaded
from amazon_desc.model.writing_plan import Texts, WritingPlan, plan_writing
from amazon_desc.support.errors import UserError
from tests.conftest import gemma_config, tinyllama_config

CPU = Machine(24 * GIB, 0.5, 8192, "the device is cpu, not cuda")
CARD = Machine(80 * GIB)
MANY = Texts(20_000, 384)


def task(config: Any = None, dtype: torch.dtype = torch.bfloat16) -> Task:
    return Task(config or tinyllama_config(), LoraSettings(), "nf4", dtype, 2048, None)


def test_a_card_writes_with_the_fused_engine_and_many_slots():
    found = plan_writing(task(), CARD, MANY)
    assert str(found) == "Texts: fused engine; 1024 at a time, weights merged."


def test_without_a_card_the_plain_engine_writes_and_says_why():
    found = plan_writing(task(dtype=torch.float32), CPU, MANY)
    assert str(found) == (
        "Texts: plain engine (fused kernels: the device is cpu, not cuda); 32 at a time, weights "
        "merged."
    )


@pytest.mark.parametrize(
    ("hidden", "num_texts", "at_a_time"),
    [(128, 20_000, 256), (128, 250, 256), (128, 100, 128), (128, 3, 4), (256, 20_000, 64)],
)
def test_on_a_cpu_more_texts_of_a_small_base_are_written_at_a_time(hidden, num_texts, at_a_time):
    """4 layers of the base that ships: a step costs more than its arithmetic with few texts.

    Twice as wide, they have 3.1 million weights instead of 0.8: arithmetic takes longer.
    """
    config = tinyllama_config()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 4, hidden, 3 * hidden
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = hidden // 32, 2, 32
    found = plan_writing(task(config, torch.float32), CPU, MANY._replace(num_texts=num_texts))
    assert found.at_a_time == at_a_time


def test_what_is_asked_for_is_done_or_refused():
    assert plan_writing(task(), CARD, MANY._replace(engine="plain", at_a_time=7)) == WritingPlan(
        "plain", ", as asked for", 7, is_merged=True, is_exact=False
    )
    with pytest.raises(UserError, match=r"engine fused: it needs the fused kernels, and the dev"):
        plan_writing(task(), CPU, MANY._replace(engine="fused"))
    with pytest.raises(UserError, match="and they write no beams"):
        plan_writing(task(), CARD, MANY._replace(engine="fused", has_beams=True))


def test_beams_are_plain():
    found = plan_writing(task(), CARD, MANY._replace(has_beams=True, num_copies=4))
    assert (found.engine, found.reason) == ("plain", " (fused kernels: they write no beams)")


@pytest.mark.parametrize(
    ("num_titles", "num_candidates", "slots"),
    [(1, 1, 16), (16, 1, 16), (17, 1, 32), (300, 1, 512), (300, 4, 1024), (10**6, 1, 1024)],
)
def test_slots_are_as_many_as_there_are_texts_for(num_titles, num_candidates, slots):
    found = plan_writing(task(), CARD, Texts(num_titles, 384, num_copies=num_candidates))
    assert found.at_a_time == slots


def test_less_memory_means_fewer_slots_then_weights_that_are_unpacked():
    plans = [
        plan_writing(task(gemma_config()), Machine(round(gib * GIB)), MANY)
        for gib in (139, 80, 40, 16, 6, 1)
    ]
    assert [(p.at_a_time, p.is_merged) for p in plans[:2]] == [(1024, True)] * 2
    numbers = [p.at_a_time for p in plans if p.is_merged]
    assert numbers == sorted(numbers, reverse=True)
    assert not plans[-2].is_merged
    assert "weights unpacked for each product" in str(plans[-2])
    assert re.search(
        r"\d GiB needed, 1\.0 GiB free: if memory runs out, lower --data", str(plans[-1])
    )


def test_what_is_resumed_goes_on_with_as_many_texts_at_a_time():
    """By the engine that wrote it; another one chooses for itself."""
    assert plan_writing(task(), CARD, MANY._replace(before=("fused", 128))).at_a_time == 128
    assert plan_writing(task(), CARD, MANY._replace(before=("plain", 128))).at_a_time == 1024
    asked = MANY._replace(before=("fused", 128), at_a_time=64)
    assert plan_writing(task(), CARD, asked).at_a_time == 64


def test_titles_are_written_together_where_neighbours_change_a_text():
    """In half precision by the plain engine; not in float32, nor in slots."""
    plain = WritingPlan("plain", "", 32, is_merged=True, is_exact=False)
    assert (plain.titles_together, plain.titles_at_a_time) == (128, 128)
    exact = plain._replace(is_exact=True)
    assert (exact.titles_together, exact.titles_at_a_time) == (1, 32)
    fused = plain._replace(engine="fused", at_a_time=1024)
    assert (fused.titles_together, fused.titles_at_a_time) == (1, 128)


def test_bytes_are_those_of_the_tensors():
    """TinyLlama's: 968,884,224 weights in the layers; 22 layers of 4 heads of 64, twice."""
    shape = shape_of(tinyllama_config())
    assert merged_bytes(shape, 2) == 2 * 968_884_224
    assert cache_bytes(shape, 1024, 384, 2) == 1024 * 384 * 22 * 2 * 256 * 2
    whole = writing_bytes(shape, 1024, 384, 4096, 2, is_merged=True)
    lean = writing_bytes(shape, 1024, 384, 4096, 2, is_merged=False)
    assert 1.5e9 < whole - lean < 2 * 968_884_224
    assert bytes_loaded(task()) < 1 * GIB
