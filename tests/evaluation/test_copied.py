"""Copies are found in token ids as they are by comparing with every description."""

import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from amazon_desc.data.corpus.tables import ExampleWriter, examples_schema, open_table, writing
from amazon_desc.data.encoding.tokenizer import backend_of
from amazon_desc.data.encoding.words import WordTokenizer
from amazon_desc.evaluation.copied import copied

DESCRIPTION = "Knit from soft merino wool, it keeps you warm on the coldest of days."
COPY = "This hat, knit from soft merino wool, it keeps you warm on the coldest day."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words and parts of words, trained in a moment."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    core.train_from_iterator([COPY, DESCRIPTION, string.ascii_letters], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def examples_of(descriptions: Sequence[str], tokenizer: Any, path: Path, prompt: str = "Title:"):
    """Returns a table of examples as a corpus has it."""
    encode = WordTokenizer(backend_of(tokenizer))
    before = [1, *encode([prompt])[0]]
    schema = examples_schema("uint16" if len(tokenizer) < 2**16 else "int32")
    with writing(path, schema) as writer:
        table = ExampleWriter(writer, schema)
        for ids in encode(descriptions):
            example = np.array([*before, *ids, tokenizer.eos_token_id])
            example = example.astype(schema.field("input_ids").type.value_type.to_pandas_dtype())
            lengths = np.array([len(example)], np.int64), np.array([len(before)], np.int32)
            table.add(example, *lengths)
        table.flush()
    return open_table(path)


def plainly_copied(texts: Sequence[str], descriptions: Sequence[str]) -> list[bool]:
    """What `copied` promises, by comparing each text with every description."""
    plain = [" ".join(description.split()) for description in descriptions]
    everything = "\n".join(plain)
    runs = {
        tuple(words[n : n + 8])
        for text in plain
        for words in [text.split(" ")]
        for n in range(len(words) - 7)
    }

    def is_copied(text: str) -> bool:
        text = " ".join(text.split())
        if any(text[n : n + 50] in everything for n in range(len(text) - 49)):
            return True
        words = text.split(" ")
        own = [tuple(words[n : n + 8]) in runs for n in range(len(words) - 7)]
        return bool(own) and sum(own) >= 0.5 * len(own)

    return [is_copied(text) for text in texts]


def test_the_worked_example(tokenizer, tmp_path: Path):
    others = ["A red mug.", DESCRIPTION, "A blue cup for tea."]
    examples = examples_of(others, tokenizer, tmp_path / "examples.arrow")
    texts = [COPY, "A red mug.", COPY.replace("soft", "fine"), "", "hat", DESCRIPTION]
    assert plainly_copied(texts, others) == [True, False, False, False, False, True]
    assert copied(texts, examples, tokenizer) == [True, False, False, False, False, True]


def test_white_space_is_one_space(tokenizer, tmp_path: Path):
    examples = examples_of([DESCRIPTION], tokenizer, tmp_path / "examples.arrow")
    assert copied([COPY.replace(" ", " \n ")], examples, tokenizer) == [True]


def test_prompts_and_examples_that_were_not_chosen_are_no_source(tokenizer, tmp_path: Path):
    path = tmp_path / "examples.arrow"
    examples = examples_of(["A red mug.", "A cup."], tokenizer, path, prompt=DESCRIPTION)
    assert copied([DESCRIPTION], examples, tokenizer) == [False]
    examples = examples_of(["A mug.", DESCRIPTION], tokenizer, tmp_path / "others.arrow")
    assert copied([COPY], examples, tokenizer, np.array([0])) == [False]
    assert copied([COPY], examples, tokenizer, np.array([1])) == [True]


def test_a_passage_does_not_reach_over_two_descriptions(tokenizer, tmp_path: Path):
    """30 characters of the end of one and 30 of the beginning of the next."""
    halves = [DESCRIPTION[:35], DESCRIPTION[35:]]
    examples = examples_of(halves, tokenizer, tmp_path / "examples.arrow")
    assert copied([DESCRIPTION], examples, tokenizer) == [False]


def test_half_of_the_runs_of_eight_words_make_a_copy(tokenizer, tmp_path: Path):
    """Nine words of 28 characters: too short a passage, but two runs of eight words."""
    words = "it is so of an old cup to me"
    assert len(words) == 28
    texts = [words, f"{words} and so", f"{words} and so on"]
    assert plainly_copied(texts, [f"Oh, {words} now"]) == [True, True, False]
    examples = examples_of([f"Oh, {words} now"], tokenizer, tmp_path / "examples.arrow")
    assert copied(texts, examples, tokenizer) == [True, True, False]


def test_nothing_is_copied_from_nothing(tokenizer, tmp_path: Path):
    examples = examples_of(["A mug."], tokenizer, tmp_path / "examples.arrow")
    assert copied([], examples, tokenizer) == []
    assert copied(["", "a"], examples, tokenizer) == [False, False]


@pytest.mark.real
def test_copies_of_real_descriptions_are_those_of_a_plain_comparison(
    tinyllama, real_products, tmp_path: Path
):
    """Texts cut out of training descriptions, 30 to 90 characters of them, amid others."""
    draw = random.Random(0)
    learnt = [product.description[:800] for product in real_products[:3000]]
    others = [product.description for product in real_products[3000:3300]]
    texts = []
    for other in others:
        source = draw.choice(learnt)
        start = draw.randrange(max(1, len(source) - 90))
        cut = source[start : start + draw.randrange(30, 91)]
        texts.append(f"{other[:80]} {cut} {other[80:160]}")
    examples = examples_of(learnt, tinyllama, tmp_path / "examples.arrow")
    expected = plainly_copied(texts, learnt)
    found = copied(texts, examples, tinyllama)
    assert 100 < sum(expected) < 250
    assert [n for n in range(300) if found[n] and not expected[n]] == []
    missed = [texts[n] for n in range(300) if expected[n] and not found[n]]
    assert len(missed) <= 3, missed
