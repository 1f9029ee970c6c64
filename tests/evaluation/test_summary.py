"""Promises of the reports: aligned, within the width, harmless to a terminal, valid JSON."""

import json
import math
import os
from pathlib import Path

import pytest

from amazon_desc.evaluation.summary import Sample, format_samples, format_scores, write_metrics

BASE = {"loss": 3.0, "perplexity": 20.0855, "rouge1": 0.1, "rougeL": 0.08, "bleu": 0.5}
TUNED = {"loss": 2.5, "perplexity": 12.1825, "rouge1": 0.25, "rougeL": 0.2, "bleu": 4.25}


def test_scores_stand_beside_each_other() -> None:
    assert format_scores(BASE, TUNED).split("\n") == [
        "                  base       tuned      change",
        "loss            3.0000      2.5000     -0.5000   lower is better, nats per token",
        "perplexity       20.09       12.18       -7.90   lower is better, from 1",
        "ROUGE-1         0.1000      0.2500     +0.1500   higher is better, 0 to 1",
        "ROUGE-L         0.0800      0.2000     +0.1200   higher is better, 0 to 1",
        "BLEU              0.50        4.25       +3.75   higher is better, 0 to 100",
    ]


def test_missing_and_broken_scores_are_shown_as_such() -> None:
    base = {"loss": 1e3, "perplexity": math.inf, "rouge1": math.nan, "texts": 7.0}
    tuned = {"loss": 2.0, "perplexity": 1.5e12, "bleu": 1.0}
    assert [line[:46] for line in format_scores(base, tuned).split("\n")] == [
        "                  base       tuned      change",
        "loss         1000.0000      2.0000   -998.0000",
        "perplexity         inf   1.500e+12           -",
        "ROUGE-1            nan           -           -",
        "BLEU                 -        1.00           -",
    ]


@pytest.mark.parametrize("value", [0.0, 999_999.99, -1e300, math.inf, -math.inf, math.nan])
def test_no_score_breaks_the_columns(value: float) -> None:
    lines = format_scores(dict.fromkeys(BASE, value), TUNED).split("\n")
    assert len(lines) == 6
    assert all(len(line) <= 80 for line in lines)
    assert {line[46:49] for line in lines[1:]} == {"   "}


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


DECODING = {"temperature": 0.7, "trim": False}


def test_each_stage_keeps_the_other(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "metrics.json"
    write_metrics(path, "validate", {"loss": 9.0}, {"loss": 8.0}, DECODING)
    write_metrics(path, "test", {"loss": 3.0}, {"loss": 2.5}, DECODING)
    write_metrics(path, "validate", {"bleu": 0.5}, {"bleu": 1.5}, DECODING)
    assert json.loads(path.read_text("utf-8")) == {
        "validate": {"base": {"bleu": 0.5}, "tuned": {"bleu": 1.5}, "decoding": DECODING},
        "test": {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}, "decoding": DECODING},
    }
    assert os.listdir(path.parent) == ["metrics.json"]


@pytest.mark.parametrize("damaged", [b"", b'{"test": {"ba', b"[1, 2]", b"null", b"\xff\xfe\x00"])
def test_a_damaged_file_is_replaced(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(damaged)
    write_metrics(path, "test", {"loss": 3.0}, {"loss": 2.5}, DECODING)
    assert json.loads(path.read_text("utf-8")) == {
        "test": {"base": {"loss": 3.0}, "tuned": {"loss": 2.5}, "decoding": DECODING}
    }


def test_nan_and_infinity_become_null_also_in_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"test": {"base": {"loss": NaN}, "tuned": [Infinity, 1.5]}}', "utf-8")
    write_metrics(
        path, "validate", {"perplexity": math.inf}, {"loss": -math.inf, "bleu": math.nan}, DECODING
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(path.read_text("utf-8"), parse_constant=refuse) == {
        "test": {"base": {"loss": None}, "tuned": [None, 1.5]},
        "validate": {
            "base": {"perplexity": None},
            "tuned": {"loss": None, "bleu": None},
            "decoding": DECODING,
        },
    }


def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, "test", {"loss": 3.0}, {"loss": 2.5}, DECODING)
    before = path.read_bytes()

    def full(self: Path, *args: object, **kwargs: object) -> None:
        with self.open("wb") as file:
            file.write(b'{"val')
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_metrics(path, "validate", {"loss": 1.0}, {"loss": 1.0}, DECODING)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["metrics.json"]
