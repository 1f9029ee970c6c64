"""A description depends on its prompt, settings, seed and row alone, and says how it ended."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.batches import PromptBatch, collate_prompts
from amazon_desc.generation.choosing import NOTHING, choose
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.describe import describe, describe_each, generate
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


SETTINGS = DecodingSettings(max_new_tokens=24)


def batch_of(titles: Sequence[str], tokenizer, rows: Sequence[int] | None = None) -> PromptBatch:
    prompts = [tokenizer(title)["input_ids"] for title in titles]
    numbers = range(len(titles)) if rows is None else rows
    return collate_prompts(numbers, titles, [""] * len(titles), prompts, pad_id=END_ID)


def texts(
    model,
    tokenizer,
    titles: Sequence[str],
    settings: DecodingSettings = SETTINGS,
    rows: Sequence[int] | None = None,
) -> list[str]:
    batch = batch_of(titles, tokenizer, rows)
    return [d.text for d in describe(model, tokenizer, batch, [END_ID], settings)]


WAYS = {
    "greedy with penalties": DecodingSettings(
        24, repetition_penalty=1.3, frequency_penalty=0.2, no_repeat_ngram_size=3
    ),
    "drawn": DecodingSettings(24, temperature=0.9, top_p=0.95, repetition_penalty=1.1),
}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_a_text_is_the_same_in_any_batch_and_resumed_at_any_line(model, tokenizer, settings):
    """Whoever is beside it; its row stays that of its title in the file."""
    together = texts(model, tokenizer, TITLES, settings)
    alone = [texts(model, tokenizer, [t], settings, [row])[0] for row, t in enumerate(TITLES)]
    assert together == alone
    assert texts(model, tokenizer, TITLES[2:], settings, [2, 3, 4]) == together[2:]
    others = texts(model, tokenizer, TITLES[::-1], settings, [4, 3, 2, 1, 0])
    assert others == together[::-1]
    assert len(set(together)) == len(TITLES)
    assert together != texts(model, tokenizer, TITLES), "the settings do something"


def test_what_is_drawn_depends_on_seed_and_row(model, tokenizer):
    drawn = WAYS["drawn"]
    same = ["Mug"] * 4
    first = texts(model, tokenizer, same, drawn)
    assert len(set(first)) == 4
    assert texts(model, tokenizer, same, drawn, [4, 5, 6, 7]) != first
    assert texts(model, tokenizer, same, replace(drawn, seed=1)) != first
    assert texts(model, tokenizer, same, replace(WAYS["greedy with penalties"], seed=1)) == texts(
        model, tokenizer, same, WAYS["greedy with penalties"]
    )


def test_the_random_state_of_torch_is_neither_read_nor_moved(model, tokenizer):
    torch.manual_seed(1)
    first, state = texts(model, tokenizer, TITLES, WAYS["drawn"]), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert texts(model, tokenizer, TITLES, WAYS["drawn"]) == first


def test_each_token_is_the_one_that_choose_says(model, tokenizer):
    """Written again with the whole text at each step, without a cache or generate()."""
    settings, batch = WAYS["drawn"], batch_of(TITLES[2:4], tokenizer, [7, 9])
    model.eval()
    new_ids = generate(model, batch, [END_ID], settings)
    for index, ids in enumerate(new_ids.tolist()):
        prompt = batch.input_ids[index][batch.attention_mask[index] == 1].tolist()
        kept = ids[: ids.index(END_ID) + 1] if END_ID in ids else ids
        with torch.no_grad():
            logits = model(torch.tensor([prompt + kept])).logits[0, len(prompt) - 1 : -1]
        for place, token in enumerate(kept):
            written = torch.tensor([kept[:place] + [NOTHING] * (24 - place)])
            row = batch.rows[index : index + 1]
            chosen = choose(logits[place][None], written, settings, row, place)
            assert chosen.item() == token, (index, place)
    model.train()


def test_the_titles_words_are_not_penalised_before_they_are_written(model, tokenizer):
    """As they are by transformers, which counts the prompt."""
    title = "The shelf in the kitchen. The shelf in the kitchen. The shelf in the"
    ids = tokenizer(title, return_tensors="pt")["input_ids"]
    settings = replace(SETTINGS, repetition_penalty=3.0, max_new_tokens=12)
    penalty = {"repetition_penalty": 3.0, "max_new_tokens": 12, "pad_token_id": END_ID}
    model.eval()
    ours = generate(model, batch_of([title], tokenizer), [END_ID], settings)
    of_written = RepetitionPenaltyLogitsProcessor(3.0, prompt_ignore_length=ids.shape[1])
    expected = model.generate(
        ids, logits_processor=[of_written], **{**penalty, "repetition_penalty": 1.0}
    )
    with_prompt = model.generate(ids, **penalty)
    model.train()
    assert torch.equal(ours, expected[:, ids.shape[1] :])
    assert not torch.equal(expected, with_prompt)


def test_beams_are_those_of_transformers(model, tokenizer):
    ids = tokenizer(TITLES[4], return_tensors="pt")["input_ids"]
    settings = replace(SETTINGS, num_beams=3, num_candidates=2)
    model.eval()
    ours = generate(model, batch_of(TITLES[4:], tokenizer), [END_ID], settings)
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 24}
    expected = model.generate(ids, do_sample=False, pad_token_id=END_ID, **options)
    model.train()
    assert torch.equal(ours, expected[:, ids.shape[1] :])
    assert texts(model, tokenizer, TITLES, settings) != texts(model, tokenizer, TITLES)
    penalised = replace(settings, no_repeat_ngram_size=2)
    model.eval()
    (best, _) = generate(model, batch_of(TITLES[4:], tokenizer), [END_ID], penalised).tolist()
    pairs = list(pairwise(best))
    assert len(set(pairs)) == len(pairs) > 10
    model.train()


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_no_text_is_shorter_than_its_least_length(model, tokenizer, settings):
    batch = batch_of(TITLES, tokenizer)
    ends = list(range(2, 400))  # so that each token may well be one
    short = describe(model, tokenizer, batch, ends, settings)
    assert min(d.num_tokens for d in short) < 8
    longer = describe(model, tokenizer, batch, ends, replace(settings, min_new_tokens=8))
    assert min(d.num_tokens for d in longer) >= 8


@pytest.mark.parametrize(
    "settings", [WAYS["drawn"], DecodingSettings(24, num_beams=4)], ids=["drawn", "beams"]
)
def test_the_first_of_several_candidates_is_the_one_that_is_written_alone(
    model, tokenizer, settings
):
    batch = batch_of(TITLES, tokenizer)
    several = replace(settings, num_candidates=3)
    found = describe_each(model, tokenizer, batch, [END_ID], several)
    assert [len(candidates) for candidates in found] == [3] * len(TITLES)
    assert [candidates[0] for candidates in found] == describe(
        model, tokenizer, batch, [END_ID], settings
    )
    assert describe(model, tokenizer, batch, [END_ID], several) == [c[0] for c in found]
    assert all(len({d.text for d in candidates}) > 1 for candidates in found)


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
