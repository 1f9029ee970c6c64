"""What comes out where texts are written: ids, read as a description.

In come new ids, out goes the text alone: no prompt, no control tokens, no half character. How ids
are chosen, and by which engine, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from amazon_desc.data.encoding.encoder import SENTENCE_CLOSE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# A sentence ends before white space, or with the text; 3. may have been going to be 3.5.
WHOLE_SENTENCE = re.compile(rf"{SENTENCE_CLOSE}(?=\s)|(?<!\d){SENTENCE_CLOSE}$")

# What the bytes of a character that is not whole are decoded to.
UNFINISHED = "\ufffd"


class Text(NamedTuple):
    """A text's ids, without the end token that it has if `has_end`."""

    ids: list[int]
    has_end: bool


class Description(NamedTuple):
    """A generated text; `num_tokens` does not count the end token, but what is trimmed off."""

    text: str
    finish_reason: Literal["stop", "length"] | None
    """None: it is still being written"""
    num_tokens: int


def text_of(ids: list[int], end_ids: Sequence[int]) -> Text:
    """Returns ids up to the first end token, [5, 6, 2, 2] -> 5 6, which has its end."""
    end = next((index for index, token in enumerate(ids) if token in end_ids), None)
    return Text(ids[:end], end is not None)


def read(text: Text, tokenizer: PreTrainedTokenizerBase, trim: bool = False) -> Description:
    """Reads a text's ids.

    A character whose last bytes were not written is left out at the end. With `trim` a text that
    reached its limit ends at its last whole sentence, and stays as it is if it has none.
    """
    ids, has_end = text
    plain: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    decoded = tokenizer.decode(np.array(ids, dtype=np.int64), **plain)  # a list takes twice as long
    words = str(decoded).rstrip(UNFINISHED).strip()
    if trim and not has_end:
        words = whole_sentences(words)
    return Description(words, "stop" if has_end else "length", len(ids))


def whole_sentences(text: str) -> str:
    """Returns a text up to its last whole sentence; all of it if it has none.

    "A mug. It holds 3.5 l. Its han" -> "A mug. It holds 3.5 l."
    "A mug. It holds 3."             -> "A mug."
    """
    ends = [match.end() for match in WHOLE_SENTENCE.finditer(text)]
    return text[: ends[-1]] if ends else text
