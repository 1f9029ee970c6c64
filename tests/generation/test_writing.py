"""Predictions come in the titles' order, by any engine, with what they were written for."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.texts import whole_sentences
from amazon_desc.generation.writing import Prediction, Streaming, Writing, write
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.writing_plan import WritingPlan
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.resources import TINY_BASE

TITLES = ["Mug", "The longest of them, with a good many words in it", "two lamps", "An old clock"]
LONGEST = 40
PLAIN = WritingPlan("plain", "", 2, is_merged=True, is_exact=True)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY_BASE)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    tuned = adapter.attach(base, adapter.LoraSettings())
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.03)
    return tuned


@pytest.fixture
def writing(tokenizer) -> Writing:
    return Writing(DecodingSettings(8), tokenizer, [2], LONGEST, torch.float32)


def prompts(tokenizer) -> Iterator[Prompt]:
    for row, title in enumerate(TITLES):
        yield Prompt(row, tokenizer(title)["input_ids"], title, f"that of {title}")


def predictions(model, tokenizer, writing, plan: WritingPlan, **options) -> list[Prediction]:
    return list(write(model, prompts(tokenizer), writing, plan, **options))


@pytest.mark.parametrize("is_merged", [True, False])
def test_each_title_has_its_text_and_its_reference(model, tokenizer, writing, is_merged):
    found = predictions(model, tokenizer, writing, PLAIN._replace(is_merged=is_merged))
    assert [p.title for p in found] == TITLES
    assert [p.reference for p in found] == [f"that of {title}" for title in TITLES]
    assert all(p.description.text and not p.others for p in found)
    assert len({p.description.text for p in found}) == len(TITLES)


@pytest.mark.parametrize("is_merged", [True, False])
def test_the_base_alone_writes_where_it_is_asked_to(model, tokenizer, writing, is_merged):
    plan = PLAIN._replace(is_merged=is_merged)
    alone = predictions(model, tokenizer, writing, plan, has_lora=False)
    assert alone != predictions(model, tokenizer, writing, plan)
    with model.disable_adapter():
        expected = predictions(model, tokenizer, writing, PLAIN._replace(is_merged=False))
    assert alone == expected


def test_several_candidates_come_with_their_title(model, tokenizer, writing):
    settings = DecodingSettings(8, temperature=1.0, num_candidates=3)
    found = predictions(model, tokenizer, writing._replace(settings=settings), PLAIN)
    assert [len(p.others) for p in found] == [2] * len(TITLES)


@pytest.mark.parametrize("is_merged", [True, False])
def test_what_is_kept_writes_again_what_it_wrote(model, tokenizer, writing, is_merged):
    plan = PLAIN._replace(is_merged=is_merged)
    expected = predictions(model, tokenizer, writing, plan)
    kept = Streaming(model, writing, plan)
    for some in (slice(None), slice(1, 2), slice(0, 0), slice(2, 4), slice(None)):
        assert list(kept.write(list(prompts(tokenizer))[some])) == expected[some]


def test_a_stream_that_is_closed_reads_no_further(model, tokenizer, writing):
    read = []

    def reading() -> Iterator[Prompt]:
        for prompt in list(prompts(tokenizer)) * 9:
            read.append(prompt)
            yield prompt

    found = write(model, reading(), writing, PLAIN)
    next(found)
    found.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(read) == 8


# Texts that are read while they grow

WAYS = {
    "greedily": DecodingSettings(12),
    "drawn": DecodingSettings(12, temperature=1.0, seed=5, num_candidates=3),
    "to a whole sentence": DecodingSettings(30, frequency_penalty=0, trim=True),
}


@pytest.mark.parametrize("has_lora", [True, False], ids=["tuned", "base"])
@pytest.mark.parametrize("is_merged", [True, False], ids=["merged", "unmerged"])
@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS.keys())
def test_a_text_grows_to_the_one_that_is_written(
    model, tokenizer, writing, settings, is_merged, has_lora
):
    writing, plan = writing._replace(settings=settings), PLAIN._replace(is_merged=is_merged)
    streaming = Streaming(model, writing, plan, has_lora=has_lora)
    whole = []
    for prompt in prompts(tokenizer):
        *parts, last = streaming(prompt, settings)
        assert {part.description.finish_reason for part in parts} == {None}
        texts = [part.description.text for part in parts]
        assert [part.description.num_tokens for part in parts] == list(range(1, len(parts) + 1))
        assert all(later.startswith(text) for text, later in pairwise(texts))
        assert len(set(texts)) > len(texts) // 2
        assert last.description.text in (texts[-1], whole_sentences(texts[-1]))
        whole.append(last)
    expected = predictions(model, tokenizer, writing, plan, has_lora=has_lora)
    assert whole == [found._replace(others=[]) for found in expected]


def test_what_cannot_be_seen_growing_comes_whole(model, tokenizer, writing):
    beams = writing._replace(settings=DecodingSettings(8, num_beams=3))
    streaming = Streaming(model, beams, PLAIN)
    (found,) = streaming(next(prompts(tokenizer)), beams.settings)
    assert found == predictions(model, tokenizer, beams, PLAIN)[0]
    assert streaming.writes(DecodingSettings(9, num_beams=2))
    assert not streaming.writes(DecodingSettings(9))


@pytest.mark.parametrize("is_merged", [True, False], ids=["merged", "unmerged"])
def test_a_text_that_is_left_while_it_grows_leaves_the_model_as_it_was(
    model, tokenizer, writing, is_merged
):
    plan = PLAIN._replace(is_merged=is_merged)
    before = predictions(model, tokenizer, writing, plan)
    attention = model.get_base_model().config._attn_implementation
    model.train()
    growing = Streaming(model, writing, plan, has_lora=False)(
        next(prompts(tokenizer)), writing.settings
    )
    next(growing)
    growing.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert model.training
    assert model.get_base_model().config._attn_implementation == attention
    model.eval()
    assert predictions(model, tokenizer, writing, plan) == before
