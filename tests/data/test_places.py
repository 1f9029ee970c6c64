"""What a user names becomes files in a stated order, or a sentence that helps."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from amazon_desc.data.corpus.product_files import ProductFiles, RecordReader
from amazon_desc.data.corpus.selection import PartBound
from amazon_desc.data.loading.titles import TitleTable, sha256_over
from amazon_desc.data.reading.files.kinds import SUPPORTED
from amazon_desc.data.reading.files.places import Place, in_order, place_of
from amazon_desc.run.predicting.source import TitleSource
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import DataError

OPTION = "--data.train_file"


def row(title: str) -> dict[str, str]:
    return {"title": title, "content": f"About the {title}."}


def jsonl(path: Path, *titles: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row(title)) + "\n" for title in titles))
    return path


def csv(path: Path, *titles: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("title,content\n" + "".join(f"{title},About it.\n" for title in titles))
    return path


def place(named: Any, split: str = "train") -> Place:
    return place_of(str(named), OPTION, SUPPORTED, split)


def names(found: Place) -> list[str]:
    return [path.name for path in found.files]


def refusal(named: Any, supported: tuple[str, ...] = SUPPORTED) -> str:
    with pytest.raises(DataError) as error:
        place_of(str(named), OPTION, supported)
    return str(error.value)


def reader_of(*named: Any, test_file: Any = None) -> RecordReader:
    files = ProductFiles.named(
        [str(name) for name in named],
        None if test_file is None else str(test_file),
        *("title", "content"),
        0,
    )
    return RecordReader(files, PartBound(None))


def titles_of(*named: Any, **options: Any) -> list[str]:
    return [title for batch in reader_of(*named, **options) for title in batch.titles]


def test_numbers_in_names_count():
    assert in_order(["part-10", "part-2", "part-1", "a", "b/2", "b/10", "part-02"]) == [
        *("a", "b/2", "b/10", "part-1", "part-02", "part-2", "part-10")
    ]
    assert in_order(["²", "1", "x1y2", "x1y10", "x"]) == ["1", "x", "x1y2", "x1y10", "²"]


def test_a_file_is_itself_and_nothing_is_said(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", "mug")
    assert place(path) == Place("a.jsonl", (path,), ())
    assert place(f"file://{path}") == Place("a.jsonl", (path,), ())
    odd = jsonl(tmp_path / "a[1]*.jsonl", "mug")
    assert place(odd) == Place("a[1]*.jsonl", (odd,), ())


def test_what_is_not_there_keeps_its_name_for_who_opens_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("none.jsonl", "none/none.csv", "none", "x" * 300, "nul\0.json"):
        assert place(name).files == (Path(name),)


def test_the_files_of_a_folder_are_read_in_their_order(tmp_path: Path):
    for number in (10, 2, 1):
        jsonl(tmp_path / "shop" / f"part-{number}.jsonl", f"mug {number}")
    jsonl(tmp_path / "shop" / "more" / "z.json", "cup")
    for hidden in (".part-3.jsonl", "_part-4.jsonl", "part-1.jsonl.crc", "_temporary/0/a.jsonl"):
        jsonl(tmp_path / "shop" / hidden, "no")
    jsonl(tmp_path / "shop" / "__MACOSX" / "part-1.jsonl", "no")
    (tmp_path / "shop" / "_SUCCESS").touch()
    (tmp_path / "shop" / "README.md").write_text("Mugs.")
    found = place(tmp_path / "shop")
    assert found.name == "shop"
    assert names(found) == ["z.json", "part-1.jsonl", "part-2.jsonl", "part-10.jsonl"]
    assert found.remarks == (
        f"{tmp_path / 'shop'}: 4 files (.json) are read in the order of their names, z.json to "
        f"part-10.jsonl. Left out: 1 of other kinds.",
    )
    assert titles_of(f"{tmp_path / 'shop'}/") == ["cup", "mug 1", "mug 2", "mug 10"]


def test_a_folder_of_one_file_is_that_file(tmp_path: Path):
    csv(tmp_path / "shop" / "a.csv", "mug")
    assert place(tmp_path / "shop").remarks == (f"{tmp_path / 'shop'}: a.csv is read.",)
    assert titles_of(tmp_path / "shop") == ["mug"]


def test_spark_parts_are_read_and_those_of_a_writer_that_did_not_finish_are_told(tmp_path: Path):
    folder = tmp_path / "out"
    for number in range(3):
        name = f"part-{number:05}-c000.snappy.parquet"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row(f"mug {number}")]), folder / name)
    said = f"{folder} has no _SUCCESS: if Spark wrote it, it may not have written all of it."
    assert said in place(folder).remarks
    reader = reader_of(folder)
    assert reader.remarks == list(place(folder).remarks)
    (folder / "_SUCCESS").touch()
    assert said not in place(folder).remarks
    assert titles_of(folder) == ["mug 0", "mug 1", "mug 2"]


def test_parts_without_a_suffix_are_told_by_their_content(tmp_path: Path):
    jsonl(tmp_path / "out" / "part-00001", "cup")
    jsonl(tmp_path / "out" / "part-00000", "mug")
    (tmp_path / "out" / "LICENSE").write_text("Mine.")
    assert titles_of(tmp_path / "out") == ["mug", "cup"]


def test_partitions_are_read_in_the_order_of_their_folders(tmp_path: Path):
    for brand in ("b", "a"):
        csv(tmp_path / "out" / f"brand={brand}" / "part-0.csv", brand)
    assert titles_of(tmp_path / "out") == ["a", "b"]


def test_files_of_several_kinds_are_refused_with_their_counts(tmp_path: Path):
    for name in ("a.csv", "b.csv", "c.csv.gz"):
        csv(tmp_path / "shop" / name, "mug")
    jsonl(tmp_path / "shop" / "d.jsonl", "mug")
    assert refusal(tmp_path / "shop") == (
        f"--data.train_file {tmp_path / 'shop'}: wanted files of one kind, found 3 × .csv and "
        f"1 × .json. Name those that are meant, as in '{tmp_path / 'shop'}/*.csv'."
    )


def test_a_note_beside_titles_is_none(tmp_path: Path):
    csv(tmp_path / "shop" / "a.csv", "mug")
    (tmp_path / "shop" / "notes.txt").write_text("Mine.\n")
    supported = (".txt", *SUPPORTED)
    assert names(place_of(str(tmp_path / "shop"), OPTION, supported)) == ["a.csv"]
    (tmp_path / "shop" / "a.csv").unlink()
    assert names(place_of(str(tmp_path / "shop"), OPTION, supported)) == ["notes.txt"]


def test_a_folder_of_nothing_is_refused_with_what_is_there(tmp_path: Path):
    (tmp_path / "shop").mkdir()
    assert ": wanted files to read in it (one of .json, " in refusal(tmp_path / "shop")
    assert "found none. Name the file or folder" in refusal(tmp_path / "shop")
    (tmp_path / "shop" / "a.docx").touch()
    assert "found a.docx. Name the file or folder" in refusal(tmp_path / "shop")


def test_a_delta_table_is_refused(tmp_path: Path):
    """Its files hold rows that were deleted, too."""
    (tmp_path / "shop" / "_delta_log").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row("mug")]), tmp_path / "shop" / "part-0.parquet")
    assert "is a Delta table, in which files of former versions lie" in refusal(tmp_path / "shop")


# Patterns


def test_a_pattern_names_files_in_their_order(tmp_path: Path):
    for number in (10, 9):
        csv(tmp_path / "shop" / f"a{number}.csv", f"mug {number}")
    jsonl(tmp_path / "shop" / "b.jsonl", "cup")
    csv(tmp_path / "shop" / "deep" / "c.csv", "pot")
    found = place(tmp_path / "shop" / "*.csv")
    assert (found.name, names(found)) == ("shop", ["a9.csv", "a10.csv"])
    assert found.remarks == (
        f"{tmp_path / 'shop'}/*.csv: 2 files (.csv) are read in the order of their names, a9.csv "
        f"to a10.csv.",
    )
    assert names(place(tmp_path / "shop" / "**" / "*.csv")) == ["a9.csv", "a10.csv", "c.csv"]
    assert titles_of(tmp_path / "shop" / "a?.csv") == ["mug 9"]


def test_a_pattern_may_name_folders(tmp_path: Path):
    for month in ("2", "10"):
        csv(tmp_path / f"export-{month}" / "a.csv", f"mug {month}")
    assert titles_of(tmp_path / "export-*") == ["mug 2", "mug 10"]


def test_a_pattern_that_nothing_matches_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal("shop/*.csv") == (
        f"--data.train_file shop/*.csv: no file has such a name (a relative one starts at "
        f"{tmp_path}). Check the pattern, and put it in quotes."
    )


# Several names


def test_several_names_are_read_in_their_order_the_test_files_first(tmp_path: Path):
    jsonl(tmp_path / "b.jsonl", "b")
    csv(tmp_path / "a" / "2.csv", "a2")
    csv(tmp_path / "a" / "1.csv", "a1")
    jsonl(tmp_path / "t" / "t.jsonl", "t")
    reader = reader_of(tmp_path / "b.jsonl", tmp_path / "a", test_file=tmp_path / "t")
    assert [title for batch in reader for title in batch.titles] == ["t", "b", "a1", "a2"]
    files = reader.sources.files
    assert [(path.name, use) for path, use in files] == [
        *[("t.jsonl", "test"), ("b.jsonl", "train"), ("1.csv", "train"), ("2.csv", "train")]
    ]
    assert reader.bar.total == sum(path.stat().st_size for path, _ in files)
    assert reader.sources.train_files == (str(tmp_path / "b.jsonl"), str(tmp_path / "a"))


# What `datasets` writes


def test_what_datasets_saved_is_read_in_the_order_of_its_state(tmp_path: Path):
    Dataset.from_list([row(f"mug {number}") for number in range(25)]).save_to_disk(
        str(tmp_path / "saved"), num_shards=12
    )
    found = place(tmp_path / "saved")
    assert names(found)[1:3] == ["data-00001-of-00012.arrow", "data-00002-of-00012.arrow"]
    assert found.remarks == (
        f"{tmp_path / 'saved'} is what save_to_disk of `datasets` wrote: 12 files are read.",
    )
    assert titles_of(tmp_path / "saved") == [f"mug {number}" for number in range(25)]
    (tmp_path / "saved" / "data-00003-of-00012.arrow").unlink()
    assert "data-00003-of-00012.arrow is not there. Copy the" in refusal(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    assert "its state.json is damaged" in refusal(tmp_path / "saved")


def test_rows_that_were_taken_away_before_it_was_saved_are_not_read(tmp_path: Path):
    rows = Dataset.from_list([row(f"mug {number}") for number in range(10)])
    rows.select([7, 2]).save_to_disk(str(tmp_path / "saved"))
    assert titles_of(tmp_path / "saved") == ["mug 7", "mug 2"]


def test_of_saved_splits_that_of_the_use_is_read_and_said(tmp_path: Path):
    parts = {"train": ["mug", "cup"], "test": ["pot"], "validation": ["tub"]}
    DatasetDict(
        {name: Dataset.from_list([row(title) for title in of]) for name, of in parts.items()}
    ).save_to_disk(str(tmp_path / "saved"))
    reader = reader_of(tmp_path / "saved", test_file=tmp_path / "saved")
    assert [title for batch in reader for title in batch.titles] == ["pot", "mug", "cup"]
    said = f"{tmp_path / 'saved'} holds the splits train, test, validation: train is read."
    assert place(tmp_path / "saved").remarks[0] == said
    assert titles_of(tmp_path / "saved" / "validation") == ["tub"]
    with pytest.raises(DataError, match="wanted the split dev, found train, test, validation"):
        place(tmp_path / "saved", "dev")


# Titles


def table_of(named: Path, folder: Path) -> tuple[TitleTable, TitleSource]:
    source = TitleSource(str(named))
    files = source.readable(folder)
    return TitleTable.read(files, "title", "none", folder / "table", str), source


def test_titles_of_a_folder_are_one_table_in_its_order(tmp_path: Path, capsys):
    for number in (10, 9):
        csv(tmp_path / "shop" / f"a{number}.csv", f"mug {number}", "Same")
    table, source = table_of(tmp_path / "shop", tmp_path)
    assert [title.title for title in table] == ["mug 9", "Same", "mug 10", "Same"]
    assert [title.first for title in table] == [0, 1, 2, 1]
    assert (source.name, source.known_as) == ("shop", str(tmp_path / "shop"))
    assert "2 files (.csv) are read in the order of their names" in capsys.readouterr().out
    digests = [sha256_of(tmp_path / "shop" / name) for name in ("a9.csv", "a10.csv")]
    assert table.source_sha256 == sha256_over(digests)
    assert table_of(tmp_path / "shop" / "a*.csv", tmp_path)[0].digest() == table.digest()


def test_a_file_among_several_that_lacks_the_column_is_named(tmp_path: Path):
    csv(tmp_path / "shop" / "a.csv", "mug")
    (tmp_path / "shop" / "b.csv").write_text("label\nmug\n")
    with pytest.raises(DataError, match=r"b\.csv: wanted a column 'title'"):
        table_of(tmp_path / "shop", tmp_path)


def test_a_pipe_of_the_shell_that_another_process_has_is_said_how_to_give():
    with pytest.raises(DataError, match="/dev/fd/987 is not open here") as refused:
        TitleSource("/dev/fd/987").readable(Path())
    assert "`COMMAND | python -m amazon_desc predict --data.titles -`" in str(refused.value)
