"""Words that were met before, with their token ids: the memory of a tokenizer that works by words.

In come words, or texts made of words, out go token ids. A word that is not known is tokenised by a
function that is given. Words are numbered and their ids lie one after the other in one array, so
that a batch of texts is put together without touching each of its words.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Common words come early: what is met once this many are known is hardly met again.
MAX_WORDS = 500_000
MAX_WORD_CHARACTERS = 100


class Vocabulary:
    """Known words; `tokenize` gives the ids of a word, or None if it has no ids of its own."""

    def __init__(self, tokenize: Callable[[str], list[int] | None]) -> None:
        self.tokenize = tokenize
        self.numbers: dict[str, int] = {}
        # Of each word, by its number: where its ids begin, and how many they are (-1 for None).
        self.starts = np.empty(0, np.int64)
        self.lengths = np.empty(0, np.int64)
        self.ids = np.empty(0, np.int32)
        self.num_ids = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def ids_of_texts(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Returns the ids of texts whose words stand apart by single spaces.

        None stands for a text with a word that has no ids of its own.

            known words = {a: [20], red: [12], mug: [13, 14]}
            texts       = ["a mug", "a red mug"]
            result      = [[20, 13, 14], [20, 12, 13, 14]]
        """
        if not texts:
            return []
        words = pc.split_pattern(pa.array(texts, pa.string()), " ")  # pyright: ignore
        distinct = words.values.dictionary_encode()
        numbers = self.look_up(distinct.dictionary.to_pylist())[distinct.indices.to_numpy()]
        return self.put_together(numbers, words.offsets.to_numpy())

    def ids_of_words(self, words: Sequence[str]) -> list[list[int] | None]:
        """Returns the ids of each word, or None if it has none of its own."""
        return self.put_together(self.look_up(words), np.arange(len(words) + 1))

    def put_together(self, numbers: np.ndarray, bounds: np.ndarray) -> list[list[int] | None]:
        """Returns the ids of texts, from the numbers of all their words in turn.

        bounds = [0, 2, 5]: the words 0 and 1 are those of the first text, 2 to 4 of the second
        """
        is_missing = self.lengths[numbers] < 0
        lengths = np.maximum(self.lengths[numbers], 0)
        ends = np.cumsum(lengths)
        places = np.arange(lengths.sum()) + np.repeat(
            self.starts[numbers] - ends + lengths, lengths
        )
        ids = self.ids[places].tolist()
        cuts = np.concatenate([[0], ends])[bounds].tolist()
        found: list[list[int] | None] = [ids[start:stop] for start, stop in pairwise(cuts)]
        for text in np.searchsorted(bounds, np.flatnonzero(is_missing), side="right").tolist():
            found[text - 1] = None
        return found

    def look_up(self, words: Sequence[str]) -> np.ndarray:
        """Returns the number of each word; that of one not kept holds until the next look-up."""
        known = self.numbers.get
        numbers = [known(word, -1) for word in words]
        if -1 in numbers:
            new = dict.fromkeys(w for w, number in zip(words, numbers, strict=True) if number < 0)
            short = [word for word in new if len(word) <= MAX_WORD_CHARACTERS]
            kept = dict.fromkeys(short[: max(0, MAX_WORDS - len(self))])
            passing = [word for word in new if word not in kept]
            first = len(self)
            self.num_ids = self.store(list(kept), first, self.num_ids)
            self.store(passing, first + len(kept), self.num_ids)
            fresh = {word: first + n for n, word in enumerate(chain(kept, passing))}
            numbers = [
                fresh[word] if number < 0 else number
                for word, number in zip(words, numbers, strict=True)
            ]
            self.numbers.update((word, fresh[word]) for word in kept)
        return np.array(numbers, np.int64)

    def store(self, words: Sequence[str], number: int, place: int) -> int:
        """Numbers words from `number`, puts their ids from `place` on; returns where they end."""
        ids = [self.tokenize(word) for word in words]
        flat = [token_id for of_word in ids for token_id in of_word or ()]
        lengths = np.array([-1 if of_word is None else len(of_word) for of_word in ids], np.int64)
        self.starts = with_room(self.starts, number + len(words))
        self.lengths = with_room(self.lengths, number + len(words))
        self.ids = with_room(self.ids, place + len(flat))
        stored = np.maximum(lengths, 0)
        self.starts[number : number + len(words)] = place + np.cumsum(stored) - stored
        self.lengths[number : number + len(words)] = lengths
        self.ids[place : place + len(flat)] = flat
        return place + len(flat)


def with_room(array: np.ndarray, size: int) -> np.ndarray:
    """Returns an array of at least `size`, which begins like the one given."""
    if size <= len(array):
        return array
    larger = np.zeros(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger
