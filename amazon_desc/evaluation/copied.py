"""Which written texts are copied from the descriptions that a model was trained on.

In come texts and the examples of a prepared corpus, as token ids mapped from the disk, out goes
whether each text is copied. All ids are passed over once, in parts, and compared as numbers; only
long runs of tokens that a text has too are read as text, and compared exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amazon_desc.data.encoding.encoder import WORD_STARTS
from amazon_desc.data.encoding.tokenizer import backend_of, pieces_by_id
from amazon_desc.data.encoding.words import WordTokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

NUM_CHARACTERS = 50
"""A text is copied that has so many characters in a row out of one description ..."""
NUM_WORDS, SHARE_OF_RUNS = 8, 0.5
"""... or of whose runs of so many words this share stands in one description or another."""

RUN_TOKENS = 6
# No word has more, or hardly one: how far the tokens of a word are looked for.
WORD_TOKENS = 10

# Parts of the ids that the processor's cache holds with all that is made of them.
_TOKENS_AT_A_TIME = 1 << 16
_TABLE_BITS = 22
_RUNS_AT_A_TIME = 1024
_FACTORS = tuple(np.uint32(odd) for odd in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F))


def copied(
    texts: Sequence[str],
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    chosen: np.ndarray | None = None,
) -> list[bool]:
    """Says of each text whether it is copied from the examples' descriptions.

    It is if 50 characters in a row stand in one of them, or half of its runs of eight words stand
    in any of them; white space of any kind and length counts as one space.

        description  "Knit from soft merino wool, it keeps you warm on the coldest of days."
        text         "This hat, knit from soft merino wool, it keeps you warm on the coldest day."
                                    "nit from soft merino wool, it keeps you warm on the coldest "
        copied       True, as 59 characters are the same

    Words inside of a shared passage have the same tokens on both sides; only its first and its last
    word may be cut. So nothing is compared exactly but runs of at least six tokens that are the
    same, with the words beside them. What that misses: passages that have less than six tokens
    beside the cut words; words of more than ten tokens that are cut; and passages with tokens of
    their own on either side, as in a corpus whose white space was kept.

    Args:
        examples: the table examples.arrow of a corpus: input_ids and num_prompt_tokens
        tokenizer: that of the corpus
        chosen: the numbers of the examples that were trained on; None: all were
    """
    plain = [" ".join(text.split()) for text in texts]
    backend = backend_of(tokenizer)
    search = _Search(WordTokenizer(backend)(plain), backend)
    passages = _Passages(plain)
    met: set[bytes] = set()
    first = 0
    for ids, offsets, prompts in _parts(examples):
        is_chosen = None
        if chosen is not None:
            is_chosen = np.isin(np.arange(first, first + len(prompts)), chosen)
        first += len(prompts)
        bounds = search.long_runs(ids, offsets, prompts, is_chosen)
        runs = {ids[start:end].tobytes(): (start, end) for start, end in bounds.tolist()}
        new = [ids[slice(*runs[run])].tolist() for run in runs.keys() - met]
        met.update(runs)
        for start in range(0, len(new), _RUNS_AT_A_TIME):
            part = new[start : start + _RUNS_AT_A_TIME]
            for passage in backend.decode_batch(part, skip_special_tokens=True):
                passages.look_at(passage)
    return passages.is_copied()


def _parts(examples: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the examples as they lie on the disk: ids, where each begins and ends among them
    (E + 1,), and how many of each are its prompt (E,)."""
    assert examples._indices is None, "the table as it is on the disk"
    table: Any = examples.data.table.select(["input_ids", "num_prompt_tokens"])
    for batch in table.to_batches():
        ids, prompts = batch.columns
        yield ids.values.to_numpy(), ids.offsets.to_numpy(), prompts.to_numpy()


class _Search:
    """Finds long runs of tokens that one of the texts has too."""

    def __init__(self, texts: Sequence[Sequence[int]], backend: Tokenizer) -> None:
        hashes = [hashes_of_runs(np.asarray(ids)) for ids in texts if len(ids) >= RUN_TOKENS]
        wanted = np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint32)
        # Two small tables, since most that the first lets through is only by chance in it.
        self.tables = np.zeros((2, 1 << _TABLE_BITS), np.bool_)
        for table, places in zip(self.tables, self.places(wanted), strict=True):
            table[places] = True
        pieces = pieces_by_id(backend)
        self.num_characters = np.array(
            [1 if piece.startswith("<0x") else len(piece) for piece in pieces], np.int64
        )
        self.begins_word = np.array([piece[0] in WORD_STARTS for piece in pieces])

    def places(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shift = np.uint32(32 - _TABLE_BITS)
        return hashes >> shift, (hashes * _FACTORS[3] ^ hashes >> np.uint32(7)) >> shift

    def hits(self, ids: np.ndarray) -> np.ndarray:
        """Returns the places in `ids` where a run of RUN_TOKENS begins that a text has too."""
        found = []
        shift = np.uint32(32 - _TABLE_BITS)
        for start in range(0, len(ids) - RUN_TOKENS + 1, _TOKENS_AT_A_TIME):
            part = ids[start : start + _TOKENS_AT_A_TIME + RUN_TOKENS - 1]
            hashes = hashes_of_runs(part)
            places = np.flatnonzero(self.tables[0].take(hashes >> shift))
            places = places[self.tables[1].take(self.places(hashes[places])[1])]
            found.append(places + start)
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def long_runs(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        prompts: np.ndarray,
        is_chosen: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns where runs begin and end (R, 2) that may be a passage, in descriptions of chosen
        examples, with the words beside them.

            hits at 3, 4, 5 and 9  ->  tokens 3 to 10 and 9 to 14 are the same
        """
        hits = self.hits(ids[: offsets[-1]])
        examples = np.searchsorted(offsets, hits, side="right") - 1
        is_whole = (hits >= offsets[examples] + prompts[examples]) & (
            hits + RUN_TOKENS <= offsets[examples + 1]
        )
        if is_chosen is not None:
            is_whole &= is_chosen[examples]
        hits, examples = hits[is_whole], examples[is_whole]
        if not len(hits):
            return np.zeros((0, 2), np.int64)
        is_first = (np.diff(hits, prepend=-2) != 1) | (np.diff(examples, prepend=-1) != 0)
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(hits)) - 1
        starts, ends, examples = hits[firsts], hits[lasts] + RUN_TOKENS, examples[firsts]
        begins = self.begins_word[ids[hits]].astype(np.int64)
        num_words = np.add.reduceat(begins, firsts)
        num_characters = np.add.reduceat(self.num_characters[ids[hits]], firsts)
        for place in range(RUN_TOKENS - 1):  # the tokens of the last hit
            token = ids[hits[lasts] + 1 + place]
            num_words += self.begins_word[token]
            num_characters += self.num_characters[token]
        lowest, highest = offsets[examples] + prompts[examples], offsets[examples + 1]
        starts, ends, beside = self.with_words_beside(ids, starts, ends, lowest, highest)
        num_characters += beside
        # The first word of a text may have tokens of its own, so it may be one word less.
        is_long = (num_characters >= NUM_CHARACTERS) | (num_words >= NUM_WORDS - 1)
        return np.stack([starts, ends], axis=1)[is_long]

    def with_words_beside(
        self,
        ids: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        lowest: np.ndarray,
        highest: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns new starts and ends of runs, each moved over a word, but not out of lowest to
        highest; and by how many characters the runs are longer.

        The start goes back to a token that begins a word, the end on to before the next that does.
        """
        num_characters = np.zeros(len(starts), np.int64)
        is_open = np.ones(len(starts), np.bool_)
        is_after = np.ones(len(ends), np.bool_)
        for step in range(WORD_TOKENS):
            is_open &= starts > lowest
            starts = starts - is_open
            num_characters += is_open * self.num_characters[ids[starts]]
            is_open &= ~self.begins_word[ids[starts]]
            is_after &= ends < highest
            token = ids[np.minimum(ends, highest - 1)]
            if step:
                is_after &= ~self.begins_word[token]
            num_characters += is_after * self.num_characters[token]
            ends = ends + is_after
        return starts, ends, num_characters


def hashes_of_runs(ids: np.ndarray) -> np.ndarray:
    """Returns a number (T - 5,), uint32, for each run of six ids, made of its halves by doubling.

    It is equal for equal runs, and for others hardly ever.
    """
    ones = ids.astype(np.uint32)
    ones *= _FACTORS[0]
    twos = ones[:-1] * _FACTORS[1]
    twos += ones[1:]
    sixes = twos[:-4] * _FACTORS[2]
    sixes += twos[2:-2]
    sixes *= _FACTORS[2]
    sixes += twos[4:]
    return sixes


class _Passages:
    """Compares parts of descriptions with all texts, by characters and by words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.has_passage = [False] * len(texts)
        # Where 50 characters are the same, one of a passage's blocks of 25 is among them.
        self.block = NUM_CHARACTERS // 2
        self.blocks: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, text in enumerate(texts):
            for start in range(len(text) - self.block + 1):
                self.blocks[text[start : start + self.block]].append((number, start))
        self.runs = [list(_runs_of_words(text)) for text in texts]
        self.wanted = {run for runs in self.runs for run in runs}
        self.found: set[tuple[str, ...]] = set()

    def look_at(self, passage: str) -> None:
        """Takes a part of a description."""
        plain = " ".join(passage.split())
        self.found.update(self.wanted.intersection(_runs_of_words(plain)))
        for start in range(0, len(plain) - self.block + 1, self.block):
            for number, place in self.blocks.get(plain[start : start + self.block], ()):
                if not self.has_passage[number]:
                    length = _length_in_common(plain, start, self.texts[number], place)
                    self.has_passage[number] = length >= NUM_CHARACTERS

    def is_copied(self) -> list[bool]:
        return [
            has_passage
            or (bool(runs) and sum(run in self.found for run in runs) >= SHARE_OF_RUNS * len(runs))
            for has_passage, runs in zip(self.has_passage, self.runs, strict=True)
        ]


def _runs_of_words(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split(" ")
    return zip(*(words[first:] for first in range(NUM_WORDS)), strict=False)


def _length_in_common(one: str, first: int, other: str, second: int) -> int:
    """Returns how many characters around these places are the same in both, 50 at most each way.

    "a red mug", 2 and "my red mug.", 3 -> len(" red mug")
    """
    before = after = 0
    while before < min(first, second, NUM_CHARACTERS):
        if one[first - before - 1] != other[second - before - 1]:
            break
        before += 1
    while after < min(len(one) - first, len(other) - second, NUM_CHARACTERS):
        if one[first + after] != other[second + after]:
            break
        after += 1
    return before + after
