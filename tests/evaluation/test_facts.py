"""Facts are found however they are written, and only those that stand nowhere are invented."""

import time

import pytest

from amazon_desc.evaluation.counts import COLUMN, count_texts
from amazon_desc.evaluation.facts import facts, facts_to_find, title_words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A 12-inch rug", {"12 in"}),
        ('12" 12in 12 in. 12 inches 12″', {"12 in"}),
        ("12 in the box", {"12"}),
        ("12 in wide", {"12 in"}),
        ("3' x 5 ft, two for $20", {"3 ft x 5 ft", "2", "20"}),
        ("3x5 inches, 1,000.50", {"3 in x 5 in", "1000.5"}),
        ("3 by 5", {"3 x 5"}),
        ("a 3½ or 3.5 oz B100", {"3.5", "3.5 oz", "b100"}),
        ("the 1990's and 90s, 2.4GHz, 50% off", {"1990", "90s", "2.4 ghz", "50 %"}),
        ("Set of two. Two!", {"2"}),
        ("someone often wrote, one of a kind", set()),
        ("v2.0 has 12,5", {"v2.0", "12,5"}),
        ("007", {"7"}),
        ("", set()),
    ],
)
def test_facts_of_a_text(text: str, found: set[str]):
    assert facts(text) == found


def test_parts_of_a_size_may_be_named():
    parts = {"3 ft x 5 ft", "3 x 5", "3 ft", "5 ft", "3", "5"}
    assert facts_to_find("3x5 ft rug") == parts


def test_words_of_a_title():
    assert title_words("The Red-Mug, for You") == {"red", "mug"}
    assert title_words("ÉCLAIR 書 of a") == {"éclair", "書"}


def test_what_is_in_title_or_reference_is_not_invented():
    """12 in (title), 3 oz (reference), and invented: 5 lb and 7; of red and rug one is used."""
    text = "A red mat, 12 inches long, 3 ounces, 5 pounds, 7 colors, 5 lb."
    row = count_texts([text], ["It weighs 3oz."], ['Red Rug 12"'])[0]
    names = ("num_facts", "num_invented", "num_title_words", "num_title_words_used")
    assert [row[COLUMN[name]] for name in names] == [4, 2, 3, 2]


@pytest.mark.parametrize("part", ["1 ", "1/", "1,000", "2x", "3' x ", '"', "1.", "a1", "   5"])
def test_odd_texts_take_no_time(part: str):
    start = time.perf_counter()
    facts(part * 5_000)
    assert time.perf_counter() - start < 2
