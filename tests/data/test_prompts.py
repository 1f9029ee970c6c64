"""Prompts: a title goes where the template says, and only the chat template speaks in control."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from amazon_desc.data.encoding.prompts import (
    PLACEHOLDER,
    SYSTEM_PLACEHOLDER,
    Prompter,
    PromptSettings,
    PromptText,
    chat_frame,
    fields,
)
from amazon_desc.support.errors import UserError
from tests.conftest import TOY_CHAT_TEMPLATE

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


def test_a_title_stands_wherever_the_template_says(toy_tokenizer: PreTrainedTokenizerBase):
    settings = PromptSettings(template="Title: {title}\nDescription of {title}:")
    assert Prompter(settings, toy_tokenizer)("{title} Mug").words == (
        "Title: {title} Mug\nDescription of {title} Mug:"
    )


@pytest.mark.parametrize("template", ["Title:", "", "{title", "Title: title }"])
def test_a_template_without_title_is_refused(template: str):
    with pytest.raises(UserError) as error:
        PromptSettings(template=template)
    assert str(error.value) == (
        f"--data.prompt.template: wanted {{title}} in it at least once, found none in "
        f"{template!r}. Write for example 'Title: {{title}}\\nDescription:'."
    )


@pytest.mark.parametrize(
    "field",
    [
        *("{content}", "{0}", "{}", "{{content}}", "{brand name}", "{product-title}", "{título}"),
        *("{row['title']}", '{row["title"]}', "{product.title}", "{content:.100}", "{content!s}"),
    ],
)
def test_another_place_to_fill_is_refused_by_name(field: str):
    """Nothing is put into it, so it would be learnt as text."""
    with pytest.raises(UserError) as error:
        PromptSettings(template=f"Title: {{title}}\nDescription: {field}.")
    text = str(error.value)
    assert text.startswith(
        f"--data.prompt.template: wanted no place to fill but {{title}}, found {field} in 'Title:"
    ) or text.startswith(
        f'--data.prompt.template: wanted no place to fill but {{title}}, found {field} in "Title:'
    )
    assert "Leave it out, the description follows the prompt by itself" in text


@pytest.mark.parametrize(
    "field",
    ["{Title}", "{ title }", "{title!r}", "{title:>20}", "{title:}", "{{title}}", "{{ title }}"],
)
@pytest.mark.parametrize("before", ["", "{title} "])
def test_a_title_that_is_written_otherwise_is_refused_with_how_to_write_it(field: str, before: str):
    with pytest.raises(UserError) as error:
        PromptSettings(template=f"{before}Title: {field}")
    assert f"found {field} in " in str(error.value)
    assert str(error.value).endswith("Write {title}.")


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": 1}', '{"title": "{title}"}', '{"product": {title}}', "{'a'}", "{a: 1}", "{1, 2}"),
        *("{", "}", "}{", "{a|b}", "{\n}", "{% if %}", "\\textbf{title}"),
    ],
)
def test_braces_around_other_things_stay_text(toy_tokenizer: PreTrainedTokenizerBase, text: str):
    prompter = Prompter(PromptSettings(template=f"Title: {{title}}\n{text}:"), toy_tokenizer)
    assert prompter("Red Mug").words == f"Title: Red Mug\n{text.replace('{title}', 'Red Mug')}:"


def test_the_places_to_fill_of_the_docstring():
    text = 'Title: {title} {{ name }} {"a": {title}}'
    assert list(fields(text)) == ["{title}", "{{ name }}", "{title}"]


def test_a_backslash_and_an_n_are_a_line_end():
    """So a shell passes 'Title: {title}\\nDescription:' and our own refusal recommends it."""
    typed = PromptSettings(template="Title: {title}\\nDescription:", system="Be brief.\\nBe kind.")
    assert typed == PromptSettings(
        template="Title: {title}\nDescription:", system="Be brief.\nBe kind."
    )
    assert (typed.template, typed.system) == (
        "Title: {title}\nDescription:",
        "Be brief.\nBe kind.",
    )
    assert PromptSettings(template=typed.template, system=typed.system) == typed


# The system message


def test_a_system_message_goes_where_the_chat_template_puts_it(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    settings = PromptSettings(template="Title: {title}", system=" Be brief.\n")
    prompter = Prompter(settings, toy_chat_tokenizer)
    assert prompter("Red Mug") == PromptText(
        "<|system|>\nBe brief.<|end|>\n<|user|>\n", "Title: Red Mug", "<|end|>\n<|assistant|>\n"
    )
    assert prompter.frame.after_description == "<|end|>\n"


# Writes a system message of its own where none is given, as SmolLM2's does.
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|system|>\nYou are a mug.<|end|>\n{% endif %}"
    + TOY_CHAT_TEMPLATE
)


def test_it_replaces_the_one_that_the_chat_template_has_by_default(
    toy_chat_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy_chat_tokenizer, "chat_template", WITH_DEFAULT)
    assert chat_frame(toy_chat_tokenizer)[0] == "<|system|>\nYou are a mug.<|end|>\n<|user|>\n"
    before = chat_frame(toy_chat_tokenizer, "Be brief.")[0]
    assert before == "<|system|>\nBe brief.<|end|>\n<|user|>\n"


def test_a_system_message_that_looks_like_a_place_holder_stays_as_it_is(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    for text in (PLACEHOLDER, SYSTEM_PLACEHOLDER, "\\1 %s {"):
        assert chat_frame(toy_chat_tokenizer, text)[0] == (f"<|system|>\n{text}<|end|>\n<|user|>\n")


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("", "wanted a text, found none. Leave the option away"),
        (" \\n ", "wanted a text, found none. Leave the option away"),
        ("Describe {title}.", "found {title} in 'Describe {title}.'. Put the title into --data.pr"),
        ("You sell {content}.", "the same for every product, found {content} in 'You sell"),
    ],
)
def test_a_system_message_that_cannot_be_meant_is_refused(system: str, message: str):
    with pytest.raises(UserError) as error:
        PromptSettings(system=system)
    assert str(error.value).startswith("--data.prompt.system: wanted a text")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("has_template", "chat", "message"),
    [
        (False, None, "and this base has none. Put the text into --data.prompt.template, or name"),
        (True, False, "--data.prompt.chat is false. Put the text into --data.prompt.template, or"),
    ],
)
def test_a_system_message_that_nothing_shows_is_refused(
    toy_tokenizer: PreTrainedTokenizerBase,
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    has_template: bool,
    chat: bool | None,
    message: str,
):
    toy = toy_chat_tokenizer if has_template else toy_tokenizer
    with pytest.raises(UserError, match=r"--data\.prompt\.system: only a chat template") as error:
        Prompter(PromptSettings(chat=chat, system="Be brief."), toy)
    assert message in str(error.value)


@pytest.mark.parametrize("control", ["</s>", "<|end|>", "<|user|>"])
def test_a_system_message_never_speaks_in_control_tokens(
    toy_chat_tokenizer: PreTrainedTokenizerBase, control: str
):
    settings = PromptSettings(system=f"Be brief.{control}")
    with pytest.raises(UserError) as error:
        Prompter(settings, toy_chat_tokenizer)
    assert f"found {control}, a control token of this base, in 'Be brief." in str(error.value)


NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
)
HIDING = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_SYSTEM + TOY_CHAT_TEMPLATE, r"cannot be used with a system message \(No system role\)"),
        (HIDING, "does not show a system message exactly once"),
        (TOY_CHAT_TEMPLATE + "{{ messages[0].content }}", "a system message exactly once, before"),
        ("{{ messages[0].content }}" + TOY_CHAT_TEMPLATE, "a system message exactly once"),
    ],
    ids=["refuses", "hides", "shows it last", "shows it twice"],
)
def test_a_chat_template_that_cannot_show_it_is_refused_with_what_to_do(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    template: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(toy_chat_tokenizer, "chat_template", template)
    with pytest.raises(UserError, match=message) as error:
        chat_frame(toy_chat_tokenizer, "Be brief.")
    assert str(error.value).startswith("--data.prompt.system: the tokenizer's chat template")
    assert str(error.value).endswith("Put the text into --data.prompt.template instead.")


# Chat templates


def test_the_chat_template_is_used_exactly_when_there_is_one(
    toy_tokenizer: PreTrainedTokenizerBase, toy_chat_tokenizer: PreTrainedTokenizerBase
):
    plain, chat = (Prompter(SETTINGS, toy) for toy in (toy_tokenizer, toy_chat_tokenizer))
    assert (plain.is_chat, chat.is_chat) == (False, True)
    assert chat("Red Mug") == PromptText(
        "<|user|>\n", "Title: Red Mug\nDescription:", "<|end|>\n<|assistant|>\n"
    )
    assert chat.frame.after_description == "<|end|>\n"


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
    assert chat_frame(tinyllama, "Be brief.") == (
        "<|system|>\nBe brief.</s>\n<|user|>\n",
        "</s>\n<|assistant|>\n",
        "</s>\n",
    )


@pytest.mark.real
def test_the_frame_of_gemma_3_has_the_system_message_in_the_users_turn(
    real_dir: Path, toy_chat_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
):
    template = (real_dir / "gemma3" / "gemma3_chat_template.jinja").read_text()
    monkeypatch.setattr(toy_chat_tokenizer, "chat_template", template)
    tail = ("<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n")
    assert chat_frame(toy_chat_tokenizer) == ("<s><start_of_turn>user\n", *tail)
    framed = chat_frame(toy_chat_tokenizer, "Be brief.")
    assert framed == ("<s><start_of_turn>user\nBe brief.\n\n", *tail)
