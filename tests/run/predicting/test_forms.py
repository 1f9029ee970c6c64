"""An output in any form has each record, and no cell that a spreadsheet would run."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from amazon_desc.generation.texts import Description
from amazon_desc.run.predicting.forms import (
    as_it_was,
    defused,
    form_of,
    merged_type,
    read_form,
    types_of,
    write_form,
)
from amazon_desc.run.predicting.records import (
    OWN,
    line_of,
    record_of,
    repeated,
    skipped,
    written,
)
from amazon_desc.support.errors import DataError, UserError

MUG, LAMP = Description("A mug,\nred.", "stop", 4), Description('=HYPERLINK("x")', "length", 9)
RECORDS = [
    written(0, "Red Mug", [MUG], kept={"sku": 7, "price": 5, "is_new": True, "tags": ["a"]}),
    skipped(1, "", "title is empty", {"sku": 8, "price": 4.5, "is_new": None, "tags": None}),
    written(2, "-Lamp", [LAMP, MUG], "title is too long", {"sku": None, "price": 1, "tags": "é"}),
]


def lines_in(folder: Path, records: list[dict[str, Any]] = RECORDS) -> Path:
    file = folder / "lines"
    file.write_text("".join(map(line_of, records)), encoding="utf-8", newline="\n")
    return file


# Records


def test_a_record_says_its_row_from_one_and_no_more_than_there_is():
    assert list(RECORDS[0]) == [*OWN[:5], "sku", "price", "is_new", "tags"]
    assert RECORDS[0]["row"] == 1
    assert RECORDS[1]["finish_reason"] == "skipped"
    assert [text["description"] for text in RECORDS[2]["candidates"]] == [LAMP.text, MUG.text]


def test_a_repeated_title_has_the_text_of_the_first_and_its_own_columns():
    found = repeated(9, "red mug", RECORDS[0], {"sku": 70})
    assert found == {**written(9, "red mug", [MUG]), "sku": 70}


def test_a_column_of_the_shop_is_not_called_as_one_of_ours():
    kept = {"title": "old", "input_title": "older", "sku": 7}
    found = written(0, "Mug", [MUG], kept=kept)
    assert found["title"] == "Mug"
    assert (found["input_title"], found["input_input_title"], found["sku"]) == ("old", "older", 7)


@pytest.mark.parametrize(
    "line", [b"", b'{"row": 1', b'{"row": 1}', b"[]\n", b'{"a": 1}\n', b"\xff\n"]
)
def test_a_line_that_is_cut_off_is_no_record(line: bytes):
    assert record_of(line) is None


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["title"])
def test_a_line_is_read_back(record: dict[str, Any]):
    assert line_of(record).count("\n") == 1
    assert record_of(line_of(record).encode()) == record


# Cells


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "- 5"])
def test_what_a_spreadsheet_would_run_is_defused_and_comes_back(text: str):
    assert defused(text) == f"'{text}"
    for before in (text, f"'{text}", f"''{text}"):
        assert as_it_was(defused(before)) == before


@pytest.mark.parametrize(
    "text", ["", "Mug", "'", "'90s Mug", "-5", "+4.50", "-1,000.5", "5-6", " =1"]
)
def test_other_texts_and_numbers_stay_as_they_are(text: str):
    assert defused(text) == as_it_was(text) == text


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [(set(), "text"), ({"int"}, "int"), ({"int", "float"}, "float"), ({"int", "text"}, "json")],
)
def test_a_column_has_one_type(kinds: set[str], kind: str):
    assert merged_type(kinds) == kind


# Files


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "OUT.Parquet"])
def test_a_file_is_read_back_without_the_shops_columns(name: str, tmp_path: Path):
    output = tmp_path / name
    write_form(lines_in(tmp_path), output)
    own = [{name: r[name] for name in OWN if name in r} for r in RECORDS]
    assert list(read_form(output)) == own
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_csv_has_a_column_for_each_and_empty_cells_for_nothing(tmp_path: Path):
    write_form(lines_in(tmp_path), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        heading, first, second, third = csv.reader(file)
    assert heading == [*OWN, "sku", "price", "is_new", "tags"]
    assert first == ["1", "Red Mug", "A mug,\nred.", "stop", "4", "", "", "7", "5", "true", '["a"]']
    assert second == ["2", "", "", "skipped", "0", "title is empty", "", "8", "4.5", "", ""]
    assert third[1:3] == ["'-Lamp", '\'=HYPERLINK("x")']
    assert json.loads(third[6])[1] == {
        "description": MUG.text,
        "finish_reason": "stop",
        "num_tokens": 4,
    }


def test_a_parquet_file_keeps_types(tmp_path: Path):
    write_form(lines_in(tmp_path), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["row"], kinds["sku"], kinds["price"]) == ("int64", "int64", "double")
    assert (kinds["is_new"], kinds["tags"], kinds["title"]) == ("bool", "string", "string")
    rows = table.to_pylist()
    assert [row["sku"] for row in rows] == [7, 8, None]
    assert rows[0]["tags"] == '["a"]'
    assert rows[2]["candidates"] == RECORDS[2]["candidates"]


def test_a_file_without_reasons_or_candidates_has_no_column_of_candidates(tmp_path: Path):
    types = types_of(lines_in(tmp_path, [written(0, "Mug", [MUG])]))
    assert list(types) == list(OWN[:6])


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_file_that_cannot_be_written_is_not_there(name: str, tmp_path: Path):
    lines = lines_in(tmp_path)
    lines.write_text(lines.read_text() + '{"row": 4, "ti')
    with pytest.raises(ValueError, match="Unterminated"):
        write_form(lines, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["lines"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_file_that_was_changed_by_hand_is_said(name: str, tmp_path: Path):
    output = tmp_path / name
    write_form(lines_in(tmp_path), output)
    whole = output.read_bytes()
    damages = [b"kept", b"[]\n", b'{"row": 1', b"\xff\xfe\n", b"row,title\nx,Mug\n", whole[:-20]]
    for damage in damages:
        output.write_bytes(damage)
        with pytest.raises(DataError, match=f"{name} is not as it was written"):
            list(read_form(output))


@pytest.mark.parametrize("name", ["out", "out.txt", "out.json"])
def test_another_ending_is_refused_with_those_that_there_are(name: str):
    with pytest.raises(UserError, match=r"ends in \.jsonl, \.csv, \.parquet"):
        form_of(Path(name))


WRITE = """
import resource, sys
from pathlib import Path
from amazon_desc.run.predicting.forms import write_form
import pyarrow.parquet
write_form(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in another unit")
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_memory_does_not_grow_with_a_file(name: str, tmp_path: Path):
    """Of 200,000 records, as of 20,000."""
    peaks = []
    for times in (20_000, 200_000):
        lines = tmp_path / "lines"
        with lines.open("w") as file:
            for number in range(times):
                file.write(
                    line_of(written(number, f"Mug {number}", [Description("A " * 80, "stop", 80)]))
                )
        command = [sys.executable, "-c", WRITE, str(lines), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks
