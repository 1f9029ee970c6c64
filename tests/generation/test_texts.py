"""Ids are read as the text alone, with how it ended."""

import pytest

from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.generation.texts import Description, read, text_of, whole_sentences
from amazon_desc.support.resources import TINY_BASE

END_ID = 2


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY_BASE)


def described(ids, tokenizer, end_ids=(END_ID,), trim: bool = False) -> Description:
    return read(text_of(ids, end_ids), tokenizer, trim)


def test_a_text_that_ends_by_itself_stops_and_its_end_token_is_not_counted(tokenizer) -> None:
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert described([*ids, END_ID, END_ID], tokenizer) == ("a red cup", "stop", len(ids))


def test_a_text_that_reached_the_limit_says_so(tokenizer) -> None:
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert described(ids, tokenizer) == ("a red cup", "length", len(ids))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A mug. It holds 3.5 l. Its han", "A mug. It holds 3.5 l."),
        ("A mug. It holds 3.", "A mug."),
        ("A mug. It holds tea.", "A mug. It holds tea."),
        ('He said "Buy it!" and le', 'He said "Buy it!"'),
        ("A mug (the blue one.)\nIt", "A mug (the blue one.)"),
        ("A mug of blue", "A mug of blue"),
        ("See shop.example for a mug", "See shop.example for a mug"),
        ("", ""),
    ],
)
def test_a_text_is_trimmed_to_its_last_whole_sentence(text: str, kept: str):
    assert whole_sentences(text) == kept


def test_only_a_text_that_reached_its_limit_is_trimmed(tokenizer):
    ids = tokenizer("A red cup. It is", add_special_tokens=False)["input_ids"]
    assert described(ids, tokenizer, trim=True) == ("A red cup.", "length", len(ids))
    assert described([*ids, END_ID], tokenizer, trim=True).text == "A red cup. It is"
    assert described(ids, tokenizer).text == "A red cup. It is"


def test_a_character_of_which_bytes_are_missing_is_left_out_at_the_end(tokenizer):
    teddy = tokenizer("cup 🧸", add_special_tokens=False)["input_ids"]
    assert described(teddy, tokenizer).text == "cup 🧸"
    assert [tokenizer.convert_ids_to_tokens(i) for i in teddy[-4:]] == [
        *("<0xF0>", "<0x9F>", "<0xA7>", "<0xB8>")
    ]
    for num_missing in (1, 2, 3):
        cut = teddy[:-num_missing]
        assert "\ufffd" in tokenizer.decode(cut)
        assert described(cut, tokenizer) == ("cup", "length", len(cut))
        assert described([*cut, END_ID], tokenizer) == ("cup", "stop", len(cut))


def test_no_control_token_is_shown(tokenizer):
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert described([1, *ids, 0, 1], tokenizer).text == "a red cup"


def test_each_of_several_end_tokens_ends_a_text(tokenizer) -> None:
    ids = tokenizer("a red cup", add_special_tokens=False)["input_ids"]
    assert described([*ids, 7, *ids], tokenizer, (END_ID, 7)).finish_reason == "stop"
    assert described([*ids, 7, *ids], tokenizer, (END_ID, 7)).num_tokens == len(ids)
