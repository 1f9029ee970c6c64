"""Markers of a chat format in a prompt: said, with what the model reads in their place."""

import pytest
from transformers import PreTrainedTokenizerBase

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.markers import FAMILIES, marker_warning, warn_of_markers
from amazon_desc.data.encoding.prompts import PromptSettings


def warned(toy: PreTrainedTokenizerBase, **prompt: str | bool) -> list[str]:
    warning = marker_warning(Encoder(toy, PromptSettings(**prompt), 160))  # type: ignore[arg-type]
    assert warning is not None
    first, *lines = warning.split("\n")
    assert first == (
        "Warning: the prompt holds markers of a chat format, which the model reads as text."
    )
    return lines


@pytest.mark.parametrize(
    "template",
    [
        "Write a description for the product:\nTitle: {title}\nDescription:",
        "### Instruction:\n{title}\n### Response:\n",
        "<b>{title}</b> [1] <title> | >",
    ],
)
def test_a_prompt_without_markers_is_not_warned_of(
    toy_tokenizer: PreTrainedTokenizerBase,
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    template: str,
    capsys: pytest.CaptureFixture[str],
):
    for toy in (toy_tokenizer, toy_chat_tokenizer):
        encoder = Encoder(toy, PromptSettings(template=template), 160)
        assert marker_warning(encoder) is None
        warn_of_markers(encoder)
    assert capsys.readouterr().out == ""


def test_a_marker_of_the_base_itself_stays_text(toy_tokenizer: PreTrainedTokenizerBase):
    """</s> is token 2 of the toy, but in a prompt it is the four pieces < / s >."""
    assert warned(toy_tokenizer, template="describe: {title}\na</s>") == [
        "  --data.prompt.template has </s> of Llama 2 and Mistral: plain text here, though a "
        "control token of this base; 4 tokens: < / s >",
        "    a prompt's line 2: a</s>",
        "Leave the markers out: the description follows the prompt by itself. Or have a chat "
        "model's own",
        "chat template write them, as control tokens, with --data.prompt.chat true; the markers of "
        "another",
        "family need a --model.backbone of that family.",
    ]


def test_markers_of_another_family_are_text(toy_tokenizer: PreTrainedTokenizerBase):
    lines = warned(toy_tokenizer, template="<start_of_turn>{title}[INST]")
    assert [line.split(":")[0] for line in lines if line.startswith("  --")] == [
        "  --data.prompt.template has <start_of_turn> of Gemma",
        "  --data.prompt.template has [INST] of Llama 2 and Mistral",
    ]
    assert not any("though" in line for line in lines)


def test_markers_in_a_prompt_that_is_wrapped_anyway_are_said_with_their_own_line(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    """Line 1 is the chat template's own <|user|>, line 3 the one that was typed."""
    lines = warned(
        toy_chat_tokenizer, template="describe:\n<|user|>a\n{title}", system="red mug [INST]"
    )
    assert lines[0].startswith("  --data.prompt.system has [INST] of Llama 2 and Mistral: plain ")
    assert lines[1].startswith("    a prompt's line 2: ")
    assert lines[2] == (
        "  --data.prompt.template has <|user|> of Zephyr, TinyLlama-Chat and Phi: plain text here, "
        "though a control token of this base; 5 tokens: < | <unk> | >"
    )
    assert lines[3].startswith("    a prompt's line 5: ")
    assert "wrapped in the chat template of this base already" in lines[4]
    assert lines[5].endswith("Or set --data.prompt.chat false.")


def test_every_known_marker_is_found(toy_tokenizer: PreTrainedTokenizerBase):
    assert len(FAMILIES) >= 20
    for marker in FAMILIES:
        lines = warned(toy_tokenizer, template=f"a {marker}{{title}}")
        assert f"has {marker} of " in lines[0]
        assert len(lines) == 5


@pytest.mark.real
def test_what_a_real_base_makes_of_gemmas_markers(tinyllama: PreTrainedTokenizerBase):
    template = "<start_of_turn>user\nDescribe: {title}<end_of_turn>\n<start_of_turn>model\n"
    lines = warned(tinyllama, template=template, chat=False)
    assert lines[:4] == [
        "  --data.prompt.template has <start_of_turn> of Gemma: plain text here; 7 tokens: "
        "▁< start _ of _ turn >",
        "    a prompt's line 1: <s> <start_of_turn>user",
        "  --data.prompt.template has <end_of_turn> of Gemma: plain text here; 7 tokens: "
        "< end _ of _ turn >",
        "    a prompt's line 2: Describe: Navy Rubber Yoga Mat, 6 mm<end_of_turn>",
    ]
