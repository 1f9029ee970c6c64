"""What is said of an output counts what is in it."""

from amazon_desc.generation.texts import Description
from amazon_desc.run.predicting.lines import SHORTENED
from amazon_desc.run.predicting.records import repeated, skipped, written
from amazon_desc.run.predicting.summary import Summary

LOOP = "on and " * 20


def test_a_summary_counts_texts_ends_loops_lengths_and_what_was_skipped():
    summary = Summary()
    texts = [
        Description("A mug.", "stop", 3),
        Description(LOOP, "length", 40),
        Description("A lamp.", "stop", 4),
    ]
    for row, text in enumerate(texts):
        reason = SHORTENED if row == 2 else ""
        summary.add(written(row, "Mug", [text], reason))
    first = written(0, "Mug", [texts[0]])
    summary.add(repeated(3, "Mug", first), is_repeated=True)
    for row in (4, 5):
        summary.add(skipped(row, "", "title is empty"))
    summary.add(skipped(6, "", "not UTF-8"))
    assert list(summary.lines(2.0)) == [
        "Texts written: 3 in 2.0 s: 1.5 titles/s, 24 tokens/s. 66.7 % ended by themselves, "
        "33.3 % loop; 4 tokens in the middle, 40 at most.",
        "Repeated titles, with the text of the first: 1.",
        "Titles that were too long, whose ends were not read: 1.",
        "Skipped records: 3 (2 × title is empty; 1 × not UTF-8).",
    ]
    assert summary.num_records == 7


def test_all_candidates_count_for_the_speed_and_the_first_for_the_rest():
    summary = Summary()
    summary.add(written(0, "Mug", [Description("A.", "stop", 2), Description(LOOP, "length", 40)]))
    assert (summary.num_tokens, summary.num_loops, summary.median_tokens) == (42, 0, 2)


def test_of_skipped_records_alone_no_speed_is_said():
    summary = Summary()
    summary.add(skipped(0, "", "title is empty"))
    assert list(summary.lines(0.0)) == ["Skipped records: 1 (1 × title is empty)."]
