"""A warning of chat markers that a prompt holds as plain text, where no model was taught them.

In comes an encoder, out goes text for the terminal, or None: which marker, what it is for this
base, and the line of a prompt that holds it. Nothing is refused: a marker may be meant as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.support.printing import say

# A marker and whose chat format (or text) it belongs to.
FAMILIES = {
    **dict.fromkeys(("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>"), "Gemma"),
    **dict.fromkeys(("[INST]", "[/INST]", "<s>", "</s>"), "Llama 2 and Mistral"),
    **dict.fromkeys(("<<SYS>>", "<</SYS>>"), "Llama 2"),
    **dict.fromkeys(("<|begin_of_text|>", "<|eot_id|>"), "Llama 3"),
    **dict.fromkeys(("<|start_header_id|>", "<|end_header_id|>"), "Llama 3"),
    **dict.fromkeys(("<|im_start|>", "<|im_end|>"), "ChatML (Qwen, SmolLM2)"),
    **dict.fromkeys(("<|user|>", "<|assistant|>", "<|system|>"), "Zephyr, TinyLlama-Chat and Phi"),
    "<|end|>": "Phi",
    "<|endoftext|>": "GPT-2, Phi and Qwen",
}

TITLE_SHOWN = "Navy Rubber Yoga Mat, 6 mm"

WAY_OUT = """\
Leave the markers out: the description follows the prompt by itself. Or have a chat model's own
chat template write them, as control tokens, with --data.prompt.chat true; the markers of another
family need a --model.backbone of that family."""

WAY_OUT_OF_CHAT = """\
Leave the markers out: the prompt is wrapped in the chat template of this base already, which writes
its own as control tokens. Or set --data.prompt.chat false."""


class Marker(NamedTuple):
    """A chat marker in a prompt, as text."""

    text: str
    option: str
    line: int
    """of the prompt, from 0"""
    pieces: list[str]
    """what the base's tokenizer makes of it"""


def warn_of_markers(encoder: Encoder) -> None:
    """Says what there is to say, if anything; call it once a command."""
    warning = marker_warning(encoder)
    if warning is not None:
        say(warning)


def marker_warning(encoder: Encoder) -> str | None:
    """Returns a warning of all chat markers in template and system message, or None."""
    own = own_markers(encoder)
    markers = list(find_markers(encoder, {*FAMILIES, *own}))
    if not markers:
        return None
    lines = prompt_lines(encoder)
    said = ["Warning: the prompt holds markers of a chat format, which the model reads as text."]
    for marker in markers:
        family, num = FAMILIES.get(marker.text), len(marker.pieces)
        whose = f" of {family}" if family else ""
        though = ", though a control token of this base" if marker.text in own else ""
        said.append(
            f"  {marker.option} has {marker.text}{whose}: plain text here{though}; "
            f"{num} token{'s' * (num != 1)}: {' '.join(marker.pieces)}"
        )
        # a tokenizer may make spaces of line ends
        line = lines[min(marker.line, len(lines) - 1)]
        said.append(f"    a prompt's line {marker.line + 1}: {line}")
    return "\n".join([*said, WAY_OUT_OF_CHAT if encoder.prompter.is_chat else WAY_OUT])


def own_markers(encoder: Encoder) -> set[str]:
    added = encoder.backend.get_added_tokens_decoder().values()
    return {token.content for token in added if token.special}


def find_markers(encoder: Encoder, known: set[str]) -> Iterator[Marker]:
    """Yields each marker once, where it first stands, in the order of the prompt."""
    prompt = encoder.prompter(TITLE_SHOWN)
    places = [("--data.prompt.template", prompt.words, prompt.before)]
    if (system := encoder.prompter.system) is not None:
        places.insert(0, ("--data.prompt.system", system, prompt.before.partition(system)[0]))
    for option, text, before in places:
        found = sorted((text.index(marker), marker) for marker in known if marker in text)
        for start, marker in found:
            line = (before + text[:start]).count("\n")
            pieces = pieces_between(encoder, text, start, start + len(marker))
            yield Marker(marker, option, line, pieces)


def pieces_between(encoder: Encoder, text: str, start: int, stop: int) -> list[str]:
    """Returns the pieces that a part of a text has in it, the text being plain."""
    encoder.backend.encode_special_tokens = True
    encoding = encoder.backend.encode(text, add_special_tokens=False)
    return [
        piece
        for piece, (first, end) in zip(encoding.tokens, encoding.offsets, strict=True)
        if first < stop and end > start
    ]


def prompt_lines(encoder: Encoder) -> list[str]:
    """Returns the lines of a prompt as the model gets it, control tokens too."""
    ids = encoder.prompts([TITLE_SHOWN])[0]
    return encoder.backend.decode(ids, skip_special_tokens=False).split("\n")
