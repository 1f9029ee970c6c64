"""How a tokenizer splits a text before it merges, in llama.cpp's words, or a refusal.

In comes tokenizer.json as the tokenizers library has it. llama.cpp knows these ways by name and
not by rule, and a wrong name gives other ids without a word: so one that is not known here is
refused, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amazon_desc.support.errors import UserError

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES_OF_WORDS = ("ByteLevel", False, True)  # with GPT-2's own expression
BYTES = ("ByteLevel", False, False)

# (steps, whether a word that is a token is taken whole) -> llama.cpp's name
BYTE_PAIRS = {
    ((BYTES_OF_WORDS,), False): "gpt-2",
    ((("Digits", True), BYTES_OF_WORDS), False): "smollm",
    ((("Split", WORDS + r"\p{N}{1,3}" + REST, "Isolated"), BYTES), True): "llama-bpe",
    ((("Split", WORDS + r"\p{N}" + REST, "Isolated"), BYTES), False): "qwen2",
}

# What turns spaces into the pieces' own, and no more.
SPACES = ("Replace", " ", "▁")
NOTHING = ("Split", " ", "MergedWithPrevious")  # of Gemma: no spaces are left by then


@dataclass(frozen=True)
class Pieces:
    """As SentencePiece does it: the whole text at once, spaces as "▁", bytes for the unknown."""

    prefix: str | None
    """where a space is put in front: "first" of a text, "always" after a control token too, None"""
    model: str = "llama"
    pre: str = "default"


@dataclass(frozen=True)
class BytePairs:
    """As GPT-2 does it: word by word, in bytes."""

    pre: str
    model: str = "gpt2"


def splitting_of(state: dict[str, Any], folder: Path) -> Pieces | BytePairs:
    """Returns how a tokenizer splits, by the content of its tokenizer.json.

    Raises:
        UserError: llama.cpp is not known to have it.
    """
    model = state["model"]
    before, steps = steps_of(state["normalizer"]), steps_of(state["pre_tokenizer"])
    if model["type"] == "BPE":
        prefix = prefix_of(before, steps)
        if model.get("byte_fallback") and prefix != "unknown":
            return Pieces(prefix)
        pre = BYTE_PAIRS.get((steps, bool(model.get("ignore_merges"))))
        # cleaned texts are composed (NFC) already
        if pre and before in ((), (("NFC",),)):
            return BytePairs(pre)
    found = ", ".join(str(step[0]) for step in (*before, *steps)) or "no splitting"
    raise UserError(
        f"GGUF: llama.cpp has no tokenizer that is known to give the ids of {folder}: found "
        f"{model['type']} with {found}. Wanted a SentencePiece BPE (Llama 2, Gemma), or one of "
        f"{', '.join(BYTE_PAIRS.values())}. Export the model as merged instead."
    )


def steps_of(part: dict[str, Any] | None) -> tuple[tuple[Any, ...], ...]:
    """Returns a normalizer or pre-tokenizer as its steps, with what decides ids.

    {"type": "Digits", "individual_digits": true} -> (("Digits", True),)
    """
    if part is None:
        return ()
    kind = part["type"]
    if kind == "Sequence":
        inner = part.get("normalizers") or part.get("pretokenizers") or []
        return tuple(step for some in inner for step in steps_of(some))
    pattern = next(iter(part.get("pattern", {"": None}).values()))
    if kind == "ByteLevel":
        return ((kind, part["add_prefix_space"], part.get("use_regex", True)),)
    if kind == "Digits":
        return ((kind, part["individual_digits"]),)
    if kind == "Split":
        inverted = ("inverted",) if part.get("invert") else ()
        return ((kind, pattern, part["behavior"], *inverted),)
    if kind == "Replace":
        return ((kind, pattern, part["content"]),)
    if kind == "Prepend":
        return ((kind, part["prepend"]),)
    if kind == "Metaspace":
        return ((kind, part["replacement"], part["prepend_scheme"], part.get("split", True)),)
    return ((kind,),)


def prefix_of(
    before: tuple[tuple[Any, ...], ...], steps: tuple[tuple[Any, ...], ...]
) -> str | None:
    """Returns where pieces get a space in front, "unknown" if it is not SentencePiece's way."""
    if before == () and len(steps) == 1 and steps[0][0] == "Metaspace":
        _, replacement, scheme, is_split = steps[0]
        if replacement == "▁" and not is_split:
            return None if scheme == "never" else scheme
    if before == (("Prepend", "▁"), SPACES) and steps == ():
        return "always"
    if before == (SPACES,) and steps in ((), (NOTHING,)):
        return None
    return "unknown"
