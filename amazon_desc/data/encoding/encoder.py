"""Turns prompt and description into token ids, the same way for training, scoring and prediction.

In come titles and descriptions, out go Examples: ids, and how many of them are the prompt. Prompt
and description are tokenised apart and their ids joined, so what is a target is right by
construction. Nothing is padded or packed here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from amazon_desc.data.encoding.prompts import TITLE, Frame, Prompter, PromptSettings, PromptText
from amazon_desc.data.encoding.tokenizer import backend_of, control_strings, pieces_by_id
from amazon_desc.data.encoding.words import WordTokenizer, completed
from amazon_desc.data.reading.records import Product
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A prompt always leaves room for at least this many tokens of description and its end.
MIN_DESCRIPTION_TOKENS = 16
# The room a title must have, wherever the template puts it, before a sequence length is worth
# training on.
MIN_TITLE_TOKENS = 8
# English text has about four characters a token; what lies beyond this many is cut off unread.
MAX_CHARACTERS_PER_TOKEN = 6
# Longer than any title of the data set; bounds the work that one hostile line can cause.
MAX_TITLE_CHARACTERS = 2_000

SENTENCE_CLOSE = r"[.!?…][\"'”’)\]]*"
SENTENCE_END = re.compile(SENTENCE_CLOSE + "$")
SENTENCE_CLOSERS = frozenset(".!?…\"'”’)]")
# A full stop and what closes after it can be pieces of their own, but hardly more than these.
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


class Encoder:
    """Encodes prompts and descriptions for one tokenizer, template and sequence length.

    It holds no model and no transformers object, so that it can be sent to another process.

    With a toy tokenizer, the template "describe: {title}", and BOS = 1, EOS = 2:

        title "red mug", description "a mug."
        input_ids         = [1, 10, 11, 12, 13, 20, 13, 21, 2]     prompt, description, end
        num_prompt_tokens = 5
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        max_seq_length: int,
        frame: Frame | None = None,
    ) -> None:
        """`frame`: what the chat template wrote when a run began; None: what it writes now."""
        self.prompter = Prompter(prompt, tokenizer, frame)
        self.max_seq_length = max_seq_length
        self.backend = backend_of(tokenizer)
        self.plain = WordTokenizer(self.backend)
        self.pieces = pieces_by_id(self.backend)
        self.control_strings = re.compile(
            "|".join(re.escape(token) for token in sorted(control_strings(tokenizer), key=len))
        )
        self.anchor_ids: list[int] = self.plain(["\n"])[0]
        self.start_ids = self.find_start_ids()
        self.word_start = "" if self.pieces[self.plain(["a"])[0][0]][0] in WORD_STARTS else " "
        self.eos_id = int(tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]
        self.end_id = self.find_end_id()
        pad_id = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad_id is None else pad_id  # pyright: ignore
        num_template_tokens = len(self.prompt_ids(""))
        num_title_tokens = MIN_TITLE_TOKENS * prompt.template.count(TITLE)
        shortest = num_template_tokens + num_title_tokens + MIN_DESCRIPTION_TOKENS
        if max_seq_length < shortest:
            raise UserError(
                f"--data.max_seq_length {max_seq_length}: too short for the prompt, whose template "
                f"alone has {num_template_tokens} tokens; wanted at least {shortest} tokens. "
                f"Raise --data.max_seq_length or shorten --data.prompt.template"
                f"{'' if prompt.system is None else ' or --data.prompt.system'}."
            )

    def examples(self, products: Sequence[Product]) -> list[Example]:
        """Encodes a batch of cleaned products, each to at most `max_seq_length` tokens."""
        prompts = self.prompts([product.title for product in products])
        rooms = [self.max_seq_length - len(prompt) for prompt in prompts]
        max_characters = MAX_CHARACTERS_PER_TOKEN * self.max_seq_length
        descriptions = self.description_ids(
            [product.description[:max_characters] for product in products], rooms
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
        return [ids for ids, _ in self.marked_prompts(titles)]

    def marked_prompts(self, titles: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Encodes prompts, and says of each whether its title lost words."""
        encoded = self.encode_prompts(
            [self.prompter(title[:MAX_TITLE_CHARACTERS]) for title in titles]
        )
        limit = self.max_seq_length - MIN_DESCRIPTION_TOKENS
        return [
            (ids, len(title) > MAX_TITLE_CHARACTERS)
            if len(ids) <= limit
            else (self.prompt_ids(self.shorten_title(title, limit)), True)
            for title, ids in zip(titles, encoded, strict=True)
        ]

    def prompt_ids(self, title: str) -> list[int]:
        """Encodes one prompt, however long it is."""
        return self.encode_prompts([self.prompter(title)])[0]

    def encode_prompts(self, texts: Sequence[PromptText]) -> list[list[int]]:
        if self.prompter.is_chat:
            return self.chat_ids(texts)
        return [[*self.start_ids, *ids] for ids in self.plain([text.words for text in texts])]

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

    def description_ids(self, descriptions: list[str], limits: Sequence[int]) -> list[list[int]]:
        """Encodes descriptions as they would read on after the prompt, without the end token.

        After a template that ends in a word or a colon a description begins a new word, as it does
        at the start of a text. After white space it does not: there the ids are those of the text
        after a line break, or "Dance" would become " Dance".
        """
        text = self.prompter("title")  # not "": a template may end in the title
        if (text.after or text.words)[-1:].isspace():
            length = len(self.anchor_ids)
            ids = self.plain(["\n" + text for text in descriptions], [n + length for n in limits])
            assert all(of_text[:length] == self.anchor_ids for of_text in ids), (
                "a line break is no token of its own"
            )
            return [of_text[length:] for of_text in ids]
        before = "" if self.prompter.is_chat else self.word_start
        return self.plain([before + description for description in descriptions], limits)

    def chat_ids(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """Encodes chat prompts: the template's control tokens count, those in titles do not.

        Where the user's words look like a control token, the text is tokenised in parts that are
        cut inside the look-alike, so that no part holds it whole.
        """
        words, frame = [text.words for text in texts], self.prompter.frame
        found = [
            None if self.control_strings.search(of_text) else ids
            for of_text, ids in zip(
                words,
                self.plain.framed_by_words(frame.before, words, frame.after),
                strict=True,
            )
        ]
        return completed(found, texts, self.chat_ids_in_parts)

    def chat_ids_in_parts(self, texts: Sequence[PromptText]) -> list[list[int]]:
        parts_of = []
        for text in texts:
            cuts = [match.start() + 1 for match in self.control_strings.finditer(text.words)]
            parts = [text.words[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
            parts[0] = text.before + parts[0]
            parts[-1] += text.after
            parts_of.append([parts[0], *("\n" + part for part in parts[1:])])
        encoded = iter(self.template_ids([part for parts in parts_of for part in parts]))
        return [
            next(encoded) + [i for _ in parts[1:] for i in next(encoded)[len(self.anchor_ids) :]]
            for parts in parts_of
        ]

    def template_ids(self, texts: list[str]) -> list[list[int]]:
        """Encodes texts in which control tokens count."""
        return self.plain.whole(texts, has_control_tokens=True)

    def find_start_ids(self) -> list[int]:
        """Returns what the tokenizer puts before every text: BOS, for most."""
        text = self.template_ids(["a"])[0]
        ids = self.backend.encode("a", add_special_tokens=True).ids
        return ids[: next(n for n in range(len(ids)) if ids[n : n + len(text)] == text)]

    def find_end_id(self) -> int:
        """Returns the token that ends a description: the chat template's end of turn, or EOS.

        Raises:
            UserError: the template ends a turn with text that is no control token, so that what is
                learnt would end otherwise than the base's own answers.
        """
        after = self.prompter.frame.after_description
        special = {
            token_id
            for token_id, token in self.backend.get_added_tokens_decoder().items()
            if token.special and token.content in after  # not <unk>, for what has no piece
        }
        ids = self.template_ids([after])[0]
        for token_id in ids:
            if token_id in special:
                return token_id
        if after.strip():
            pieces = " ".join(self.pieces[token_id] for token_id in ids)
            raise UserError(
                f"--data.prompt.chat: wanted a chat template that ends a turn with a control token "
                f"of the base's tokenizer, found {after.strip()!r}, which is text to it: {pieces}. "
                f"Take template and tokenizer from one place, or set --data.prompt.chat false."
            )
        return self.eos_id

    def last_sentence_end(self, ids: list[int]) -> int:
        """Returns how many of `ids` make whole sentences and leave room for the end token.

        A sentence ends at a piece such as "." or '!"' (or "." and ")") when a new word follows:

            pieces = ["▁A", "▁mug", ".", "▁It", "▁holds", "▁3", ".", "5"]
            result = 3
        """
        pieces = self.pieces
        for index in range(len(ids) - 1, 0, -1):
            closes = pieces[ids[index - 1]][-1] in SENTENCE_CLOSERS
            if closes and pieces[ids[index]][0] in WORD_STARTS:
                before = (pieces[i] for i in ids[max(0, index - MAX_END_PIECES) : index])
                if SENTENCE_END.search("".join(before)):
                    return index
        return 0
