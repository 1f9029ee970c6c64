"""A Modelfile for Ollama beside a GGUF file: a title in, the run's own prompt to the model.

In come the run's encoder and decoding settings, out goes text. The template is Go's, and it holds
the prompt as the run has it, frozen frame and all; Ollama puts BOS in front by itself where the
file says so. What Ollama cannot do is said in comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import TITLE
from amazon_desc.export.gguf.tokenizer import Vocabulary, vocabulary_of
from amazon_desc.generation.decoding import DecodingSettings

PROMPT = "{{ .Prompt }}"
# What Go's template or Ollama's own parser would take for theirs: braces, the quotes that end the
# text, and characters that the parser drops.
SPECIAL = re.compile(r'\{+|"{3,}|[^ -~\n]+')


def modelfile(
    gguf_name: str, tokenizer_folder: Path, encoder: Encoder, decoding: DecodingSettings
) -> str:
    """Returns a Modelfile for a file that `write_gguf` made with the same encoder.

    Args:
        gguf_name: of the file, in the same folder
    """
    vocabulary = vocabulary_of(tokenizer_folder, encoder=encoder)
    lines = [
        '# ollama create NAME -f Modelfile, then: ollama run NAME "the product\'s title"',
        *(f"# {difference}" for difference in differences(decoding)),
        f"FROM ./{gguf_name}",
        *(f"PARAMETER {name} {value}" for name, value in parameters(encoder, decoding)),
        f'TEMPLATE """{template(encoder, vocabulary)}"""',
    ]
    return "\n".join(lines) + "\n"


def parameters(encoder: Encoder, decoding: DecodingSettings) -> Iterator[tuple[str, str]]:
    """Yields Ollama's parameters; those too that have other defaults there."""
    yield "temperature", number(decoding.temperature)
    if decoding.is_sampled:
        yield "top_k", number(decoding.top_k or 0)
        yield "top_p", number(decoding.top_p)
        yield "min_p", number(decoding.min_p)
        yield "seed", number(decoding.seed)
    yield "num_predict", number(decoding.max_new_tokens)
    yield "repeat_penalty", number(decoding.repetition_penalty)
    yield "presence_penalty", number(decoding.presence_penalty)
    yield "frequency_penalty", number(decoding.frequency_penalty)
    if has_penalties(decoding):
        yield "repeat_last_n", "-1"  # count the whole text
    if encoder.prompter.is_chat:
        yield "stop", f'"{encoder.pieces[encoder.end_id]}"'


def number(value: float) -> str:
    """0.0 -> "0", 0.6 -> "0.6" """
    return repr(int(value)) if value == int(value) else repr(value)


def has_penalties(decoding: DecodingSettings) -> bool:
    return (decoding.repetition_penalty, decoding.presence_penalty) != (1, 0) or (
        decoding.frequency_penalty != 0
    )


def differences(decoding: DecodingSettings) -> Iterator[str]:
    """Yields what the run does and Ollama does not, a line each."""
    if decoding.no_repeat_ngram_size:
        yield f"Ollama has no no_repeat_ngram_size ({decoding.no_repeat_ngram_size} in the run)."
    if has_penalties(decoding):
        yield "Ollama's penalties count the prompt too, the run's do not."
    if decoding.num_beams > 1:
        yield f"Ollama has no beams (num_beams {decoding.num_beams} in the run)."
    if decoding.num_candidates > 1:
        yield f"Ollama writes one text (num_candidates {decoding.num_candidates} in the run)."
    if decoding.min_new_tokens:
        yield f"Ollama has no min_new_tokens ({decoding.min_new_tokens} in the run)."
    if decoding.trim:
        yield "Ollama does not end a long text at its last whole sentence (trim in the run)."
    if decoding.is_sampled:
        yield "Ollama draws other tokens from the same seed."


def template(encoder: Encoder, vocabulary: Vocabulary) -> str:
    """Returns the prompt as a template of Go, with the title as .Prompt.

    "{x}\\nTitle: {title}\\n" -> '{{ "{" }}x}\\nTitle: {{ .Prompt }}\\n'
    """
    return PROMPT.join(map(as_go, prompt(encoder, vocabulary).split(TITLE)))


def prompt(encoder: Encoder, vocabulary: Vocabulary) -> str:
    """Returns what llama.cpp has to be given, with TITLE in the title's place: BOS is its own."""
    before, words, after = encoder.prompter(TITLE)
    if vocabulary.add_bos:
        bos = encoder.pieces[vocabulary.special_ids["bos"]]
        before = before.removeprefix(bos)
    return " " * vocabulary.leading_space + before + words + after


def as_go(text: str) -> str:
    """Returns a template that gives the text as it is."""
    return SPECIAL.sub(lambda match: "{{ " + go_string(match[0]) + " }}", text)


def go_string(text: str) -> str:
    r"""Returns a string of Go, in ASCII: a quote becomes \", é becomes \u00e9."""
    return '"' + "".join(map(go_character, text)) + '"'


def go_character(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
