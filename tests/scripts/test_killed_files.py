"""Promises of scripts/killed_files.py: what a file has to be, and in what it is not."""

import csv
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import load_script


@pytest.fixture(scope="module")
def files() -> ModuleType:
    return load_script("killed_files")


def write(file: Path, records: list[dict[str, Any]]) -> None:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
        return
    with file.open("w", newline="") as lines:
        if file.suffix == ".jsonl":
            lines.writelines(json.dumps(record) + "\n" for record in records)
            return
        table = csv.DictWriter(lines, list(records[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(records)


def test_repeats_and_blank_lines_grow_with_the_titles(files: ModuleType):
    lines = files.mixed([str(number) for number in range(100)], random.Random(0))
    assert (len(lines), sum(not line.strip() for line in lines)) == (120, 10)


def test_a_wanted_record_is_the_untouched_one_with_its_own_row(files: ModuleType, tmp_path: Path):
    for form, wanted in {
        "jsonl": [b'{"row": 1, "title": "b"}\n', b'{"row": 2, "title": "a,\\n"}\n'],
        "csv": [b"1,b\n", b'2,"a,\n"\n'],
        "parquet": [{"row": 1, "title": "b"}, {"row": 2, "title": "a,\n"}],
    }.items():
        file = tmp_path / f"untouched.{form}"
        write(file, [{"row": 1, "title": "a,\n"}, {"row": 2, "title": "b"}])
        places = files.places_in(["a", "b"], ["b", "a"])
        assert files.reordered(files.content_of(file), places).records == wanted


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_every_difference_of_a_file_is_said(form: str, files: ModuleType, tmp_path: Path):
    records = [{"row": row, "title": title} for row, title in enumerate("abc", 1)]
    file = tmp_path / f"titles.{form}"
    write(file, records)
    wanted = files.content_of(file)
    assert files.differences(file, wanted) == []
    write(file, [{"row": 1, "title": "x"}, records[1]])
    assert files.differences(file, wanted) == [
        "1 other lines, first 1",
        "2 lines in place of 3",
    ]
    file.unlink()
    assert files.differences(file, wanted)[0].startswith("cannot be read: ")


def test_a_parquet_of_other_types_has_other_columns(files: ModuleType, tmp_path: Path):
    """As Python's values, 1 and 1.0 are equal."""
    file = tmp_path / "titles.parquet"
    write(file, [{"row": 1}])
    wanted = files.content_of(file)
    write(file, [{"row": 1.0}])
    assert files.differences(file, wanted) == ["other columns"]
