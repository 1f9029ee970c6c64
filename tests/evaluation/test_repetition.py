"""Repeats are counted as the worked examples say."""

import pytest

from amazon_desc.evaluation.repetition import ngrams, repeated_share, share_of_loops
from amazon_desc.evaluation.variety import distinct


def test_the_worked_examples():
    assert list(ngrams("a b c", 2)) == [("a", "b"), ("b", "c")]
    assert repeated_share("a red mug and a red mug", 2) == pytest.approx(2 / 6)
    assert share_of_loops(["on and on and on and on and on", "a red mug with a handle"]) == 0.5
    assert distinct(["a red mug", "a red cup"], 2) == 3 / 4


def test_a_text_loops_from_more_than_a_fifth_on():
    ten_runs = "a b c d e f g h i j k l m"
    two_of_twelve = "a b c d x a b c d y a b c d z"  # 12 runs, 2 are repeats
    assert repeated_share(ten_runs) == 0
    assert repeated_share(two_of_twelve) == pytest.approx(2 / 12)
    assert share_of_loops([two_of_twelve]) == 0
    five_of_nine = "a b c d a b c d a b c d"
    assert repeated_share(five_of_nine) == pytest.approx(5 / 9)
    assert share_of_loops([five_of_nine, two_of_twelve]) == 0.5


@pytest.mark.parametrize("texts", [[], [""], ["one"], ["a b c"]])
def test_texts_without_four_words_do_not_loop(texts: list[str]):
    assert share_of_loops(texts) == 0
    assert distinct([]) == 0
