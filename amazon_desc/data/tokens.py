"""Turns prompt and description into token ids, the same way for training, scoring and prediction.

In come titles and descriptions, out go Examples: ids, and how many of them are the prompt. Prompt
and description are tokenised apart and their ids joined, so what is a target is right by
construction. Nothing is padded or packed here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from amazon_desc.data.prompts import Prompter, PromptSettings, PromptText
from amazon_desc.data.records import Product
from amazon_desc.errors import UserError
from amazon_desc.hub import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A prompt always leaves room for at least this many tokens of description and its end.
MIN_DESCRIPTION_TOKENS = 16
# The room a title must have beside the template before a sequence length is worth training on.
MIN_TITLE_TOKENS = 8
# English text has about four characters a token; what lies beyond this many is cut off unread.
MAX_CHARACTERS_PER_TOKEN = 6
# Longer than any title of the data set; bounds the work that one hostile line can cause.
MAX_TITLE_CHARACTERS = 2_000

SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*$")
# A full stop and what closes behind it can be pieces of their own, but hardly more than these.
MAX_END_PIECES = 4
# How SentencePiece and byte-level pieces show that a word begins.
WORD_STARTS = "▁Ġ"

Ending = Literal["whole", "shortened", "cut"]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its description as one sequence of token ids.

    `ending`: "whole" has all of the description and the end token; "shortened" ends at the last
    whole sentence that fits and has the end token; "cut" has neither, since no sentence fits.
    """

    input_ids: list[int]
    num_prompt_tokens: int
    ending: Ending


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a base; code that comes with a base is never run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of what class is up to tokenizers, which raises Exception itself
        raise UserError(
            f"--model.backbone {folder}: its tokenizer cannot be read ({first_line(error)}). Copy "
            f"or download the base again."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: its tokenizer names no end token (eos_token), so no description could ever "
            f"end. Set eos_token in tokenizer_config.json, or name another --model.backbone."
        )
    return tokenizer


def tokenizer_fingerprint(folder: Path) -> str:
    """Returns a sha256 over the files that decide what a text's ids are."""
    digest = hashlib.sha256()
    for pattern in ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"):
        for file in sorted(folder.glob(pattern)):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class Encoder:
    """Encodes prompts and descriptions for one tokenizer, template and sequence length.

    With a toy tokenizer, the template "describe: {title}", and BOS = 1, EOS = 2:

        title "red mug", description "a mug."
        input_ids         = [1, 10, 11, 12, 13, 20, 13, 21, 2]     prompt, description, end
        num_prompt_tokens = 5
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, max_seq_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.prompter = Prompter(prompt, tokenizer)
        self.max_seq_length = max_seq_length
        self.control_strings = re.compile(
            "|".join(re.escape(token) for token in sorted(control_strings(tokenizer), key=len))
        )
        self.anchor_ids: list[int] = self.plain_ids(["\n"])[0]
        self.word_start = self.find_word_start()
        self.end_id = self.find_end_id()
        pad_id = tokenizer.pad_token_id
        self.pad_id: int = tokenizer.eos_token_id if pad_id is None else pad_id  # pyright: ignore
        num_template_tokens = len(self.prompt_ids(""))
        shortest = num_template_tokens + MIN_TITLE_TOKENS + MIN_DESCRIPTION_TOKENS
        if max_seq_length < shortest:
            raise UserError(
                f"--data.max_seq_length {max_seq_length}: too short for the prompt, whose template "
                f"alone has {num_template_tokens} tokens; wanted at least {shortest} tokens. "
                f"Raise --data.max_seq_length or shorten --data.prompt.template."
            )

    def examples(self, products: Sequence[Product]) -> list[Example]:
        """Encodes a batch of cleaned products, each to at most `max_seq_length` tokens."""
        prompts = self.prompts([product.title for product in products])
        max_characters = MAX_CHARACTERS_PER_TOKEN * self.max_seq_length
        descriptions = self.description_ids(
            [product.description[:max_characters] for product in products]
        )
        is_unread = [len(product.description) > max_characters for product in products]
        return [self.join(*parts) for parts in zip(prompts, descriptions, is_unread, strict=True)]

    def join(self, prompt: list[int], description: list[int], is_unread: bool) -> Example:
        """Joins the ids; `is_unread`: there was more text than was tokenised."""
        room = self.max_seq_length - len(prompt)
        if len(description) < room and not is_unread:
            return Example([*prompt, *description, self.end_id], len(prompt), "whole")
        kept = self.last_sentence_end(description[:room])
        if kept:
            return Example([*prompt, *description[:kept], self.end_id], len(prompt), "shortened")
        return Example([*prompt, *description[:room]], len(prompt), "cut")

    def prompts(self, titles: Sequence[str]) -> list[list[int]]:
        """Encodes prompts; a title too long for the sequence length loses words at its end."""
        texts = [self.prompter(title[:MAX_TITLE_CHARACTERS]) for title in titles]
        if self.prompter.is_chat:
            encoded = [self.chat_ids(text) for text in texts]
        else:
            encoded = self.plain_ids([text.words for text in texts], add_special_tokens=True)
        limit = self.max_seq_length - MIN_DESCRIPTION_TOKENS
        return [
            ids if len(ids) <= limit else self.prompt_ids(self.shorten_title(title, limit))
            for title, ids in zip(titles, encoded, strict=True)
        ]

    def prompt_ids(self, title: str) -> list[int]:
        """Encodes one prompt, however long it is."""
        text = self.prompter(title)
        if self.prompter.is_chat:
            return self.chat_ids(text)
        return self.plain_ids([text.words], add_special_tokens=True)[0]

    def shorten_title(self, title: str, limit: int) -> str:
        """Returns the longest run of the title's first words whose prompt has `limit` tokens."""
        words = title[:MAX_TITLE_CHARACTERS].split(" ")
        fits, too_many = 0, len(words)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if len(self.prompt_ids(" ".join(words[:middle]))) <= limit:
                fits = middle
            else:
                too_many = middle
        return " ".join(words[:fits])

    def description_ids(self, descriptions: list[str]) -> list[list[int]]:
        """Encodes descriptions as they would read on after the prompt, without the end token.

        After a template that ends in a word or a colon a description begins a new word, as it does
        at the start of a text. After white space it does not: there the ids are those of the text
        behind a line break, or "Dance" would become " Dance".
        """
        text = self.prompter("title")  # not "": a template may end in the title
        if (text.after or text.words)[-1:].isspace():
            return [self.continuation_ids(description) for description in descriptions]
        if self.prompter.is_chat:
            return self.plain_ids(descriptions)
        return self.plain_ids([self.word_start + description for description in descriptions])

    def find_word_start(self) -> str:
        """Returns what makes a text begin a new word; nothing where the tokenizer adds it."""
        first = self.tokenizer.convert_ids_to_tokens(self.plain_ids(["a"])[0][0])
        return "" if first[0] in WORD_STARTS else " "

    def plain_ids(self, texts: list[str], add_special_tokens: bool = False) -> list[list[int]]:
        """Encodes text in which nothing is a control token, whatever it looks like."""
        if not texts:
            return []
        return self.tokenizer(
            texts,
            add_special_tokens=add_special_tokens,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]  # pyright: ignore[reportReturnType]

    def continuation_ids(self, text: str) -> list[int]:
        """Encodes text as it reads in the middle of a text, not at its start."""
        ids = self.plain_ids(["\n" + text])[0]
        assert ids[: len(self.anchor_ids)] == self.anchor_ids, "a line break is no token of its own"
        return ids[len(self.anchor_ids) :]

    def chat_ids(self, text: PromptText) -> list[int]:
        """Encodes a chat prompt: the template's control tokens count, those in the title do not.

        Where the user's words look like a control token, the text is tokenised in parts that are
        cut inside the look-alike, so that no part holds it whole.
        """
        cuts = [match.start() + 1 for match in self.control_strings.finditer(text.words)]
        parts = [text.words[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        parts[0] = text.before + parts[0]
        parts[-1] += text.after
        ids = self.template_ids(parts[0])
        for part in parts[1:]:
            ids += self.template_ids("\n" + part)[len(self.anchor_ids) :]
        return ids

    def template_ids(self, text: str) -> list[int]:
        """Encodes text in which control tokens count."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def find_end_id(self) -> int:
        """Returns the token that ends a description: the chat template's end of turn, or EOS."""
        special = {
            token_id
            for token_id, token in self.tokenizer.added_tokens_decoder.items()
            if token.special
        }
        for token_id in self.template_ids(self.prompter.after_description):
            if token_id in special:
                return token_id
        return int(self.tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]

    def last_sentence_end(self, ids: list[int]) -> int:
        """Returns how many of `ids` make whole sentences and leave room for the end token.

        A sentence ends at a piece such as "." or '!"' (or "." and ")") when a new word follows:

            pieces = ["▁A", "▁mug", ".", "▁It", "▁holds", "▁3", ".", "5"]
            result = 3
        """
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        for index in range(len(ids) - 1, 0, -1):
            before = "".join(pieces[max(0, index - MAX_END_PIECES) : index])
            if pieces[index][0] in WORD_STARTS and SENTENCE_END.search(before):
                return index
        return 0


def control_strings(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Returns every text that this tokenizer would read as a control token.

    Other added tokens are text with an id of its own, such as Gemma's double line break.
    """
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
