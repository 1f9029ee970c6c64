"""The token ids of plain texts, put together word by word: a tokenizer's own ids, only sooner.

In come texts, out go their ids, without BOS or EOS, and with nothing in them read as a control
token. A SentencePiece tokenizer never joins two words in one piece, so the ids of a text are those
of its words, and most words were seen before. Where that does not hold, for a tokenizer or for a
text, the text is tokenised as a whole: the ids are the same either way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from amazon_desc.data.encoding.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What SentencePiece pieces have for the space before a word.
SPACE_MARK = "▁"

# So much of a text is read at first if only some ids are wanted; English has about four.
CHARACTERS_PER_TOKEN = 5


class WordTokenizer:
    """Tokenises plain texts; a limit is the number of ids that are wanted of a text.

    With the pieces ▁a = 20, ▁red = 12 and ▁mug = 13:

        texts = ["a red mug", "a mug"], limits = [2, 9]  ->  [[20, 12], [20, 13]]
    """

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        description = json.loads(backend.to_str())
        self.added_ids = {token["id"] for token in description["added_tokens"]}
        self.keeps_words_apart = keeps_words_apart(description)
        # Llama's puts the mark before the first word of a text too, Gemma's does not.
        first_pieces = [backend.id_to_token(first) or "" for first in self.whole(["a"])[0][:1]]
        self.marks_first_word = "".join(first_pieces).startswith(SPACE_MARK)
        self.before_later_words = "" if self.marks_first_word else " "
        self.first_words = Vocabulary(self.first_word)
        self.later_words = (
            self.first_words if self.marks_first_word else Vocabulary(self.later_word)
        )
        # In the frame of a chat template control tokens count.
        self.framed_first_words = Vocabulary(self.framed_first_word)
        self.framed_last_words = Vocabulary(self.framed_last_word)

    def __call__(
        self, texts: Sequence[str], limits: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Returns the first ids of each text, as many as its limit says; without limits all."""
        if limits is None:
            found = self.by_words(texts)
        else:
            parts = [beginning(*pair) for pair in zip(texts, limits, strict=True)]
            found = self.by_words(parts)
            short = [
                number
                for number, ids in enumerate(found)
                if ids is not None
                and len(ids) < limits[number]
                and len(parts[number]) < len(texts[number])
            ]
            for number, ids in zip(short, self.by_words([texts[n] for n in short]), strict=True):
                found[number] = ids
        every = completed(found, texts, self.whole)
        return every if limits is None else [i[:n] for i, n in zip(every, limits, strict=True)]

    def whole(self, texts: Sequence[str], has_control_tokens: bool = False) -> list[list[int]]:
        """Returns what the tokenizer makes of each text, without a vocabulary of known words."""
        self.backend.encode_special_tokens = not has_control_tokens
        if len(texts) == 1:  # which encode does in half the time
            return [self.backend.encode(texts[0], add_special_tokens=False).ids]
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def by_words(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Returns the ids of the words of each text, or None if they might not be the text's."""
        numbers = [number for number, text in enumerate(texts) if self.is_made_of_words(text)]
        found: list[list[int] | None] = [None] * len(texts)
        if self.marks_first_word:
            ids = self.later_words.ids_of_texts([texts[number] for number in numbers])
        else:
            halves = [texts[number].partition(" ") for number in numbers]
            first = self.first_words.ids_of_words([half[0] for half in halves])
            later = self.later_words.ids_of_texts([half[2] for half in halves])
            ids = [joined(*parts) for parts in zip(first, later, strict=True)]
        for number, of_text in zip(numbers, ids, strict=True):
            found[number] = of_text
        return found

    def framed_by_words(
        self, before: str, texts: Sequence[str], after: str
    ) -> list[list[int] | None]:
        """Returns the ids of texts in a frame that may hold control tokens; the texts hold none.

        The frame goes with the first and the last word: they are not its own words. None stands
        for a text whose words' ids might not be its own.
        """
        words = [text.split(" ") for text in texts]
        numbers = [
            number
            for number, of_text in enumerate(words)
            if len(of_text) > 1 and of_text[0] and self.is_made_of_words(texts[number])
        ]
        parts = [words[number] for number in numbers]
        first = self.framed_first_words.ids_of_words([before + part[0] for part in parts])
        later = self.later_words.ids_of_texts([" ".join(part[1:-1]) for part in parts])
        last = self.framed_last_words.ids_of_words([part[-1] + after for part in parts])
        found: list[list[int] | None] = [None] * len(texts)
        for number, *ids in zip(numbers, first, later, last, strict=True):
            found[number] = joined(*ids)
        return found

    # A word's own ids, or None if it may have others in a text. An added token cuts a text in two,
    # and a tokenizer that marks the first word of a text may mark the first one of each half: what
    # stands beside the token is not what it is alone.

    def first_word(self, word: str) -> list[int] | None:
        ids = self.whole([word])[0] if word else []
        return None if self.is_cut([*ids[:1], *ids[-1:]]) else ids

    def later_word(self, word: str) -> list[int] | None:
        return self.first_word(self.before_later_words + word) if word else []

    def framed_first_word(self, word: str) -> list[int] | None:
        ids = self.whole([word], has_control_tokens=True)[0]
        return None if self.is_cut(ids[-1:]) else ids

    def framed_last_word(self, word: str) -> list[int] | None:
        ids = self.whole([self.before_later_words + word], has_control_tokens=True)[0]
        return None if self.is_cut(ids[:1]) else ids

    def is_cut(self, ids: list[int]) -> bool:
        return self.marks_first_word and not self.added_ids.isdisjoint(ids)

    def is_made_of_words(self, text: str) -> bool:
        """Says whether single spaces are all that stands between the text's words."""
        if not self.keeps_words_apart or "  " in text or SPACE_MARK in text or text[-1:] == " ":
            return False
        return not (self.marks_first_word and text[:1] == " ")

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process starts without known words."""
        return {"backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["backend"])


def beginning(text: str, num_ids: int) -> str:
    """Returns the words of a text that most likely have so many ids, or all of it."""
    characters = CHARACTERS_PER_TOKEN * num_ids
    if len(text) <= characters:
        return text
    end = text.rfind(" ", 0, characters)
    return text[:end] if end > 0 else text


def completed(
    found: Sequence[list[int] | None],
    texts: Sequence[Any],
    encode: Callable[[list[Any]], list[list[int]]],
) -> list[list[int]]:
    """Returns the ids that were found, and where None were those that `encode` gives.

    found = [[20], None], texts = ["a", "a  mug"]  ->  [[20], encode(["a  mug"])[0]]
    """
    rest = iter(encode([text for text, ids in zip(texts, found, strict=True) if ids is None]))
    return [next(rest) if ids is None else ids for ids in found]


def joined(*parts: list[int] | None) -> list[int] | None:
    """Returns the ids of all parts in turn, or None if one of them has none."""
    ids: list[int] = []
    for part in parts:
        if part is None:
            return None
        ids += part
    return ids


def keeps_words_apart(description: dict[str, Any]) -> bool:
    """Says whether the ids of a text are those of its words, from a tokenizer's tokenizer.json.

    So it is when spaces do nothing but become marks, and no piece has a mark after a letter: then
    no merge can reach from one word into the next.
    """
    model = description["model"]
    if model["type"] != "BPE" or model.get("dropout") or model.get("ignore_merges"):
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False
    for token in description["added_tokens"]:
        takes_spaces = token["lstrip"] or token["rstrip"]
        if takes_spaces or not (token["special"] or is_beside_spaces(token["content"])):
            return False
    changes = [
        *steps(description["normalizer"], "normalizers"),
        *steps(description["pre_tokenizer"], "pretokenizers"),
    ]
    # Whatever comes after the first one that marks spaces finds none.
    others = [step for step in changes if step["type"] != "Prepend"]
    return (
        all(map(only_marks_spaces, changes))
        and bool(others)
        and others[0]["type"] != "Split"
        and SPACE_MARK in model["vocab"]  # or unknown characters of two words become one
        # what is left out has the marks around it become neighbours
        and bool(model["unk_token"] or has_all_bytes(model))
        and not any(SPACE_MARK in piece.lstrip(SPACE_MARK) for piece in model["vocab"])
    )


def has_all_bytes(model: dict[str, Any]) -> bool:
    return model["byte_fallback"] and all(f"<0x{n:02X}>" in model["vocab"] for n in range(256))


def is_beside_spaces(word: str) -> bool:
    """Says whether no single space of a text can be part of this added token."""
    spaced = word.replace(SPACE_MARK, " ")
    return " " not in spaced or (len(spaced) > 1 and not spaced.strip(" "))


def steps(part: dict[str, Any] | None, of_sequence: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[of_sequence] if part["type"] == "Sequence" else [part]


def only_marks_spaces(step: dict[str, Any]) -> bool:
    """Says whether a step of tokenising does no more to a text than mark its spaces."""
    match step:
        case {"type": "Prepend", "prepend": "▁"} | {"type": "Metaspace", "replacement": "▁"}:
            return True
        case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            return True
        case {"type": "Split", "pattern": {"String": " "}}:  # Gemma's: finds none, all are marked
            return True
    return False
