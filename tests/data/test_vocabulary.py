"""A vocabulary puts texts together from known words, and tokenises each word that is new once."""

import pytest

from amazon_desc.data.encoding import vocabulary
from amazon_desc.data.encoding.vocabulary import Vocabulary

WORDS = {"a": [20], "red": [12], "mug": [13, 14], "": []}


class Tokenize:
    """Gives the ids of WORDS, of a number itself, and none to anything else; notes what it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, word: str) -> list[int] | None:
        self.seen.append(word)
        return [int(word)] if word.isdigit() else WORDS.get(word)


def test_the_worked_example():
    known = Vocabulary(Tokenize())
    assert known.ids_of_texts(["a mug", "a red mug"]) == [[20, 13, 14], [20, 12, 13, 14]]
    assert known.ids_of_words(["mug", "", "a"]) == [[13, 14], [], [20]]
    assert set(known) == {"a", "red", "mug", ""}


def test_no_texts_and_empty_texts():
    known = Vocabulary(Tokenize())
    assert known.ids_of_texts([]) == []
    assert known.ids_of_words([]) == []
    assert known.ids_of_texts(["", "a", "", ""]) == [[], [20], [], []]


def test_a_word_without_ids_takes_its_texts_with_it_and_no_other():
    known = Vocabulary(Tokenize())
    for _ in range(2):  # when it is new, and when it is known
        found = known.ids_of_texts(["a ? mug", "a mug", "?", "", "mug a ?"])
        assert found == [None, [20, 13, 14], None, [], None]
        assert known.ids_of_words(["?", "a"]) == [None, [20]]


def test_a_word_is_tokenised_once():
    tokenize = Tokenize()
    known = Vocabulary(tokenize)
    known.ids_of_texts(["a mug a", "red mug"])
    known.ids_of_words(["red", "a", "7"])
    assert tokenize.seen == ["a", "mug", "red", "7"]


def test_many_words_keep_their_ids_while_the_arrays_grow():
    known = Vocabulary(Tokenize())
    for start in range(0, 60_000, 7_000):
        numbers = range(max(0, start - 5_000), start + 7_000)
        assert known.ids_of_texts([" ".join(map(str, numbers)), "a"]) == [list(numbers), [20]]
    assert len(known) == 63_001


@pytest.mark.parametrize("most", [0, 1, 5, 100])
def test_a_full_vocabulary_still_knows_every_text(monkeypatch: pytest.MonkeyPatch, most: int):
    """Words that are not kept come and go; those that are kept stay as they are."""
    monkeypatch.setattr(vocabulary, "MAX_WORDS", most)
    known = Vocabulary(Tokenize())
    for start in (0, 3, 50, 0, 47):
        numbers = list(range(start, start + 20))
        texts = [" ".join(map(str, numbers)), "mug ?", f"a {start} mug"]
        assert known.ids_of_texts(texts) == [numbers, None, [20, start, 13, 14]]
        assert known.ids_of_words(["red", "99"]) == [[12], [99]]
    assert len(known) == min(most, len({*range(23), *range(47, 70), 99, "a", "mug", "?", "red"}))


def test_a_very_long_word_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vocabulary, "MAX_WORD_CHARACTERS", 3)
    known = Vocabulary(Tokenize())
    for _ in range(2):
        assert known.ids_of_texts(["mug 1234 a", "1234 55"]) == [[13, 14, 1234, 20], [1234, 55]]
    assert set(known) == {"mug", "a", "55"}


def test_what_is_returned_is_the_callers_own():
    known = Vocabulary(Tokenize())
    for _ in range(2):
        (ids,) = known.ids_of_words(["mug"])
        assert ids == [13, 14]
        ids.append(7)
