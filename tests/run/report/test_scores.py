"""Promises of run/report/scores.py and verdict.py: what was measured is said, and no more."""

from pathlib import Path

import pytest

from amazon_desc.run.report import tables
from amazon_desc.run.report.facts import RunFacts, facts_of
from amazon_desc.run.report.scores import Difference, Interval, stage_of, stages_of
from amazon_desc.run.report.verdict import Sentence, beside_each_other, verdicts_on
from tests.run.report.made_run import BASE, TUNED, entry, make_run

BETTER = Sentence(
    "good",
    "The tuned weights are better than the base on loss: 3.010 [2.950, 3.070] against 3.770 "
    "[3.710, 3.830], p < 0.001, on 361 validation titles.",
)


def facts(place: Path, metrics: dict) -> RunFacts:
    return facts_of(make_run(place, metrics=metrics, lines=[], num_points=1))


def test_values_intervals_and_differences_are_those_of_the_file():
    found = stages_of({"validate": entry(), "other": entry()})
    assert list(found) == ["validate"]
    scores = found["validate"]
    assert scores.of("tuned", "loss") == pytest.approx((3.01, 2.95, 3.07))
    assert scores.compared["loss"] == pytest.approx(Difference(-0.76, -0.79, -0.73, 0.0005))
    assert (scores.num_titles, scores.num_targets, scores.seed) == (361, 40123, 12345)


def test_the_older_form_has_values_without_intervals():
    scores = stage_of({"base": {"loss": 3.1}, "tuned": {"loss": 2.6}, "decoding": {"seed": 0}})
    assert scores.of("base", "loss") == Interval(3.1)
    assert not scores.has_intervals
    assert (scores.compared, scores.num_titles) == ({}, None)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), True, "3.1", [3.1], 10**400])
def test_what_is_no_finite_number_is_not_there(value: object):
    scores = stage_of({"base": {"loss": value}, "intervals": {"base": {"loss": {"low": value}}}})
    assert scores.of("base", "loss") is None
    assert stages_of({"validate": {"base": {"loss": value}}}) == {}


@pytest.mark.parametrize("damaged", [None, 3, "x", [], {"validate": 3}, {"validate": {"base": []}}])
def test_a_file_of_another_form_holds_no_scores(damaged: object):
    assert stages_of(damaged if isinstance(damaged, dict) else {"validate": damaged}) == {}


def test_better_weights_are_called_better_with_their_numbers(tmp_path: Path):
    first, second = verdicts_on(facts(tmp_path / "a", {"validate": entry()}))
    assert first == BETTER
    assert second.mood == "good"
    assert "better than the base on ROUGE-L: 0.160 [0.100, 0.220] against 0.080" in second.text


def test_worse_weights_are_called_worse(tmp_path: Path):
    first, *_ = verdicts_on(facts(tmp_path / "a", {"validate": entry(TUNED, BASE)}))
    assert first.mood == "bad"
    assert first.text.startswith("The tuned weights are worse than the base on loss: 3.770")


def test_a_difference_that_may_be_chance_is_no_verdict(tmp_path: Path):
    near = TUNED | {"loss": 3.76}
    first, *_ = verdicts_on(facts(tmp_path / "a", {"validate": entry(tuned=near)}))
    assert first == Sentence(
        "open",
        "On loss, nobody can say whether the tuned weights are better than the base: 3.760 "
        "[3.700, 3.820] against 3.770 [3.710, 3.830], on 361 validation titles. The difference, "
        "−0.010 [−0.040, 0.020], p = 0.400, may be chance.",
    )


def test_a_p_above_the_limit_is_no_verdict_either(tmp_path: Path):
    metrics = {"validate": entry()}
    metrics["validate"]["compared"]["loss"]["p_value"] = 0.06
    first, *_ = verdicts_on(facts(tmp_path / "a", metrics))
    assert first.mood == "open"
    assert "p = 0.060, may be chance" in first.text


def test_without_intervals_nobody_knows_how_sure_it_is(tmp_path: Path):
    metrics = {"validate": {"base": {"loss": 3.1}, "tuned": {"loss": 2.6}}}
    (only,) = verdicts_on(facts(tmp_path / "a", metrics))
    assert only == Sentence(
        "open",
        "On loss, the tuned weights look better than the base: 2.600 against 3.100. How sure that "
        "is was not measured.",
    )


def test_where_nothing_was_measured_that_is_the_verdict(tmp_path: Path):
    run = facts(tmp_path / "a", {})
    assert [sentence.text[:21] for sentence in verdicts_on(run)] == ["Nothing was measured:"]
    assert "metrics.json is missing or empty: scores are left out." in run.notes


def test_test_titles_come_before_validation_titles(tmp_path: Path):
    first, *_ = verdicts_on(facts(tmp_path / "a", {"validate": entry(), "test": entry()}))
    assert first.text.endswith("on 361 test titles.")


def test_what_a_reader_has_to_know_of_the_texts_is_said(tmp_path: Path):
    bad = TUNED | {"loops": 0.25, "copied": 0.1, "invented": 0.31, "ended": 0.4}
    metrics = {"validate": entry(tuned=bad)}
    metrics["validate"]["measured_on"]["num_titles"] = 12
    *_, loops, copied, invented, cut, few = verdicts_on(facts(tmp_path / "a", metrics))
    assert [s.text for s in (loops, copied, invented, cut, few)] == [
        "25 % of the tuned texts repeat themselves.",
        "10 % of the tuned texts have passages of training descriptions.",
        "31 % of the numbers and sizes in the tuned texts are invented.",
        "60 % of the tuned texts were cut off at their limit.",
        "Only 12 titles were scored: another few could say something else.",
    ]


def test_runs_are_compared_by_the_loss_of_the_same_titles(tmp_path: Path):
    one = facts(tmp_path / "a", {"validate": entry()})
    other = facts(tmp_path / "b", {"validate": entry(tuned=TUNED | {"loss": 2.5})})
    assert beside_each_other([one, other]) == Sentence(
        "good",
        "Run 2 has the lowest validation loss: 2.500 [2.440, 2.560] against 3.010 [2.950, 3.070] "
        "of run 1. The intervals do not overlap.",
    )
    near = facts(tmp_path / "c", {"validate": entry(tuned=TUNED | {"loss": 3.0})})
    assert beside_each_other([one, near]).text.endswith("The intervals overlap: it may be chance.")
    elsewhere = {"validate": entry(tuned=TUNED | {"loss": 2.5})}
    elsewhere["validate"]["measured_on"]["num_targets"] = 7
    said = beside_each_other([one, facts(tmp_path / "d", elsewhere)])
    assert said.mood == "open"
    assert "not known to be of the same titles" in said.text
    assert "not all measured" in beside_each_other([one, facts(tmp_path / "e", {})]).text


def test_the_table_has_each_score_with_its_interval_and_what_the_change_is(tmp_path: Path):
    run = facts(tmp_path / "a", {"validate": entry()})
    rows = {row.label: row for row in tables.score_rows([run], "validate")}
    assert len(rows) == len(BASE)
    assert rows["loss"].direction == "lower is better"
    assert rows["loss"].cells == [
        *[("3.770", "[3.710, 3.830]"), ("3.010", "[2.950, 3.070]")],
        ("−0.760", "better, p < 0.001"),
    ]
    assert rows["length ratio"].cells[2] == ("−0.70", "nearer to 1, p < 0.001")
    assert rows["ROUGE-1"].cells[2] == ("+0.100", "better, p < 0.001")
    assert rows["invented"].cells[2] == ("+0.020", "may be chance, p = 0.400")


def test_a_base_that_runs_have_in_common_stands_once(tmp_path: Path):
    runs = [facts(tmp_path / name, {"validate": entry()}) for name in "ab"]
    columns = tables.score_columns(runs, "validate")
    assert columns == ["base", "tuned, run 1", "tuned, run 2"]
    other = facts(tmp_path / "c", {"validate": entry(base=BASE | {"loss": 4.0})})
    columns = tables.score_columns([runs[0], other], "validate")
    assert columns == ["base, run 1", "tuned, run 1", "base, run 2", "tuned, run 2"]
