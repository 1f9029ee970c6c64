"""What a shop has, answered: each record of its file has its record, in the form that is asked for.

On a base of two layers that is trained for a step: what holds of any texts.
"""

import csv
import io
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import amazon_desc.model.backbone
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predicting.callback import PredictionFile
from tests.conftest import exit_code, slow_case
from tests.shallow_base import shallow_base

SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "40", "--data.num_scored", "2", "--trainer.max_steps", "1"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0", "--model.lora.r", "4"),
    *("--model.decoding.max_new_tokens", "4", "--trainer.accelerator", "cpu"),
    *("--data.generation_batch_size", "2"),
]
FORMS = ["jsonl", *map(slow_case, ("csv", "parquet"))]
ALL_FORMS = ["jsonl", "csv", "parquet"]

Predict = Callable[..., int]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a finished run."""
    folder = tmp_path_factory.mktemp("predict")
    base = shallow_base(folder / "base")
    options = [*SMALL, "--model.backbone", str(base)]
    options += ["--trainer.default_root_dir", str(folder / "run")]
    assert exit_code(["fit", *options]) == 0
    return options


@pytest.fixture
def run(trained: list[str]) -> RunFolder:
    return RunFolder(Path(trained[-1]))


@pytest.fixture
def predict(trained: list[str], capfd: pytest.CaptureFixture[str]) -> Predict:
    def predict(*options: str | Path) -> int:
        capfd.readouterr()
        return exit_code(["predict", *trained, *map(str, options)])

    return predict


@pytest.fixture
def no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is written needs the model."""

    def load(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(amazon_desc.model.backbone, "load_backbone", load)


def records_of(file: Path) -> list[dict[str, Any]]:
    """Returns the records of an output, as texts where it is a CSV."""
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as rows:
            return list(csv.DictReader(rows))
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def shop_export(file: Path) -> Path:
    """60 products, each with a titled row and two of its variants, as a shop exports them."""
    with file.open("w", newline="", encoding="utf-8") as rows:
        table = csv.writer(rows)
        table.writerow(["Handle", "Title", "SKU", "Note"])
        for number in range(60):
            table.writerow([f"mug-{number}", f"Mug {number % 50}", f"{number:04d}-a", "=1+1"])
            for variant in "bc":
                table.writerow([f"mug-{number}", "", f"{number:04d}-{variant}", ""])
    return file


# In and out


@pytest.mark.parametrize("form", FORMS)
def test_each_row_of_a_shops_export_is_answered_with_its_own_columns(
    form: str, predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shop, output = shop_export(tmp_path / "shop.csv"), tmp_path / "out" / f"described.{form}"
    options = ["--data.titles", shop, "--data.title_column", "Title", "--data.output", output]
    assert predict(*options, "--data.keep_columns", "SKU,Note") == 0
    said = capfd.readouterr().out
    assert f"All records (180) are in {output}\n" in said
    assert "Texts written: 50 in " in said
    assert "Repeated titles, with the text of the first: 10.\n" in said
    assert "Skipped records: 120 (120 × title is empty).\n" in said
    records = records_of(output)
    assert [int(record["row"]) for record in records] == list(range(1, 181))
    assert [record["SKU"] for record in records] == [
        f"{number:04d}-{variant}" for number in range(60) for variant in "abc"
    ]
    for number, record in enumerate(records):
        if number % 3:
            assert (record["finish_reason"], record["reason"]) == ("skipped", "title is empty")
        else:
            assert record["title"] == f"Mug {number // 3 % 50}"
            assert record["description"] == records[number % 150]["description"] != ""
            assert record["Note"] == ("'=1+1" if form == "csv" else "=1+1")
    assert sorted(file.name for file in output.parent.iterdir()) == [
        *(output.name, f"{output.name}.settings.json"),
    ]


@pytest.mark.usefixtures("no_base")
def test_150_blank_lines_are_answered_without_a_model(
    predict: Predict, run: RunFolder, tmp_path: Path
):
    (tmp_path / "blank.v2.txt").write_text("\n" * 150)
    assert predict("--data.titles", tmp_path / "blank.v2.txt") == 0
    records = records_of(run.predictions / "blank.v2.txt.jsonl")
    assert [record["row"] for record in records] == list(range(1, 151))
    assert {record["finish_reason"] for record in records} == {"skipped"}


def test_a_title_that_is_too_long_is_shortened_and_marked(predict: Predict, tmp_path: Path):
    (tmp_path / "long.txt").write_text("Mug " * 2000 + "\nMug\n")
    assert (
        predict("--data.titles", tmp_path / "long.txt", "--data.output", tmp_path / "a.jsonl") == 0
    )
    first, second = records_of(tmp_path / "a.jsonl")
    assert first["title"] == "Mug " * 2000
    assert first["reason"] == "title is too long: its end was not read"
    assert first["finish_reason"] in ("stop", "length")
    assert "reason" not in second


def test_letters_that_are_none_are_a_record(predict: Predict, tmp_path: Path):
    (tmp_path / "latin.txt").write_bytes(b"Mug\nT\xfftle\nLamp")
    options = ["--data.titles", tmp_path / "latin.txt", "--data.output", tmp_path / "a.jsonl"]
    assert predict(*options) == 0
    reasons = [record.get("reason") for record in records_of(tmp_path / "a.jsonl")]
    assert reasons == [None, "not valid UTF-8", None]


def test_standard_input_is_read_and_known_again(
    predict: Predict,
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    def given(text: str) -> int:
        stream = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr("sys.stdin", stream)
        return predict("--data.titles", "-", "--data.keep_columns", "all")

    file = run.predictions / "standard_input.jsonl"
    assert given('{"title": "Red Mug", "sku": 7}\n{"title": "", "sku": 8}\n') == 0
    assert [record["sku"] for record in records_of(file)] == [7, 8]
    before = file.read_bytes()
    assert given('{"title": "Red Mug", "sku": 7}\n{"title": "", "sku": 8}\n') == 0
    assert f"All records (2) are in {file} already" in capfd.readouterr().out
    assert given('{"title": "Red Mug", "sku": 9}\n{"title": "", "sku": 8}\n') == 2
    refused = capfd.readouterr().err
    assert re.search(r"--data\.titles: standard_input .*, now standard_input ", refused)
    assert given("") == 3
    assert "standard input is empty" in capfd.readouterr().err
    assert file.read_bytes() == before


def test_titles_of_a_folder_are_answered_in_its_order_and_more_files_go_on(
    predict: Predict, run: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "part-2.txt").write_text("Red Mug\n\n")
    (tmp_path / "shop" / "part-10.txt").write_text("Blue Mug\n")
    assert predict("--data.titles", tmp_path / "shop") == 0
    assert "shop: 2 files (.txt) are read in the order of their names" in capfd.readouterr().out
    file = run.predictions / "shop.jsonl"
    before = file.read_bytes()
    assert [record["title"] for record in records_of(file)] == ["Red Mug", "", "Blue Mug"]
    (tmp_path / "shop" / "part-11.txt").write_text("Red Mug\nTin Car\n")
    assert predict("--data.titles", f"{tmp_path}/shop/*.txt") == 0
    assert file.read_bytes().startswith(before)
    assert [record["row"] for record in records_of(file)] == [1, 2, 3, 4, 5]
    (tmp_path / "shop" / "part-1.txt").write_text("Tin Car\n")
    assert predict("--data.titles", tmp_path / "shop") == 2
    assert len(records_of(file)) == 5


def test_a_pipe_is_read_as_standard_input_is(predict: Predict, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("Mug\nLamp\n",))
    writer.start()
    options = ["--data.titles", tmp_path / "pipe", "--data.output", tmp_path / "a.jsonl"]
    assert predict(*options) == 0
    writer.join()
    assert [record["title"] for record in records_of(tmp_path / "a.jsonl")] == ["Mug", "Lamp"]


def test_of_titles_that_are_typed_the_texts_alone_are_on_standard_output(
    predict: Predict, run: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "two.txt").write_text("Red Mug\n[x]\n")
    assert (
        predict("--data.titles", tmp_path / "two.txt", "--data.output", tmp_path / "a.jsonl") == 0
    )
    mug, other = (record["description"] for record in records_of(tmp_path / "a.jsonl"))
    before = sorted(run.path.rglob("*"))
    bar = ["--trainer.enable_progress_bar", "true"]
    titles = ["--data.title", "Red Mug", "--data.title=", "--data.title=[x]"]
    assert predict(*titles, "--data.title", "Red Mug", *bar) == 0
    out, err = capfd.readouterr()
    assert out.split("\n") == [*map(" ".join, map(str.split, [mug, "", other, mug])), ""]
    assert "title is empty" in err
    assert "titles/s" in err
    assert sorted(run.path.rglob("*")) == before


def test_typed_titles_may_go_to_a_file(
    predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert predict("--data.title", "Red Mug", "--data.output", tmp_path / "a.csv") == 0
    assert f"All records (1) are in {tmp_path / 'a.csv'}" in capfd.readouterr().out
    assert [record["title"] for record in records_of(tmp_path / "a.csv")] == ["Red Mug"]


def test_other_columns_are_another_output(
    predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shop = shop_export(tmp_path / "shop.csv")
    options = ["--data.titles", shop, "--data.title_column", "Title"]
    options += ["--data.output", tmp_path / "a.csv", "--model.decoding.max_new_tokens", "1"]
    assert predict(*options) == 0
    assert predict(*options, "--data.keep_columns", "SKU") == 2
    assert "--data.keep_columns: 'none', now 'SKU'" in capfd.readouterr().err


# Going on


@pytest.mark.parametrize("form", ALL_FORMS)
def test_titles_that_are_appended_are_the_only_ones_written_for(
    form: str, predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    titles = tmp_path / "night.txt"
    options = ["--data.titles", titles]
    titles.write_text("Mug\n\nLamp\nDesk\n")
    assert predict(*options, "--data.output", tmp_path / f"a.{form}") == 0
    titles.write_text("Mug\n\nLamp\nDesk\nMug\nTin Car\n\nBook\n")
    assert predict(*options, "--data.output", tmp_path / f"a.{form}") == 0
    said = capfd.readouterr().out
    assert f"{tmp_path / f'a.{form}'} has the first 4 of 8 records\n" in said
    assert "Texts written: 2 in " in said
    assert predict(*options, "--data.output", tmp_path / f"b.{form}") == 0
    assert "Texts written: 5 in " in capfd.readouterr().out
    assert records_of(tmp_path / f"a.{form}") == records_of(tmp_path / f"b.{form}")
    titles.write_text("Mug\n\nLamp\nDust\nMug\nTin Car\n\nBook\n")
    assert predict(*options, "--data.output", tmp_path / f"a.{form}") == 2
    assert f"--data.titles: {titles} (sha256 " in capfd.readouterr().err


@pytest.mark.parametrize("form", ALL_FORMS)
def test_an_output_is_whole_or_not_there_and_goes_on(
    form: str,
    predict: Predict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    titles = tmp_path / "six.txt"
    titles.write_text("Mug\n\nLamp\nDesk\nMug\nTin Car\n\nBook\n")
    assert predict("--data.titles", titles, "--data.output", tmp_path / f"whole.{form}") == 0
    written, output = PredictionFile.on_predict_batch_end, tmp_path / f"a.{form}"

    def breaks(callback: PredictionFile, *arguments: Any, **named: Any) -> None:
        written(callback, *arguments, **named)
        if callback.num_new == 4:
            raise OSError(28, "No space left on device", "a file")

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "on_predict_batch_end", breaks)
        assert predict("--data.titles", titles, "--data.output", output) == 7
    assert not output.exists()
    assert predict("--data.titles", titles, "--data.output", output) == 0
    said = capfd.readouterr().out
    assert f"Resuming after record 7 of 8 in {output}.partial" in said
    assert "Texts written: 1 in " in said
    assert output.read_bytes() == (tmp_path / f"whole.{form}").read_bytes()


def test_a_part_says_how_it_goes_on(
    predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "six.txt").write_text("Mug\nLamp\nDesk\nTin Car\nBook\n")
    options = ["--data.titles", tmp_path / "six.txt", "--data.output", tmp_path / "a.jsonl"]
    assert predict(*options, "--trainer.limit_predict_batches", "1") == 0
    assert capfd.readouterr().out.count(
        f"2 of 5 records are in {tmp_path / 'a.jsonl'}.partial. The same command without "
        f"--trainer.limit_predict_batches resumes from there.\n"
    )
    assert predict(*options) == 0
    assert len(records_of(tmp_path / "a.jsonl")) == 5


def test_a_trial_leaves_nothing(
    predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "three.txt").write_text("Mug\nLamp\nDesk\n")
    options = ["--data.titles", tmp_path / "three.txt", "--data.output", tmp_path / "o/a.jsonl"]
    assert predict(*options, "--trainer.fast_dev_run", "true") == 0
    assert "Tried with 2 of 3 titles: nothing is kept." in capfd.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["three.txt"]
