"""A line of JSON for every title, in a file that has its name only when it is complete."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amazon_desc.errors import UserError
from amazon_desc.generation.describe import Description
from amazon_desc.module import Prediction
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predictions import PredictionFile, line, predictions_file, refuse_existing


def prediction(title: str, text: str = "A mug.") -> Prediction:
    return Prediction(title, Description(text, "stop", 3))


def trainer_of(folder: Path, titles: str = "titles.txt") -> Any:
    return SimpleNamespace(default_root_dir=str(folder), datamodule=SimpleNamespace(titles=titles))


def test_a_line_is_json_with_title_description_ending_and_length():
    assert line(prediction("Blue Mug")) == (
        '{"title": "Blue Mug", "description": "A mug.", "finish_reason": "stop", "num_tokens": 3}\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        'He said "no" \\ twice',
        "two\nlines\r\nand a tab\t",
        "</s><end_of_turn>{title}",
        "U+2028 \u2028, U+2029 \u2029, NEL \x85, VT \x0b, FF \x0c, FS \x1c",
        "NUL \x00 and BOM \ufeff",
        "Título 茶 🍵",
        "",
    ],
)
def test_any_text_stays_one_line_and_comes_back(text: str):
    written = line(prediction(text, text))
    assert written.splitlines() == [written.removesuffix("\n")]
    assert written.encode().count(b"\n") == 1
    record = json.loads(written)
    assert (record["title"], record["description"]) == (text, text)


def test_letters_are_written_as_they_are():
    assert '"Título 茶 🍵"' in line(prediction("Título 茶 🍵"))


@pytest.mark.parametrize(
    ("titles", "name"),
    [
        ("titles.txt", "titles.jsonl"),
        ("a/b/mugs.csv.gz", "mugs.jsonl"),
        ("a.b.jsonl", "a.jsonl"),
        (".hidden", "titles.jsonl"),
    ],
)
def test_the_file_is_named_after_the_titles(titles: str, name: str, tmp_path: Path):
    assert predictions_file(RunFolder(tmp_path), titles) == tmp_path / "predictions" / name


def test_the_file_grows_by_batches_and_is_renamed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    callback, trainer, module = PredictionFile(), trainer_of(tmp_path), SimpleNamespace()
    final = tmp_path / "predictions" / "titles.jsonl"
    partial = tmp_path / "predictions" / "titles.jsonl.partial"
    callback.setup(trainer, module, "predict")
    assert list(tmp_path.iterdir()) == []
    callback.on_predict_start(trainer, module)
    for number, batch in enumerate((["a", "b"], ["c"])):
        outputs = [prediction(title) for title in batch]
        callback.on_predict_batch_end(trainer, module, outputs, None, number)
        titles = [json.loads(text)["title"] for text in partial.read_text().splitlines()]
        assert titles == (["a", "b"] if number == 0 else ["a", "b", "c"])
        assert not final.exists()
    callback.on_predict_end(trainer, module)
    assert not partial.exists()
    assert [json.loads(text)["title"] for text in final.read_text().splitlines()] == ["a", "b", "c"]
    assert capsys.readouterr().out == f"3 descriptions are in {final}\n"


def test_a_partial_file_of_a_killed_run_is_begun_anew(tmp_path: Path):
    partial = tmp_path / "predictions" / "titles.jsonl.partial"
    partial.parent.mkdir()
    partial.write_text('{"title": "ol')
    callback, trainer, module = PredictionFile(), trainer_of(tmp_path), SimpleNamespace()
    callback.setup(trainer, module, "predict")
    callback.on_predict_start(trainer, module)
    callback.on_predict_batch_end(trainer, module, [prediction("new")], None, 0)
    callback.on_predict_end(trainer, module)
    final = tmp_path / "predictions" / "titles.jsonl"
    assert final.read_text() == line(prediction("new"))


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path):
    final = tmp_path / "predictions" / "titles.jsonl"
    refuse_existing(final)
    final.parent.mkdir()
    final.write_text("kept")
    with pytest.raises(UserError, match=r"titles\.jsonl is there already.*Move or delete it"):
        PredictionFile().setup(trainer_of(tmp_path), SimpleNamespace(), "predict")
    assert final.read_text() == "kept"


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_no_other_command_touches_predictions(stage: str, tmp_path: Path):
    PredictionFile().setup(SimpleNamespace(), SimpleNamespace(), stage)
    assert list(tmp_path.iterdir()) == []
