"""A base's tokenizer as llama.cpp runs it: pieces, their types, merges, control tokens, template.

In comes a tokenizer's folder, out goes a Vocabulary, or a refusal of what llama.cpp would split in
another way. It is made from the tokenizer that training and prediction run (tokenizer.json), so a
tokenizer.model beside it is not read: its scores are the order of the merges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amazon_desc.data.encoding.tokenizer import backend_of, load_tokenizer
from amazon_desc.export.gguf.package import gguf_package
from amazon_desc.export.gguf.pretokenizers import BytePairs, Pieces, splitting_of
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from amazon_desc.data.encoding.encoder import Encoder

SPACE = "▁"
# Of a piece that no merge makes; below all others.
NO_SCORE = -1e6


@dataclass
class Vocabulary:
    """What llama.cpp has to know of a tokenizer; the fields are named as GGUF's keys."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special_ids: dict[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    leading_space: bool = False
    """a prompt begins with a space of its own, since llama.cpp is told to put none"""
    chat_template: str | None = None

    def add_to(self, writer: Any) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_scores(self.scores)  # an empty list is not written
        writer.add_token_merges(self.merges)
        for name, token_id in self.special_ids.items():
            getattr(writer, f"add_{name}_token_id")(token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template:
            space = "{{ ' ' }}" if self.leading_space else ""
            writer.add_chat_template(space + self.chat_template)


def vocabulary_of(
    folder: Path,
    num_rows: int | None = None,
    encoder: Encoder | None = None,
    fill: bool = True,
) -> Vocabulary:
    """Returns the vocabulary of a tokenizer's folder.

    Args:
        num_rows: of the embedding; None: as many as the tokenizer has tokens
        fill: there is a token for each row, the last of them without a use
        encoder: of the run, which knows whether its prompts begin with BOS and what ends a text;
            None: what the tokenizer does with a text alone

    Raises:
        UserError: llama.cpp has no such tokenizer, or there are more tokens than rows.
    """
    tokenizer = load_tokenizer(folder)
    backend = backend_of(tokenizer)
    state = json.loads(backend.to_str())
    splitting = splitting_of(state, folder)
    ids: dict[str, Any] = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")
    }
    tokens, types = tokens_of(backend, splitting, ids["unk"])
    if num_rows is not None:
        fit_to_rows(tokens, types, num_rows, folder)
        missing = num_rows - len(tokens) if fill else 0
        tokens += [f"[PAD{len(tokens) + index}]" for index in range(missing)]
        types += [int(gguf_package().TokenType.UNUSED)] * missing
    make_unique(tokens)
    merges: list[list[str]] = state["model"]["merges"]
    vocabulary = Vocabulary(
        splitting.model,
        splitting.pre,
        tokens,
        types,
        special_ids={name: token_id for name, token_id in ids.items() if token_id is not None},
        chat_template=tokenizer.get_chat_template() if tokenizer.chat_template else None,
    )
    if isinstance(splitting, Pieces):
        vocabulary.scores = scores_of(tokens, merges)
        vocabulary.add_space_prefix = splitting.prefix is not None
    else:
        vocabulary.merges = [" ".join(merge) for merge in merges]
    around = backend.encode("a", add_special_tokens=True).ids
    vocabulary.add_bos = around[0] == ids["bos"]
    vocabulary.add_eos = around[-1] == ids["eos"]
    if encoder is not None:
        fit_to_prompts(vocabulary, encoder, splitting)
    return vocabulary


def tokens_of(
    backend: Tokenizer, splitting: Pieces | BytePairs, unk_id: int | None
) -> tuple[list[str], list[int]]:
    """Returns text and type of each id; ids that no token has are unused."""
    kinds = gguf_package().TokenType
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = [f"[PAD{index}]" for index in range(1 + max(vocabulary.values()))]
    types = [int(kinds.UNUSED)] * len(tokens)
    has_bytes = isinstance(splitting, Pieces)
    for piece, index in vocabulary.items():
        tokens[index] = piece
        is_byte = has_bytes and len(piece) == 6 and piece[:3] == "<0x" and piece[-1] == ">"
        types[index] = int(kinds.BYTE if is_byte else kinds.NORMAL)
    for index, added in backend.get_added_tokens_decoder().items():
        types[index] = int(kinds.CONTROL if added.special else kinds.USER_DEFINED)
        if has_bytes and not added.special:  # llama.cpp looks for these before it turns spaces
            tokens[index] = added.content.replace(SPACE, " ")
    if has_bytes and unk_id is not None:
        types[unk_id] = int(kinds.UNKNOWN)
    return tokens, types


def fit_to_rows(tokens: list[str], types: list[int], num_rows: int, folder: Path) -> None:
    """Leaves out what was added beyond the embedding, as Gemma 3 1B has a token for images."""
    kinds = gguf_package().TokenType
    if any(kind in (kinds.NORMAL, kinds.BYTE) for kind in types[num_rows:]):
        raise UserError(
            f"GGUF: wanted a row of the embedding for each token, found {num_rows} rows and the "
            f"token {len(tokens) - 1} in {folder}. Name the tokenizer that the model was made for."
        )
    del tokens[num_rows:], types[num_rows:]


def make_unique(tokens: list[str]) -> None:
    """Gives each token a text of its own: llama.cpp looks ids up by text."""
    seen: set[str] = set()
    for index, token in enumerate(tokens):
        if token in seen:
            tokens[index] = f"[{index}:{token}]"
        seen.add(tokens[index])


def scores_of(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Returns a score for each token: llama.cpp makes the piece of the highest score first.

    merges = [["▁", "a"], ["m", "u"], ["mu", "g"]]
    tokens = ["m", "▁a", "mu", "mug"]
    scores = [-1000000, 0, -1, -2]
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [float(-ranks[token]) if token in ranks else NO_SCORE for token in tokens]


def fit_to_prompts(vocabulary: Vocabulary, encoder: Encoder, splitting: Pieces | BytePairs) -> None:
    """Has llama.cpp begin and end as the run does: BOS, the end of a turn, and the first space.

    Where a space is put before the first word alone, llama.cpp would put one after every control
    token as well. A chat template has such inside, so it gets its one space written out.
    """
    bos_id = vocabulary.special_ids.get("bos")
    # what the template writes itself, as ChatML does its BOS, stays the template's
    vocabulary.add_bos &= encoder.prompt_ids("title")[:1] == [bos_id]
    if encoder.end_id != encoder.eos_id:
        vocabulary.special_ids["eot"] = encoder.end_id
    before, words, _ = encoder.prompter("title")
    if encoder.prompter.is_chat and isinstance(splitting, Pieces) and splitting.prefix == "first":
        begins_with_control = encoder.control_strings.match(before)
        vocabulary.add_space_prefix = False
        vocabulary.leading_space = not begins_with_control and (before + words)[0] != " "
