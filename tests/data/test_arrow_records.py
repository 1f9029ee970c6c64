"""Arrow files and streams, as `datasets` and pandas write them, give the records of Parquet."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from amazon_desc.data.reading.files.sources import LINE_BYTES, Meter
from amazon_desc.data.reading.records import Fault, Product, read_products, read_title_records
from amazon_desc.support.errors import DataError

TABLE = pa.table({"n": [1, 2], "title": ["Mug", "Car"], "content": ["Holds tea.", None]})
PRODUCTS = [Product("Mug", "Holds tea."), Product("Car", "")]


def stream(path: Path, table: pa.Table, batch: int = 1_000) -> Path:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


def file(path: Path, table: pa.Table, batch: int = 1_000, **options: str) -> Path:
    settings = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_file(str(path), table.schema, options=settings) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "a.json", "a"])
@pytest.mark.parametrize("write", [stream, file])
def test_arrow_is_read_whatever_it_is_called(tmp_path: Path, name: str, write):
    path = write(tmp_path / name, TABLE)
    assert list(read_products(path)) == PRODUCTS
    records = list(read_title_records(path, kept=["n"]))
    assert [(record.title, json.loads(record.kept or "")) for record in records] == [
        ("Mug", {"n": 1}),
        ("Car", {"n": 2}),
    ]
    assert records[1].place == f"{name}, record 2"


@pytest.mark.parametrize("packing", ["lz4", "zstd", "uncompressed"])
def test_feather_is_read(tmp_path: Path, packing: str):
    pyarrow.feather.write_feather(TABLE, str(tmp_path / "a.feather"), compression=packing)
    assert list(read_products(tmp_path / "a.feather")) == PRODUCTS


@pytest.mark.parametrize("write", [stream, file])
@pytest.mark.parametrize("batch", [1, 255, 256, 257, 3_000])
def test_records_count_over_batches_and_the_meter_grows(tmp_path: Path, write, batch: int):
    titles = [f"title {number}" for number in range(3_000)]
    path = write(tmp_path / "a.arrow", pa.table({"title": titles}), batch)
    meter, shares, found = Meter(), [], []
    for record in read_title_records(path, meter=meter):
        found.append(record.title)
        shares.append(meter.share())
    assert found == titles
    assert shares == sorted(shares)
    assert meter.share() == 1


def test_text_that_is_no_text_and_text_that_is_too_long_are_faults(tmp_path: Path):
    raw = [b"Mog", b"\xff\xfe", b"x" * (LINE_BYTES + 1), b"Car"]
    titles = pa.array(raw, pa.binary()).view(pa.string())
    path = stream(tmp_path / "a.arrow", pa.table({"title": titles, "content": ["x"] * 4}))
    assert list(read_products(path)) == [
        Product("Mog", "x"),
        Fault("a.arrow, record 2", "not valid UTF-8"),
        Fault("a.arrow, record 3", "text too long"),
        Product("Car", "x"),
    ]


@pytest.mark.parametrize("write", [stream, file])
def test_a_file_that_is_cut_or_changed_anywhere_is_refused_or_changes_only_texts(
    tmp_path: Path, write
):
    """A place in it that points elsewhere is found before it is followed."""
    path = write(tmp_path / "a.arrow", pa.table({"title": ["Mug", "Car"] * 5}))
    whole, num_refused = path.read_bytes(), 0
    ways = [whole[:length] for length in range(8, len(whole), 5)]
    for place in range(8, len(whole)):
        ways.append(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    for data in ways:
        path.write_bytes(data)
        try:
            records = list(read_title_records(path))
        except DataError:
            num_refused += 1
        else:
            assert len(records) <= 10
    assert num_refused > 20


def test_a_column_of_another_type_is_refused(tmp_path: Path):
    path = stream(tmp_path / "a.arrow", pa.table({"title": pa.array([b"a"], pa.binary())}))
    with pytest.raises(DataError, match="wanted text in the column 'title', found binary"):
        list(read_title_records(path))
