"""Promises of run/report/texts.py and cards.py: which titles are shown, with which texts."""

import json
from collections import Counter
from pathlib import Path

from amazon_desc.run.report.cards import Written, cards_of
from amazon_desc.run.report.facts import facts_of
from amazon_desc.run.report.texts import Overview, at_places, chosen, overview_of
from tests.run.report.made_run import line, make_run


def written(place: Path, lines: list) -> Path:
    place.write_text("".join(f"{each}\n" for each in lines))
    return place


def test_best_worst_and_evenly_are_chosen_by_score_and_place_alone():
    scores = [(float(place % 50), place) for place in range(100)]
    found = chosen(Overview(num_titles=100, scores=scores))
    by_reason = {why: [p for p in found if found[p] == why] for why in ("best", "worst", "evenly")}
    assert by_reason["best"] == [49, 99, 48, 98, 47]
    assert by_reason["worst"] == [52, 1, 51, 0, 50]
    assert by_reason["evenly"] == [2, 11, 20, 29, 38, 53, 62, 71, 80, 89]


def test_few_titles_are_each_shown_once():
    found = chosen(Overview(num_titles=3, scores=[(0.1, 0), (0.3, 1), (0.2, 2)]))
    assert found == {1: "best", 2: "best", 0: "worst"}
    assert chosen(Overview(num_titles=2)) == {0: "evenly", 1: "evenly"}
    assert chosen(Overview()) == {}


def test_damaged_lines_are_counted_and_never_chosen(tmp_path: Path):
    damaged = ["{", "3", '{"title": 3}', '{"title": ""}', '{"title": "\\ud800'] * 5
    lines = [*damaged, *(json.dumps(line(number)) for number in range(30)), ""]
    file = written(tmp_path / "validate.jsonl", lines)
    file.write_bytes(file.read_bytes() + b"\xff\xfe\n")
    overview = overview_of(file)
    assert (overview.num_titles, len(overview.damaged)) == (30, 26)
    assert len(at_places(file, chosen(overview))) == 20


def test_words_are_counted_of_all_texts(tmp_path: Path):
    lines = [
        {"title": "A", "reference": "one two", "tuned": {"description": "a b c"}},
        {"title": "B", "reference": "one", "base": {"description": ""}, "tuned": {"rougeL": 1}},
    ]
    found = overview_of(written(tmp_path / "x.jsonl", list(map(json.dumps, lines))))
    assert found.words == {
        **{"reference": Counter({2: 1, 1: 1}), "base": Counter({0: 1})},
        "tuned": Counter({3: 1}),
    }


def test_a_card_has_the_real_text_both_sides_and_what_is_wrong_with_them(tmp_path: Path):
    tuned = {"description": "A mug.", "finish_reason": "length", "is_loop": True, "is_copied": True}
    one = line(1, "Red Mug", tuned=tuned)
    run = facts_of(make_run(tmp_path / "a", lines=[one], num_points=1))
    (card,) = cards_of([run], "validate")
    assert (card.title, card.reason) == ("Red Mug", "")
    assert card.written == [
        Written("real text", "real", "A real text of the red mug 1.", [], ""),
        Written("base", "base", "Mug mug mug 1", [], "ROUGE-L 0.05, 12 tokens"),
        Written(
            *("tuned", "run0", "A mug."),
            ["copied passage", "repeats itself", "cut off at its limit"],
            "",
        ),
    ]


def test_twenty_titles_are_shown_the_best_first_and_the_worst_last(tmp_path: Path):
    run = facts_of(make_run(tmp_path / "a", num_points=1))
    cards = cards_of([run], "validate")
    assert [card.reason for card in cards] == [
        *["one of the best"] * 5,
        *[""] * 10,
        *["one of the worst"] * 5,
    ]
    assert [card.title for card in (cards[0], cards[-1])] == ["Red Mug 39", "Red Mug 0"]


def test_another_run_has_its_text_of_the_same_title_and_the_base_stands_once(tmp_path: Path):
    lines = [line(1), line(2)]
    one = facts_of(make_run(tmp_path / "a", lines=lines, num_points=1))
    other_text = {"description": "Other."}
    lines = [line(1, tuned=other_text), line(2, reference="Another real text.")]
    other = facts_of(make_run(tmp_path / "b", lines=lines, num_points=1))
    cards = {card.title: card.written for card in cards_of([one, other], "validate")}
    labels = {title: [text.label for text in found] for title, found in cards.items()}
    assert labels == {
        "Red Mug 1": ["real text", "base", "tuned, run 1", "tuned, run 2"],
        "Red Mug 2": ["real text", "base", "tuned, run 1"],
    }
    assert cards["Red Mug 1"][3].text == "Other."


def test_long_texts_are_cut_and_it_is_said_by_how_much(tmp_path: Path):
    lines = [line(1, title="t" * 5000, reference="r" * 5000)]
    run = facts_of(make_run(tmp_path / "a", lines=lines, num_points=1))
    (card,) = cards_of([run], "validate")
    assert card.title == "t" * 300 + "… (4,700 more characters)"
    assert card.written[0].text == "r" * 1500 + "… (3,500 more characters)"
