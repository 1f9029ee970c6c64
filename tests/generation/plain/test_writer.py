"""A text depends on its prompt, settings, seed and row alone: it is the one that choose says."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.choosing import NOTHING, choose
from amazon_desc.generation.decoding import GREEDY, DecodingSettings
from amazon_desc.generation.plain import generating
from amazon_desc.generation.plain.generating import generate
from amazon_desc.generation.plain.merged import merged
from amazon_desc.generation.plain.writer import batches, write
from amazon_desc.generation.texts import Text, read, text_of
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.writing_plan import BATCHES_SORTED
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
    torch.manual_seed(0)
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    tuned = adapter.attach(base, adapter.LoraSettings(dropout=0.5))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.03)
    return tuned


SETTINGS = replace(GREEDY, max_new_tokens=24)


def prompts_of(titles: Sequence[str], tokenizer, rows: Sequence[int] | None = None) -> list[Prompt]:
    numbers = range(len(titles)) if rows is None else rows
    return [
        Prompt(row, tokenizer(title)["input_ids"])
        for row, title in zip(numbers, titles, strict=True)
    ]


def written(
    model, prompts: list[Prompt], settings: DecodingSettings, ends=(END_ID,), size: int = 8
) -> list[list[Text]]:
    return list(write(model, prompts, settings, ends, size))


def texts(
    model,
    tokenizer,
    titles: Sequence[str],
    settings: DecodingSettings = SETTINGS,
    rows: Sequence[int] | None = None,
) -> list[str]:
    found = written(model, prompts_of(titles, tokenizer, rows), settings)
    return [read(of_title[0], tokenizer).text for of_title in found]


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
    settings, prompts = WAYS["drawn"], prompts_of(TITLES[2:4], tokenizer, [7, 9])
    model.eval()
    for index, (text,) in enumerate(written(model, prompts, settings)):
        prompt, kept = prompts[index].ids, [*text.ids, *[END_ID] * text.has_end]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + kept])).logits[0, len(prompt) - 1 : -1]
        for place, token in enumerate(kept):
            until_now = torch.tensor([kept[:place] + [NOTHING] * (24 - place)])
            row = torch.tensor([prompts[index].row])
            chosen = choose(logits[place][None], until_now, settings, row, place)
            assert chosen.item() == token, (index, place)
    model.train()


def test_the_titles_words_are_not_penalised_before_they_are_written(model, tokenizer):
    """As they are by transformers, which counts the prompt."""
    title = "The shelf in the kitchen. The shelf in the kitchen. The shelf in the"
    ids = tokenizer(title, return_tensors="pt")["input_ids"]
    settings = replace(SETTINGS, repetition_penalty=3.0, max_new_tokens=12)
    penalty = {
        "repetition_penalty": 3.0,
        "max_new_tokens": 12,
        "pad_token_id": END_ID,
        "eos_token_id": END_ID,
    }
    model.eval()
    ours = generate(model, prompts_of([title], tokenizer), [END_ID], settings)
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
    ours = generate(model, prompts_of(TITLES[4:], tokenizer), [END_ID], settings)
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 24}
    expected = model.generate(
        ids, do_sample=False, pad_token_id=END_ID, eos_token_id=END_ID, **options
    )
    model.train()
    assert torch.equal(ours, expected[:, ids.shape[1] :])
    assert texts(model, tokenizer, TITLES, settings) != texts(model, tokenizer, TITLES)
    penalised = replace(settings, no_repeat_ngram_size=2)
    model.eval()
    (best, _) = generate(model, prompts_of(TITLES[4:], tokenizer), [END_ID], penalised).tolist()
    pairs = list(pairwise(best))
    assert len(set(pairs)) == len(pairs) > 10
    model.train()


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_no_text_is_shorter_than_its_least_length(model, tokenizer, settings):
    prompts = prompts_of(TITLES, tokenizer)
    ends = list(range(2, 400))  # so that each token may well be one
    short = written(model, prompts, settings, ends)
    assert min(len(text.ids) for (text,) in short) < 8
    longer = written(model, prompts, replace(settings, min_new_tokens=8), ends)
    assert min(len(text.ids) for (text,) in longer) >= 8


@pytest.mark.parametrize(
    "settings", [WAYS["drawn"], DecodingSettings(24, num_beams=4)], ids=["drawn", "beams"]
)
def test_the_first_of_several_candidates_is_the_one_that_is_written_alone(
    model, tokenizer, settings
):
    prompts = prompts_of(TITLES, tokenizer)
    found = written(model, prompts, replace(settings, num_candidates=3))
    assert [len(candidates) for candidates in found] == [3] * len(TITLES)
    assert [candidates[0] for candidates in found] == [
        text for (text,) in written(model, prompts, settings)
    ]
    assert all(len({tuple(text.ids) for text in candidates}) > 1 for candidates in found)


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
        eos_token_id=END_ID,
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


# Merged, in any batch: the ids of `generate`

MANY = [f"{title} {number}" for number in range(2) for title in TITLES]
ALL_WAYS = {
    **WAYS,
    "greedy": SETTINGS,
    "as it is": DecodingSettings(24),
    "of few": DecodingSettings(24, temperature=1.5, top_k=7, min_p=0.02, num_candidates=2),
    "beams": DecodingSettings(24, num_beams=3, no_repeat_ngram_size=3, num_candidates=2),
}


@pytest.mark.parametrize("settings", ALL_WAYS.values(), ids=ALL_WAYS)
@pytest.mark.parametrize("has_lora", [True, False])
def test_texts_are_those_of_generate_whatever_the_batch(model, tokenizer, settings, has_lora):
    """Where one text after the other ends, of the base as of the tuned weights."""
    network = merged(model, has_lora=has_lora).eval()
    prompts, ends = prompts_of(MANY, tokenizer), [END_ID, *range(300, 330)]
    ids = generate(network, prompts, ends, settings).tolist()
    flat = [text_of(of_one, ends) for of_one in ids]
    num = settings.num_candidates
    wanted = [flat[first : first + num] for first in range(0, len(flat), num)]
    assert len({len(text.ids) for text in flat}) > 3
    for size in (3, 99):
        assert written(network, prompts, settings, ends, size) == wanted
    assert written(network, prompts[4:], settings, ends, 4) == wanted[4:], "resumed"


def test_prompts_are_read_some_batches_ahead_and_no_more(model, tokenizer):
    read_until_now = []

    def reading():
        for prompt in prompts_of(MANY, tokenizer):
            read_until_now.append(prompt)
            yield prompt

    found = write(model, reading(), replace(SETTINGS, max_new_tokens=2), [END_ID], 2)
    next(found)
    assert len(read_until_now) == 2 * BATCHES_SORTED


@pytest.mark.slow
def test_weights_are_merged_without_touching_those_that_train(model, tokenizer):
    """Its gradients before and after texts were written are the same to the last bit."""

    def gradients() -> list[torch.Tensor]:
        ids = torch.tensor([prompts_of(TITLES[2:3], tokenizer)[0].ids])
        model.train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model(input_ids=ids, labels=ids).loss.backward()
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return found

    before = gradients()
    network = merged(model)
    written(network, prompts_of(TITLES, tokenizer), SETTINGS)
    after = gradients()
    assert len(before) > 4
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    ids = torch.tensor([prompts_of(TITLES[2:3], tokenizer)[0].ids])
    with torch.no_grad():
        torch.testing.assert_close(
            network(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-4, rtol=1e-4
        )


def test_the_worked_example_of_batches():
    assert list(batches([3, 5, 3, 3], 2, are_alike=False)) == [[1, 0], [2, 3]]
    assert list(batches([3, 5, 3, 3], 2, are_alike=True)) == [[1], [0, 2], [3]]


# Prompts as generate takes them


def padded_of(*prompts: list[int], pad_id: int = 0, **step: int) -> tuple[list, list]:
    ids, is_token = generating.padded([Prompt(0, ids) for ids in prompts], pad_id, **step)
    return ids.tolist(), is_token.tolist()


def test_the_worked_example_of_padding():
    ids, is_token = padded_of([1, 7], [1, 5, 6, 8], width_step=4)
    assert ids == [[0, 0, 1, 7], [1, 5, 6, 8]]
    assert is_token == [[0, 0, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(("longest", "width"), [(1, 32), (31, 32), (32, 32), (33, 64), (65, 96)])
def test_prompts_of_similar_length_share_a_width(longest: int, width: int):
    ids, is_token = padded_of([1], [9] * longest)
    assert [len(row) for row in ids] == [width] * 2
    assert [sum(row) for row in is_token] == [1, longest]


def test_a_pad_id_inside_a_prompt_is_attended_to():
    """TinyLlama pads with its end token, which its chat template also writes into prompts."""
    ids, is_token = padded_of([1, 2, 9], pad_id=2)
    assert ids == [[2] * 29 + [1, 2, 9]]
    assert is_token == [[0] * 29 + [1, 1, 1]]
