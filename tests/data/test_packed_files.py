"""A file is unpacked by what it holds, whatever it is called, and damage in it is always told."""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.data.reading.files.packing import packing_of, without_packing
from amazon_desc.data.reading.records import Product, read_products, read_title_records
from amazon_desc.support.errors import DataError

ROWS = [{"title": "Mog's Kittens", "content": "A cat's tale."}, {"title": "Car", "content": ""}]
PRODUCTS = [Product(row["title"], row["content"]) for row in ROWS]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
ARRAY = json.dumps(ROWS).encode()
COMMAS = b"title,content\nMog's Kittens,A cat's tale.\nCar,\n"


def zstd(data: bytes) -> bytes:
    with pa.BufferOutputStream() as packed:
        with pa.CompressedOutputStream(packed, "zstd") as file:
            file.write(data)
        return packed.getvalue().to_pybytes()


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
each_packing = pytest.mark.parametrize("packing", list(PACK))


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        list(read_title_records(path))
    return str(error.value)


@each_packing
@pytest.mark.parametrize(
    ("name", "data"),
    [
        *(("a.json", LINES), ("a.json", ARRAY), ("a.ndjson", LINES), ("A.JSONL", LINES)),
        *(("a.csv", COMMAS), ("a.tsv", COMMAS.replace(b",", b"\t"))),
    ],
    ids=["json", "array", "ndjson", "jsonl", "csv", "tsv"],
)
def test_every_packing_of_every_text_is_read(tmp_path: Path, packing: str, name: str, data: bytes):
    packed = PACK[packing](data)
    assert packing_of(packed) == packing
    for called in (name, name + packing, name + packing.upper()):
        path = written(tmp_path, called, packed)
        assert list(read_products(path)) == PRODUCTS
        assert [record.title for record in read_title_records(path)] == ["Mog's Kittens", "Car"]


@each_packing
def test_packed_titles_are_a_title_a_line(tmp_path: Path, packing: str):
    path = written(tmp_path, f"titles.txt{packing}", PACK[packing](b"Mug\n\nCar\n"))
    assert [record.title for record in read_title_records(path)] == ["Mug", "", "Car"]


@each_packing
def test_packed_json_needs_no_name_that_tells_it(tmp_path: Path, packing: str):
    assert list(read_products(written(tmp_path, "shop", PACK[packing](LINES)))) == PRODUCTS
    message = refusal(written(tmp_path, f"shop{packing}", PACK[packing](b"Mug, red\n")))
    assert f"Call it shop.csv{packing} if it is CSV." in message


@each_packing
def test_parts_that_lie_one_after_the_other_are_one_file(tmp_path: Path, packing: str):
    halves = [PACK[packing](LINES[:30]), PACK[packing](LINES[30:]), PACK[packing](b"")]
    assert list(read_products(written(tmp_path, "a.jsonl", b"".join(halves)))) == PRODUCTS


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.zst", "a.csv.xz"])
def test_text_that_is_called_packed_is_read_as_the_text_it_is(tmp_path: Path, name: str):
    data = COMMAS if "csv" in name else LINES
    assert list(read_products(written(tmp_path, name, data))) == PRODUCTS


def test_tables_are_told_by_their_content(tmp_path: Path):
    table = pa.Table.from_pylist(ROWS)
    for name in ("a.csv", "a", "a.json.gz", "part-00000.snappy"):
        pq.write_table(table, tmp_path / name)
        assert list(read_products(tmp_path / name)) == PRODUCTS
    assert list(read_products(written(tmp_path, "a.parquet", LINES))) == PRODUCTS
    assert list(read_products(written(tmp_path, "a.csv", LINES))) == PRODUCTS
    assert list(read_products(written(tmp_path, "a.zip", LINES))) == PRODUCTS
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as archive:
        archive.writestr("shop/rows.csv.bz2", bz2.compress(COMMAS))
    assert list(read_products(tmp_path / "a.csv")) == PRODUCTS


@each_packing
def test_a_packed_file_that_is_cut_or_goes_on_as_another_is_refused(tmp_path: Path, packing: str):
    rows = b"".join(b'{"title": "mug %d"}\n' % number for number in range(40))
    packed = PACK[packing](rows)
    for data in (*(packed[:length] for length in range(len(packed))), packed + b"<html>"):
        message = refusal(written(tmp_path, f"a.json{packing}", data))
        assert f"{tmp_path / 'a.json'}{packing} is " in message
        assert "Copy or download it again" in message


@each_packing
def test_good_records_in_front_of_damage_are_read(tmp_path: Path, packing: str):
    rows = b"".join(b'{"title": "mug %d", "n": %d}\n' % (n, n * n) for n in range(40_000))
    packed = PACK[packing](rows)
    titles: list[str] = []
    records = read_title_records(written(tmp_path, "a.jsonl", packed[: -len(packed) // 8]))
    with pytest.raises(DataError, match="is damaged, cut short or cannot be read"):
        titles.extend(record.title for record in records)
    assert len(titles) > 10_000
    assert titles == [f"mug {n}" for n in range(len(titles))]


def test_what_is_packed_twice_or_no_text_is_named(tmp_path: Path):
    twice = written(tmp_path, "a.json.gz", gzip.compress(gzip.compress(LINES)))
    assert "wanted text in it, found a packed file of another kind" in refusal(twice)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    table = written(tmp_path, "b.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert "Unpack it and name what comes out" in refusal(table)
    page = written(tmp_path, "c.json.gz", gzip.compress(b"<html><body>Not found</body></html>"))
    assert "c.json.gz is a page of the web (HTML)" in refusal(page)


def test_xz_that_asks_for_more_memory_than_is_given_is_refused(tmp_path: Path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    # a size of the dictionary is only a number in the file: nothing is made of it here
    small = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 12}]
    packed = bytearray(lzma.compress(LINES, format=lzma.FORMAT_XZ, filters=small))
    header = lzma._encode_filter_properties(filters[0])  # pyright: ignore
    at = packed.index(b"\x21\x01", 12) + 2
    packed[at : at + 1] = header
    import zlib

    block = packed[12 : 12 + (packed[12] + 1) * 4]
    packed[12 + len(block) - 4 : 12 + len(block)] = zlib.crc32(block[:-4]).to_bytes(4, "little")
    assert "Memory usage limit exceeded" in refusal(written(tmp_path, "a.json.xz", bytes(packed)))


def test_words_that_begin_as_a_packed_file_are_text(tmp_path: Path):
    assert packing_of(b"BZh9 is a name") is None
    records = list(read_title_records(written(tmp_path, "a.txt", b"BZh9 is a name\n")))
    assert [record.title for record in records] == ["BZh9 is a name"]


def test_what_says_that_it_is_packed_is_no_part_of_a_name():
    assert without_packing("A.CSV.gz") == "a.csv"
    assert without_packing("a.zstd.json") == "a.zstd.json"
