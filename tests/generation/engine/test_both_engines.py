"""Both engines write the same texts in float32, whatever the settings."""

from dataclasses import replace

import pytest
import torch

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.writing import Streaming, Writing, write
from amazon_desc.model.writing_plan import WritingPlan
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import slow_case
from tests.model.fused import HAS_CARD, RUNS_KERNELS, base, with_lora
from tests.model.test_fused_path import in_4_bits

pytestmark = RUNS_KERNELS

GREEDY = DecodingSettings(5, frequency_penalty=2.0)
DRAWN = DecodingSettings(3, temperature=1.0, top_p=0.9, num_candidates=2)
FLOAT32_ONLY = pytest.mark.skipif(HAS_CARD, reason="tensor cores have no float32")


@FLOAT32_ONLY
@pytest.mark.parametrize(
    ("settings", "is_merged", "has_lora"),
    [
        (GREEDY, True, True),
        *(slow_case(GREEDY, *case) for case in [(True, False), (False, True), (False, False)]),
        slow_case(DRAWN, False, True),
        slow_case(DRAWN, True, False),
    ],
)
def test_texts_are_the_same(
    settings: DecodingSettings, is_merged: bool, has_lora: bool, monkeypatch: pytest.MonkeyPatch
):
    """Of weights merged once, or made anew for each product; of candidates too."""
    # each pass computes so many tokens, and an interpreter takes a second for some hundreds
    monkeypatch.setattr("amazon_desc.generation.writing.PREFILLED", 64)
    torch.manual_seed(0)
    model = with_lora(in_4_bits(base("llama", torch.float32)), 0.0).eval()
    num_pieces = model.get_base_model().config.vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(row, torch.randint(3, num_pieces, (length,), generator=generator).tolist(), str(row))
        for row, length in enumerate([3, 11, 1])
    ]
    writing = Writing(settings, load_tokenizer(TINY_BASE), [2], 12, torch.float32)
    texts = {}
    for engine in ("plain", "fused"):
        plan = WritingPlan(engine, "", 3, is_merged or engine == "plain", is_exact=True)
        texts[engine] = list(write(model, prompts, writing, plan, has_lora=has_lora))
    assert texts["fused"] == texts["plain"]
    assert [prediction.title for prediction in texts["fused"]] == ["0", "1", "2"]
    assert len({prediction.description.text for prediction in texts["fused"]}) > 1


@FLOAT32_ONLY
def test_a_text_grows_to_the_same(monkeypatch: pytest.MonkeyPatch):
    """By the fused engine; also after one that was left before its end."""
    monkeypatch.setattr("amazon_desc.generation.writing.PREFILLED", 32)
    torch.manual_seed(0)
    model = with_lora(in_4_bits(base("llama", torch.float32)), 0.0).eval()
    prompts = [Prompt(row, ids, str(row)) for row, ids in enumerate([[5, 6, 7, 8], [9, 10]])]
    settings = DecodingSettings(5, frequency_penalty=2.0)
    writing = Writing(settings, load_tokenizer(TINY_BASE), [2], 12, torch.float32)
    fused, plain = (WritingPlan(name, "", 2, True, is_exact=True) for name in ("fused", "plain"))
    streaming = Streaming(model, writing, fused)
    next(streaming(prompts[1], settings))
    for prompt in prompts:
        *parts, whole = streaming(prompt, settings)
        assert [whole] == list(write(model, [prompt], writing, plain))
        numbers = [part.description.num_tokens for part in parts]
        assert numbers == sorted(set(numbers)) != []
        assert {part.description.finish_reason for part in parts} == {None}
    assert streaming.writes(settings)
    assert not streaming.writes(DecodingSettings(6, frequency_penalty=2.0))


@FLOAT32_ONLY
def test_what_is_kept_writes_again_what_it_wrote(monkeypatch: pytest.MonkeyPatch):
    """Other prompts in other numbers of slots, and then the first ones once more."""
    monkeypatch.setattr("amazon_desc.generation.writing.PREFILLED", 32)
    torch.manual_seed(0)
    model = with_lora(in_4_bits(base("llama", torch.float32)), 0.0).eval()
    prompts = [Prompt(row, ids, str(row)) for row, ids in enumerate([[5, 6, 7, 8], [9, 10], [11]])]
    settings = replace(GREEDY, max_new_tokens=3)
    writing = Writing(settings, load_tokenizer(TINY_BASE), [2], 12, torch.float32)
    fused, plain = (WritingPlan(name, "", 2, True, is_exact=True) for name in ("fused", "plain"))
    kept = Streaming(model, writing, fused)
    for some in (prompts, prompts[:1], [], prompts[1:], prompts):
        assert list(kept.write(some)) == list(write(model, some, writing, plain))
