"""Descriptions do not depend on their neighbours, and say how they ended."""

import pytest
import torch

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.batches import PromptBatch, collate_prompts
from amazon_desc.generation.describe import describe, read
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.resources import TINY_BASE

TITLES = [
    "A small red cup",
    "Mug",
    "Title: the longest of them, with a good many words in it, and still more words to come",
    "two lamps",
    "An old clock stood on the shelf in the kitchen",
]
END_ID = 2


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY_BASE)


@pytest.fixture(scope="module")
def model():
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    return adapter.attach(base, adapter.LoraSettings(dropout=0.5))


def batch_of(titles: list[str], tokenizer) -> PromptBatch:
    prompts = [tokenizer(title)["input_ids"] for title in titles]
    return collate_prompts(titles, [""] * len(titles), prompts, pad_id=END_ID)


def texts(model, tokenizer, titles: list[str]) -> list[str]:
    batch = batch_of(titles, tokenizer)
    return [d.text for d in describe(model, tokenizer, batch, [END_ID], max_new_tokens=24)]


def test_batched_left_padded_texts_equal_those_written_one_by_one(model, tokenizer) -> None:
    together = texts(model, tokenizer, TITLES)
    alone = [texts(model, tokenizer, [title])[0] for title in TITLES]
    assert together == alone
    assert len(set(together)) > 1
    assert all(together)


def test_texts_equal_transformers_own_greedy_ones_without_padding(model, tokenizer) -> None:
    ids = tokenizer(TITLES[4], return_tensors="pt")["input_ids"]
    model.eval()
    expected = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        pad_token_id=END_ID,
    )
    model.train()
    text = tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert texts(model, tokenizer, [TITLES[4]]) == [text]


def test_a_base_whose_own_settings_sample_is_still_read_greedily(model, tokenizer) -> None:
    expected = texts(model, tokenizer, TITLES[:2])
    settings = model.get_base_model().generation_config
    settings.do_sample, settings.temperature, settings.repetition_penalty = True, 5.0, 3.0
    assert texts(model, tokenizer, TITLES[:2]) == expected


def test_dropout_is_off_while_writing_and_on_again_afterwards(model, tokenizer) -> None:
    model.train()
    first = texts(model, tokenizer, TITLES)
    assert model.training
    assert texts(model, tokenizer, TITLES) == first


def test_a_text_that_ends_by_itself_stops_and_its_end_token_is_not_counted(tokenizer) -> None:
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert read([*ids, END_ID, END_ID], tokenizer, [END_ID]) == ("a red cup", "stop", len(ids))


def test_a_text_that_reached_the_limit_says_so(tokenizer) -> None:
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert read(ids, tokenizer, [END_ID]) == ("a red cup", "length", len(ids))


def test_each_of_several_end_tokens_ends_a_text(tokenizer) -> None:
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert read([*ids, 7, *ids], tokenizer, [END_ID, 7]).finish_reason == "stop"
    assert read([*ids, 7, *ids], tokenizer, [END_ID, 7]).num_tokens == len(ids)
