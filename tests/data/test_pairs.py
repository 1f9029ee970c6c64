"""Pairs: everything that is known of a record is known from its batch alone."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from amazon_desc.data.cleaning.cleaner import Cleaner, CleaningSettings
from amazon_desc.data.corpus.pairs import (
    ENDINGS,
    LEAK_CHARACTERS,
    PairBatch,
    PairMaker,
    ProductBatch,
    holds_description,
)
from amazon_desc.data.corpus.splits import SPLITS, split_at, text_hash
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.support.resources import SAMPLE_PRODUCTS, TINY_BASE

TITLES = [f"mug w{number}" for number in range(40)]


def maker_of(
    tokenizer: PreTrainedTokenizerBase, max_seq_length: int = 40, token_type: str = "uint16"
) -> PairMaker:
    encoder = Encoder(tokenizer, PromptSettings(template="describe: {title}"), max_seq_length)
    return PairMaker(Cleaner(CleaningSettings()), encoder, 0.25, 0.25, token_type)


def test_what_is_known_of_a_pair(toy_tokenizer: PreTrainedTokenizerBase):
    """<s> ▁describe : ▁mug ▁w7, then "It holds a mug." and the end token."""
    titles, text = [" Mug  w7", "MUG w7"], "<b>It</b> holds a mug."
    made = maker_of(toy_tokenizer)(ProductBatch(titles, [text, "It holds a mug. " * 9]))
    first, second = made.pairs
    assert first["title"] == second["title"] == text_hash("mug w7", "distinct")
    assert first["part"] == second["part"] == text_hash("mug w7", "part")
    assert first["description"] == text_hash("It holds a mug.", "distinct") != second["description"]
    side = split_at(text_hash("mug w7", "split"), 0.25, 0.25)
    assert SPLITS[first["split"]] == SPLITS[second["split"]] == side
    assert [ENDINGS[pair["ending"]] for pair in made.pairs] == ["whole", "shortened"]
    assert made.pairs["title_characters"].tolist() == [6, 6]
    assert made.pairs["description_characters"].tolist() == [15, 143]
    assert made.pairs["num_tokens"].tolist() == [11, 36]
    assert made.pairs["num_prompt_tokens"].tolist() == [5, 5]
    assert not made.pairs["is_tested"].any()
    assert made.split_hashes.tolist() == [text_hash("mug w7", "split")] * 2


TEXT = "It holds a mug, and a mug, and a red mug, and a mug, too."


@pytest.mark.parametrize(
    ("title", "description", "is_leak"),
    [
        ("Red Mug - A MUG OF CLAY", "A mug of clay", True),  # the docstring's
        ("Red Mug", "Red Mug: a mug of clay", False),
        (f"Red Mug - {TEXT}", TEXT, True),
        (f"Red Mug - {TEXT[:50]}", TEXT, True),  # cut behind what is compared
        (f"Red Mug - {TEXT[:49]}", TEXT, False),
        (f"Red Mug - {TEXT}", TEXT[:49] + "X", False),
        (TEXT, f"{TEXT} It is red.", False),  # the description begins with the title
        ("It holds a mug", "a mug", True),
        ("A mug", "A mug of clay", False),
    ],
)
def test_a_title_holds_its_description_behind_other_words(
    title: str, description: str, is_leak: bool
):
    assert len(TEXT) > LEAK_CHARACTERS == 50
    assert holds_description(title, description) == is_leak


def test_the_first_leak_of_a_batch_is_named(toy_tokenizer: PreTrainedTokenizerBase):
    """Number 1 among the pairs, number 2 among the records: a refused one stands in front."""
    titles = ["mug w1", "", f"mug &amp; w2: {TEXT}", f"mug w3: {TEXT}"]
    made = maker_of(toy_tokenizer)(ProductBatch(titles, ["It holds a mug.", TEXT, TEXT, TEXT]))
    assert made.pairs["is_leak"].tolist() == [False, True, True]
    assert made.leak == (1, 2)
    assert maker_of(toy_tokenizer)(ProductBatch(titles[:1], [TEXT])).leak is None


def test_ids_go_to_the_side_that_the_title_is_on(toy_tokenizer: PreTrainedTokenizerBase):
    made = maker_of(toy_tokenizer)(ProductBatch(TITLES, ["It holds a mug."] * 40))
    wanted = [[1, 10, 11, 13, 100 + n, 22, 23, 20, 13, 21, 2] for n in range(40)]
    sides = [split_at(text_hash(title, "split"), 0.25, 0.25) for title in TITLES]
    trained = [ids for ids, side in zip(wanted, sides, strict=True) if side == "train"]
    held_out = [n for n, side in enumerate(sides) if side != "train"]
    assert len(trained) >= 10
    assert len(held_out) >= 10
    assert made.train_ids.tolist() == [token for ids in trained for token in ids]
    assert made.train_ids.dtype == np.uint16
    assert [record.title for record in made.held_out] == [TITLES[n] for n in held_out]
    assert [record.input_ids for record in made.held_out] == [wanted[n] for n in held_out]
    assert {record.description for record in made.held_out} == {"It holds a mug."}
    assert {record.num_prompt_tokens for record in made.held_out} == {5}
    orders = [text_hash(TITLES[n], "order") for n in held_out]
    assert [record.order for record in made.held_out] == orders


def test_refused_records_are_counted_and_the_first_are_named(
    toy_tokenizer: PreTrainedTokenizerBase,
):
    titles = ["", "mug w1", *[""] * 4, "mug w2", "mug w3"]
    texts = ["It holds a mug."] * 6 + ["mug W2", ""]
    made = maker_of(toy_tokenizer)(ProductBatch(titles, texts))
    assert len(made.pairs) == 1
    assert made.refused == {"empty_title": 5, "content_equals_title": 1, "empty_content": 1}
    assert made.refused_at == {
        "empty_title": [0, 2, 3],
        "content_equals_title": [6],
        "empty_content": [7],
    }


def test_of_a_test_file_every_pair_is_tested_and_every_title_is_known(
    toy_tokenizer: PreTrainedTokenizerBase,
):
    texts = ["It holds a mug.", *[""] * 39]
    made = maker_of(toy_tokenizer)(ProductBatch(TITLES, texts, is_tested=True))
    assert made.pairs["is_tested"].tolist() == [True]
    assert SPLITS[made.pairs["split"][0]] == "test"
    assert made.titles.tolist() == [text_hash(title, "distinct") for title in TITLES]
    assert [record.title for record in made.held_out] == ["mug w0"]


def test_what_is_beyond_the_part_is_not_tokenised(toy_tokenizer: PreTrainedTokenizerBase):
    parts = sorted(text_hash(title, "part") for title in TITLES)
    batch = ProductBatch(TITLES, ["It holds a mug."] * 40, max_part=parts[9])
    made = maker_of(toy_tokenizer)(batch)
    assert sorted(made.pairs["part"].tolist()) == parts[:10]
    assert made.refused == {"beyond num_products": 30}


def test_a_batch_of_nothing_usable_gives_empty_columns(toy_tokenizer: PreTrainedTokenizerBase):
    for titles in ([], ["", ""]):
        made = maker_of(toy_tokenizer)(ProductBatch(titles, titles))
        assert (len(made.pairs), len(made.train_ids), made.held_out) == (0, 0, [])


def columns(made: PairBatch) -> tuple[bytes, bytes, list, dict]:
    return made.pairs.tobytes(), made.train_ids.tobytes(), made.held_out, made.refused


def test_a_copy_in_another_process_makes_the_same():
    products = [p for p in read_products(SAMPLE_PRODUCTS) if isinstance(p, Product)][:300]
    batch = ProductBatch([p.title for p in products], [p.description for p in products])
    maker = maker_of(load_tokenizer(TINY_BASE), 96, "int32")
    made = maker(batch)
    assert len(made.pairs) > 250
    copied = pickle.loads(pickle.dumps(maker))
    assert columns(copied(pickle.loads(pickle.dumps(batch)))) == columns(made)
    assert columns(pickle.loads(pickle.dumps(made))) == columns(made)


@pytest.mark.real
def test_batches_may_be_cut_anywhere(tinyllama: PreTrainedTokenizerBase, real_dir: Path):
    records = list(read_products(real_dir / "trn.json.gz"))[:1_000]
    products = [p for p in records if isinstance(p, Product)]
    titles, texts = [p.title for p in products], [p.description for p in products]
    maker = maker_of(tinyllama, 256)
    whole = maker(ProductBatch(titles, texts))
    assert len(whole.pairs) > 800
    parts = [maker(ProductBatch(titles[s : s + 7], texts[s : s + 7])) for s in range(0, 1_000, 7)]
    assert np.concatenate([p.pairs for p in parts]).tobytes() == whole.pairs.tobytes()
    assert np.concatenate([p.train_ids for p in parts]).tobytes() == whole.train_ids.tobytes()
    assert [record for p in parts for record in p.held_out] == whole.held_out
