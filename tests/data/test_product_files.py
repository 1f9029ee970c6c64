"""Reading: every record of every file once, in order, and how far the reading has come."""

import gzip
import json
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.data.corpus import product_files as reading
from amazon_desc.data.corpus.product_files import BadRecords, ProductFiles, RecordReader
from amazon_desc.data.corpus.selection import PartBound
from amazon_desc.data.corpus.splits import HASH_RANGE
from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.records import Fault, read_products
from amazon_desc.support.errors import DataError


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "RECORDS_PER_BATCH", 10)


def lines(name: str, number: int) -> bytes:
    rows = [{"title": f"{name} {n}", "content": f"About {name} {n}."} for n in range(number)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def reader_of(*train_files: Path, test_file: Path | None = None, **changes: Any) -> RecordReader:
    sources = ProductFiles(
        train_files=tuple(map(str, train_files)),
        test_file=None if test_file is None else str(test_file),
        title_column="title",
        description_column="content",
        max_bad_records=changes.pop("max_bad_records", 0),
        max_bad_share=changes.pop("max_bad_share", 1.0),
    )
    return RecordReader(sources, PartBound(changes.pop("num_products", None)))


def test_records_come_in_batches_in_the_files_order(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(lines("mug", 25))
    (tmp_path / "b.jsonl").write_bytes(lines("cup", 5))
    reader = reader_of(tmp_path / "b.jsonl", tmp_path / "a.jsonl")
    batches = list(reader)
    assert [len(batch.titles) for batch in batches] == [5, 10, 10, 5]
    titles = [title for batch in batches for title in batch.titles]
    assert titles == [*(f"cup {n}" for n in range(5)), *(f"mug {n}" for n in range(25))]
    assert batches[0].descriptions[3] == "About cup 3."
    assert not any(batch.is_tested for batch in batches)
    assert reader.num_records == 30


def test_a_batch_holds_few_records_where_they_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Otherwise an archive of some MiB would give batches of some GiB."""
    monkeypatch.setattr(reading, "CHARACTERS_PER_BATCH", 1_000)
    lengths = [10, 10, 2_000, 10, *[500] * 5, *[10] * 12]
    rows = [{"title": f"mug {n:03}", "content": "x" * length} for n, length in enumerate(lengths)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batches = list(reader_of(tmp_path / "a.jsonl"))
    assert [len(batch.titles) for batch in batches] == [3, 3, 2, 10, 3]
    assert [title for batch in batches for title in batch.titles] == [row["title"] for row in rows]


def test_the_test_file_is_read_first_and_whole(tmp_path: Path):
    """A bound on the part that is asked for is only for the files to train on."""
    (tmp_path / "a.jsonl").write_bytes(lines("mug", 300))
    (tmp_path / "tst.jsonl").write_bytes(lines("cup", 30))
    reader = reader_of(tmp_path / "a.jsonl", test_file=tmp_path / "tst.jsonl", num_products=1)
    batches = []
    for batch in reader:
        batches.append(batch)
        if not batch.is_tested:
            reader.bound.add(pa.array([5]).to_numpy().astype("u8"))
    assert [batch.is_tested for batch in batches] == [True] * 3 + [False] * 30
    assert {batch.max_part for batch in batches[: 3 + PartBound.DELAY]} == {HASH_RANGE}
    assert {batch.max_part for batch in batches[3 + PartBound.DELAY :]} == {5}


def test_products_wait_with_their_places_until_their_result_is_there(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(lines("mug", 25))
    reader = reader_of(tmp_path / "a.jsonl")
    list(islice(reader, 2))
    assert [len(products) for products in reader.waiting] == [10, 10]
    assert reader.waiting[1][0].place == "a.jsonl, line 11"


def test_bad_records_are_counted_and_the_first_named(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(lines("mug", 2) + b'{"title": \n' * 12 + b"[]\n")
    reader = reader_of(tmp_path / "a.jsonl", max_bad_records=13)
    assert [batch.titles for batch in reader] == [["mug 0", "mug 1"]]
    assert reader.num_records == 15
    assert reader.bad.counts == {"not valid JSON": 12, "not a JSON object": 1}
    assert reader.bad.faults == [f"a.jsonl, line {line}: not valid JSON" for line in range(3, 13)]


def test_too_many_bad_records_stop_the_run_with_places_and_remedy():
    bad = BadRecords(2)
    bad.add(Fault("a.jsonl, line 3", "not valid JSON"))
    bad.add(Fault("a.jsonl, line 4", "not valid JSON"))
    with pytest.raises(DataError) as error:
        bad.add(Fault("a.jsonl, line 5", "title is missing"))
    assert str(error.value) == (
        "more than 2 records cannot be read (--data.max_bad_records): 2 × not valid JSON; "
        "1 × title is missing. The first: a.jsonl, line 3: not valid JSON; "
        "a.jsonl, line 4: not valid JSON; a.jsonl, line 5: title is missing. "
        "Mend the file, or raise the limit."
    )


def test_too_large_a_share_of_bad_records_stops_the_run_though_they_are_few(tmp_path: Path):
    """Of 20 records 2 are 10 %: a small file would lose much below any number."""
    (tmp_path / "a.jsonl").write_bytes(lines("mug", 18) + b'{"title": \n' * 2)
    few = reader_of(tmp_path / "a.jsonl", max_bad_records=100, max_bad_share=0.1)
    assert sum(len(batch.titles) for batch in few) == 18
    many = reader_of(tmp_path / "a.jsonl", max_bad_records=100, max_bad_share=0.09)
    with pytest.raises(DataError) as error:
        list(many)
    assert str(error.value) == (
        "2 of 20 records cannot be read, more than 9 % (--data.max_bad_share 0.09): "
        "2 × not valid JSON. The first: a.jsonl, line 19: not valid JSON; "
        "a.jsonl, line 20: not valid JSON. Mend the file, or raise the limit."
    )


def written(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"rows{kind}"
    if kind == ".json.gz":
        path.write_bytes(gzip.compress(content))
    elif kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("lbl.txt", b"x" * 100_000)
            archive.writestr("trn.json.gz", gzip.compress(content))
            archive.writestr("tst.json.gz", gzip.compress(lines("cup", 3)))
    elif kind == ".parquet":
        rows = [json.loads(line) for line in content.splitlines()]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1_000)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".json.gz", ".zip", ".parquet"])
def test_how_far_a_file_is_read_grows_from_nothing_to_all(tmp_path: Path, kind: str):
    content = b"".join(lines(f"mug {n}", 100) for n in range(500))
    meter, shares = Meter(), []
    assert meter.share() == 0
    path = written(tmp_path, kind, content)
    for number, _ in enumerate(read_products(path, meter=meter)):
        if number % 1_000 == 0:
            shares.append(meter.share())
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    assert shares[0] < 0.6
    assert any(0.3 < share < 0.8 for share in shares)
    assert meter.share() == 1


def test_the_bar_counts_the_bytes_of_all_files(tmp_path: Path):
    sizes = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(name, 1_000))
        sizes.append((tmp_path / f"{name}.jsonl").stat().st_size)
    reader = reader_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert reader.bar.total == sum(sizes)
    places = []
    for _ in islice(reader, 200):
        places.append(reader.bar.n)
        reader.bound.add(np.empty(0, "u8"))
    assert places == sorted(places)
    assert places[0] == 0
    assert reader.bar.n == sum(sizes)


def test_the_member_of_an_archive_follows_from_its_use(tmp_path: Path):
    path = written(tmp_path, ".zip", lines("mug", 20))
    batches = list(reader_of(path, test_file=path))
    assert [batch.titles[0] for batch in batches] == ["cup 0", "mug 0", "mug 10"]


def test_records_that_may_hold_others_are_told_of_all_files(tmp_path: Path):
    for name, lines in (("a.csv", 30), ("b.csv", 50)):
        text = "A mug.\n" * lines
        (tmp_path / name).write_text(f'title,content\nMug,"{text}"\nCup,"{text}"\n')
    reader = reader_of(tmp_path / "a.csv", tmp_path / "b.csv")
    list(reader)
    assert str(reader.long_records) == "4, the longest of 51 lines at b.csv, line 2"
