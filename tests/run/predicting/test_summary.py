"""What is said of an output counts what is in it."""

import pytest

from amazon_desc.generation.texts import Description
from amazon_desc.run.predicting.lines import SHORTENED
from amazon_desc.run.predicting.records import repeated, skipped, written
from amazon_desc.run.predicting.summary import Summary, time_left

LOOP = "on and " * 20


def test_a_summary_counts_texts_ends_loops_lengths_and_what_was_skipped():
    summary = Summary()
    texts = [("A mug.", "stop", 3), (LOOP, "length", 40), ("A lamp.", "stop", 4)]
    for row, text in enumerate(texts):
        reason = SHORTENED if row == 2 else ""
        summary.add(written(row, "Mug", [Description(*text)], reason))
    first = written(0, "Mug", [Description(*texts[0])])
    summary.add(repeated(3, "Mug", first), is_repeated=True)
    for row in (4, 5):
        summary.add(skipped(row, "", "title is empty"))
    summary.add(skipped(6, "", "not UTF-8"))
    assert list(summary.lines(2.0)) == [
        "3 texts in 2.0 s: 1.5 titles/s, 24 tokens/s. 66.7 % ended by themselves, 33.3 % loop; "
        "4 tokens in the middle, 40 at most.",
        "1 titles were there before and have the same text.",
        "1 titles were too long: their ends were not read.",
        "3 records were skipped: 2 x title is empty; 1 x not UTF-8.",
    ]
    assert summary.num_records == 7


def test_all_candidates_count_for_the_speed_and_the_first_for_the_rest():
    summary = Summary()
    summary.add(written(0, "Mug", [Description("A.", "stop", 2), Description(LOOP, "length", 40)]))
    assert (summary.num_tokens, summary.num_loops, summary.median_tokens) == (42, 0, 2)


def test_of_skipped_records_alone_no_speed_is_said():
    summary = Summary()
    summary.add(skipped(0, "", "title is empty"))
    assert list(summary.lines(0.0)) == ["1 records were skipped: 1 x title is empty."]


@pytest.mark.parametrize(
    ("done", "in_all", "seconds", "left"),
    [(0, 10, 5, "?"), (300, 1000, 60, "2:20"), (10, 10, 5, "0:00"), (1, 1001, 7.2, "2:00:00")],
)
def test_the_time_left_is_that_of_the_speed_until_now(
    done: int, in_all: int, seconds: float, left: str
):
    assert time_left(done, in_all, seconds) == left
