"""Prompts: a title goes where the template says, and only the chat template speaks in control."""

import pytest
from transformers import PreTrainedTokenizerBase

from amazon_desc.data.prompts import Prompter, PromptSettings, PromptText, chat_frame
from amazon_desc.errors import UserError

SETTINGS = PromptSettings(template="Title: {title}\nDescription:")


def test_a_title_stands_where_the_template_says(toy_tokenizer: PreTrainedTokenizerBase):
    prompt = Prompter(SETTINGS, toy_tokenizer)("Red Mug")
    assert prompt == PromptText("", "Title: Red Mug\nDescription:", "")


@pytest.mark.parametrize("title", ["{title}", "{0}", "%s", "{", "\\1", "\u27e6words\u27e7"])
def test_a_title_that_looks_like_a_place_holder_stays_as_it_is(
    toy_tokenizer: PreTrainedTokenizerBase,
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    title: str,
):
    wanted = f"Title: {title}\nDescription:"
    assert Prompter(SETTINGS, toy_tokenizer)(title) == PromptText("", wanted, "")
    assert Prompter(SETTINGS, toy_chat_tokenizer)(title).words == wanted


@pytest.mark.parametrize("template", ["Title:", "{title} {title}", "", "{Title}"])
def test_a_template_without_exactly_one_title_is_refused(template: str):
    with pytest.raises(ValueError, match=r"--data\.prompt\.template: wanted \{title\} in it exact"):
        PromptSettings(template=template)


def test_the_chat_template_is_used_exactly_when_there_is_one(
    toy_tokenizer: PreTrainedTokenizerBase, toy_chat_tokenizer: PreTrainedTokenizerBase
):
    plain, chat = (Prompter(SETTINGS, toy) for toy in (toy_tokenizer, toy_chat_tokenizer))
    assert (plain.is_chat, chat.is_chat) == (False, True)
    assert chat("Red Mug") == PromptText(
        "<|user|>\n", "Title: Red Mug\nDescription:", "<|end|>\n<|assistant|>\n"
    )
    assert chat.after_description == "<|end|>\n"


def test_a_chat_tokenizer_can_be_asked_without_its_template(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    prompter = Prompter(PromptSettings(template="Title: {title}", chat=False), toy_chat_tokenizer)
    assert not prompter.is_chat
    assert prompter("Red Mug") == PromptText("", "Title: Red Mug", "")


def test_chat_without_a_chat_template_is_refused(toy_tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(UserError, match=r"--data\.prompt\.chat true: .* has no chat template"):
        Prompter(PromptSettings(chat=True), toy_tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}<|user|>{% endfor %}",
        "{% for message in messages %}{{ message['content'] * 2 }}{% endfor %}",
        "{{ messages[0]['content'] }}",
    ],
)
def test_a_chat_template_that_hides_or_repeats_the_words_is_refused(
    toy_chat_tokenizer: PreTrainedTokenizerBase, template: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy_chat_tokenizer, "chat_template", template)
    with pytest.raises(UserError, match="words exactly once"):
        chat_frame(toy_chat_tokenizer)


@pytest.mark.real
def test_the_frame_of_tinyllama_chat(tinyllama: PreTrainedTokenizerBase):
    assert chat_frame(tinyllama) == (
        "<|user|>\n",
        "</s>\n<|assistant|>\n",
        "</s>\n",
    )
