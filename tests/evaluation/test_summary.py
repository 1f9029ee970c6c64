"""Promises of the reports: aligned, within the width, harmless to a terminal, valid JSON."""

import json
import math
import os
from pathlib import Path

import pytest

from amazon_desc.evaluation.intervals import Comparison, Interval
from amazon_desc.evaluation.summary import (
    SCORES,
    Sample,
    SideBySide,
    format_samples,
    format_scores,
    write_metrics,
    write_records,
)


def test_scores_stand_beside_each_other() -> None:
    base = {"loss": Interval(3.0, 2.9, 3.1), "bleu": Interval(0.5, 0.25, 0.75)}
    tuned = {"loss": Interval(2.5, 2.375, 2.625), "bleu": Interval(4.25, 4.0, 4.75)}
    compared = {
        "loss": Comparison(-0.5, -0.55, -0.45, 0.001),
        "bleu": Comparison(3.75, 3.5, 4.5, 0.0495),
    }
    assert format_scores(SideBySide(base, tuned, compared)).split("\n") == [
        "                         base            tuned           change      p  better",
        "loss            3.000 ± 0.100    2.500 ± 0.125   -0.500 ± 0.050  0.001  lower",
        "BLEU              0.50 ± 0.25      4.25 ± 0.38     +3.75 ± 0.50  0.050  higher",
    ]


def test_missing_and_broken_scores_are_shown_as_such() -> None:
    of_nothing = Interval(math.nan, math.nan, math.nan)
    base = {"loss": Interval(1e6, 9e5, 1.1e6), "rouge1": of_nothing, "texts": Interval(7, 7, 7)}
    tuned = {"perplexity": Interval(math.inf, 2.0, math.inf)}
    compared = {"loss": Comparison(math.nan, math.nan, math.nan, math.nan)}
    assert format_scores(SideBySide(base, tuned, compared)).split("\n")[1:] == [
        "loss            1e+06 ± 1e+05                -       +nan ± nan    nan  lower",
        "perplexity                  -        inf ± inf                -      -  lower",
        "ROUGE-1             nan ± nan                -                -      -  higher",
    ]


@pytest.mark.parametrize("value", [0.0, 999_999.99, -1e300, math.inf, -math.inf, math.nan])
def test_no_score_breaks_the_columns(value: float) -> None:
    all_scores = dict.fromkeys(SCORES, Interval(value, value / 2, value))
    compared = dict.fromkeys(SCORES, Comparison(value, value / 2, value, 1.0))
    lines = format_scores(SideBySide(all_scores, all_scores, compared)).split("\n")
    assert len(lines) == 1 + len(SCORES) == 17
    assert all(len(line) <= 80 for line in lines)
    assert {line[63:72] for line in lines[1:]} == {"  1.000  "}


def test_all_scores_are_plain_values_for_a_file() -> None:
    loss, change = Interval(3.0, 2.9, 3.1), Comparison(0.0, -0.1, 0.1, 1.0)
    interval = {"value": 3.0, "low": 2.9, "high": 3.1}
    assert SideBySide({"loss": loss}, {"loss": loss}, {"loss": change}).as_dict() == {
        "base": {"loss": 3.0},
        "tuned": {"loss": 3.0},
        "intervals": {"base": {"loss": interval}, "tuned": {"loss": interval}},
        "compared": {"loss": {"difference": 0.0, "low": -0.1, "high": 0.1, "p_value": 1.0}},
    }


def test_samples_hang_under_their_names() -> None:
    long = "word " * 25
    text = format_samples([Sample("Tutu\nNeon", long, "", "one"), Sample("Hat", "a", "b", "c")])
    assert text.split("\n") == [
        "1. Tutu Neon",
        "   reference  " + "word " * 16 + "word",
        "              " + "word " * 7 + "word",
        "   base       (empty)",
        "   tuned      one",
        "",
        "2. Hat",
        "   reference  a",
        "   base       b",
        "   tuned      c",
    ]


def test_no_line_is_longer_than_100() -> None:
    texts = ["x" * 350, "ab cd " * 80, "\x1b" * 90, "long-hyphened-" * 30]
    lines = format_samples([Sample(*texts)]).split("\n")
    assert len(lines) > 12
    assert max(map(len, lines)) == 100


def test_no_text_steers_the_terminal() -> None:
    nasty = "a\x1b[2Jb\rc\x9bd\x00e\u202ef\u200bg\x7fh\u2028i\ud800j\tk\x1fl"
    text = format_samples([Sample(nasty, nasty, nasty, nasty)])
    assert all(character == "\n" or character.isprintable() for character in text)
    assert text.split("\n")[0] == (r"1. a\x1b[2Jb c\x9bd\x00e\u202ef\u200bg\x7fh i\ud800j k l")
    text.encode("utf-8")


def test_letters_of_every_language_stay() -> None:
    assert "Größe 書 naïve “x” €5" in format_samples([Sample("t", "Größe 書 naïve “x” €5", "", "")])


def test_each_stage_keeps_the_other(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "metrics.json"
    write_metrics(path, "validate", {"base": {"loss": 9.0}, "tuned": {"loss": 8.0}})
    write_metrics(path, "test", {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}})
    write_metrics(path, "validate", {"base": {"bleu": 0.5}, "tuned": {"bleu": 1.5}})
    assert json.loads(path.read_text("utf-8")) == {
        "validate": {"base": {"bleu": 0.5}, "tuned": {"bleu": 1.5}},
        "test": {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}},
    }
    assert os.listdir(path.parent) == ["metrics.json"]


@pytest.mark.parametrize("damaged", [b"", b'{"test": {"ba', b"[1, 2]", b"null", b"\xff\xfe\x00"])
def test_a_damaged_file_is_replaced(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(damaged)
    write_metrics(path, "test", {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}})
    assert json.loads(path.read_text("utf-8")) == {
        "test": {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}}
    }


def test_nan_and_infinity_become_null_also_in_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"test": {"base": {"loss": NaN}, "tuned": [Infinity, 1.5]}}', "utf-8")
    tuned = {"loss": -math.inf, "bleu": math.nan}
    write_metrics(path, "validate", {"base": {"perplexity": math.inf}, "tuned": tuned})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(path.read_text("utf-8"), parse_constant=refuse) == {
        "test": {"base": {"loss": None}, "tuned": [None, 1.5]},
        "validate": {
            "base": {"perplexity": None},
            "tuned": {"loss": None, "bleu": None},
        },
    }


def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, "test", {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}})
    before = path.read_bytes()

    def full(self: Path, *args: object, **kwargs: object) -> None:
        with self.open("wb") as file:
            file.write(b'{"val')
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_metrics(path, "validate", {"base": {"loss": 1.0}, "tuned": {"loss": 1.0}})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_records_are_a_line_each_and_replace_those_of_before(tmp_path: Path) -> None:
    path = tmp_path / "scored" / "validate.jsonl"
    write_records(path, [{"title": "Größe\n12"}, {"title": "b"}])
    write_records(path, [{"title": "Größe\n12", "loss_sum": math.nan}])
    assert path.read_text("utf-8") == '{"title": "Größe\\n12", "loss_sum": null}\n'
    assert os.listdir(path.parent) == ["validate.jsonl"]
