"""Promises of scripts/score.py: the right pairs, the numbers of `score_texts`, told errors."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from amazon_desc.data.reading.records import Fault, Product
from amazon_desc.evaluation.metrics import score_texts
from tests.conftest import Ended, load_script

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "score.py"


@pytest.fixture(scope="module")
def score() -> ModuleType:
    return load_script("score")


def _write(path: Path, rows: list[dict[str, str | None]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")
    return path


def _predictions(folder: Path, *rows: tuple[str, str]) -> Path:
    written = [{"title": title, "description": text} for title, text in rows]
    return _write(folder / "predictions.jsonl", written)


def _numbers(printed: str) -> dict[str, float]:
    lines = [line.split(maxsplit=2) for line in printed.strip().split("\n")]
    return {line[0]: float(line[1]) for line in lines if line[0] != "left"}


def _texts(pairs: list) -> list[tuple[str, str]]:
    return [(pair.prediction.description, pair.reference) for pair in pairs]


@pytest.mark.slow
def test_the_command_prints_the_scores(tmp_path: Path, run_program: Callable[..., Ended]) -> None:
    predictions = _predictions(tmp_path, ("Hat", "a warm winter hat."), ("Tutu", ""))
    references = _write(
        tmp_path / "trn.json.gz",
        [
            {"title": "Hat", "content": "a warm nice winter hat."},
            {"title": "Tutu", "content": "a tutu"},
        ],
    )
    done = run_program(str(SCRIPT), str(predictions), str(references), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    texts, titles = ["a warm winter hat.", ""], ["Hat", "Tutu"]
    expected = score_texts(texts, ["a warm nice winter hat.", "a tutu"], titles)
    assert 0 < expected["rouge1"] < 1
    assert 0 < expected["bleu"] < 100
    found = _numbers(done.stdout)
    assert list(found) == ["texts", *expected]
    assert {"rouge1", "rougeL", "bleu", "chrf", "title_words"} <= set(expected)
    assert found == {
        "texts": 2.0,
        **{name: pytest.approx(value, abs=5e-5) for name, value in expected.items()},
    }


def test_same_titles_in_the_same_order_join_row_by_row(score: ModuleType) -> None:
    predictions = [Product("Hat", "p1"), Product("Tutu", "p2"), Product("Hat", "p3")]
    references = [Product("Hat", "r1"), Product("Tutu", "r2"), Product("Hat", "r3")]
    assert _texts(score.join(predictions, references)) == [("p1", "r1"), ("p2", "r2"), ("p3", "r3")]


def test_another_order_joins_by_title(score: ModuleType) -> None:
    predictions = [Product("Hat", "p1"), Product("Tutu", "p2"), Product("Hat", "p3")]
    references = [
        Product("Shoe", "r0"),
        Product("Tutu", "r1"),
        Fault("line 3", "not valid JSON"),
        Product("Hat", "r2"),
        Product("Hat", "r3"),
        Product("Hat", "r4"),
    ]
    assert _texts(score.join(predictions, references)) == [("p1", "r2"), ("p2", "r1"), ("p3", "r3")]


def test_a_prediction_without_a_reference_is_left_out(score: ModuleType) -> None:
    predictions = [Product("Hat", "p1"), Product("Tutu", "p2"), Product("Hat", "p3")]
    references = [Product("Tutu", ""), Product("Hat", " <br> "), Product("Hat", "r1")]
    assert _texts(score.join(predictions, references)) == [("p1", "r1")]


def test_an_empty_prediction_is_not_left_out(score: ModuleType) -> None:
    assert _texts(score.join([Product("Hat", "")], [Product("Hat", "r1")])) == [("", "r1")]


def test_what_is_defused_in_a_csv_is_scored_as_it_was(score: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text("title,description\n'=Hat,'-50 % wool.\n'90s Hat,a hat.\n")
    found = [(product.title, product.description) for product in score.read_predictions(file)]
    assert found == [("=Hat", "-50 % wool."), ("'90s Hat", "a hat.")]


def test_cleaned_titles_find_raw_ones_and_references_are_cleaned(score: ModuleType) -> None:
    predictions = [Product("Mog & Bunny", "<b>p</b>")]
    references = [Product(" mog &amp;  Bunny", "<p>Soft &amp; warm</p>")]
    assert _texts(score.join(predictions, references)) == [("<b>p</b>", "Soft & warm")]


def test_references_are_read_no_further_than_needed(score: ModuleType) -> None:
    def references() -> Iterator[Product]:
        yield Product("Hat", "r1")
        raise AssertionError("read on")

    assert _texts(score.join([Product("Hat", "p1")], references())) == [("p1", "r1")]


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (("title", "content"), []),
        (("title", "description"), []),
        (("name", "text"), ["--data.title_column", "name", "--data.description_column", "text"]),
    ],
)
def test_columns_of_the_references(
    score: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: tuple[str, str],
    options: list[str],
) -> None:
    seen = []
    monkeypatch.setattr(
        score, "print_scores", lambda pairs, _, num_left_out: seen.extend(_texts(pairs))
    )
    predictions = _predictions(tmp_path, ("Hat", "p1"))
    references = _write(tmp_path / "r.jsonl", [dict(zip(columns, ("Hat", "r1"), strict=True))])
    assert score.main([str(predictions), str(references), *options]) == 0
    assert seen == [("p1", "r1")]


def test_left_out_predictions_are_counted(
    score: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    monkeypatch.setattr(
        score, "print_scores", lambda pairs, _, num_left_out: counts.append(num_left_out)
    )
    predictions = _predictions(tmp_path, ("Hat", "p1"), ("Tutu", "p2"), ("Shoe", "p3"))
    references = _write(tmp_path / "r.jsonl", [{"title": "Tutu", "content": "r1"}])
    assert score.main([str(predictions), str(references)]) == 0
    assert counts == [2]


def test_records_that_predict_skipped_are_no_texts_of_the_model(
    score: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        score, "print_scores", lambda pairs, *_, **left: seen.append((_texts(pairs), left))
    )
    predictions = _predictions(tmp_path, ("Hat", "p1"), ("", ""), ("<br>", ""))
    shop = [{"title": title, "content": f"of {title}"} for title in ("", "<br>", "Hat")]
    assert score.main([str(predictions), str(_write(tmp_path / "r.jsonl", shop))]) == 0
    assert seen == [([("p1", "of Hat")], {"num_left_out": 0})]


@pytest.mark.parametrize(
    ("prediction_lines", "reference_lines", "told"),
    [
        (None, '{"title": "Hat", "content": "r"}', "predictions.jsonl does not exist"),
        ('{"title": "Hat", "description": "p"}', None, "references.jsonl does not exist"),
        (
            '{"title": "Hat", "description": "p"}\n{"title": "Tu',
            '{"title": "Hat", "content": "r"}',
            "predictions.jsonl, line 2: not valid JSON",
        ),
        (
            '{"title": "Hat", "description": "p"}',
            '{"title": "Hat", "text": "r"}',
            "wanted a column 'content'",
        ),
        (
            '{"title": "Hat", "description": "p"}',
            '{"title": "Tutu", "content": "r"}',
            "none of its 1 titles has a description",
        ),
    ],
)
def test_files_that_cannot_be_scored_are_told_without_a_traceback(
    score: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prediction_lines: str | None,
    reference_lines: str | None,
    told: str,
) -> None:
    paths = []
    for name, lines in (("predictions", prediction_lines), ("references", reference_lines)):
        paths.append(tmp_path / f"{name}.jsonl")
        if lines is not None:
            paths[-1].write_text(lines + "\n", "utf-8")
    assert score.main([str(path) for path in paths]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert told in printed.err


@pytest.mark.parametrize(
    ("reasons", "has_ended"),
    [(["stop", "length"], [True, False]), (["stop", None], None), ([None, None], None)],
)
def test_which_texts_ended_is_known_from_predicts_own_records(
    score: ModuleType, tmp_path: Path, reasons: list[str | None], has_ended: list[bool] | None
) -> None:
    rows = [
        {"title": f"Hat {number}", "description": "A hat.", "finish_reason": reason}
        for number, reason in enumerate(reasons)
    ]
    rows = [{name: of for name, of in row.items() if of is not None} for row in rows]
    path = _write(tmp_path / "predictions.jsonl", [*rows, {"title": "Mug", "description": ""}])
    references = [Product("Hat 0", "r0"), Product("Hat 1", "r1")]
    pairs = score.join(score.read_predictions(path), references)
    assert score.read_endings(path, pairs) == has_ended


def test_every_score_is_printed_with_its_interval(score: ModuleType, capsys) -> None:
    """Of one text every draw is that text; the name and the value stand first in their line."""
    score.print_scores(score.join([Product("Hat", "a hat")], [Product("Hat", "a hat")]), [True], 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "texts                1",
        "left out             2  (titles without a description in the references)",
        "rouge1          1.0000  95 % 1.0000 to 1.0000",
    ]
    assert "ended           1.0000  95 % 1.0000 to 1.0000" in lines
