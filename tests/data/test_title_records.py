"""Every record of a file of titles is told of, with its columns, whatever is wrong with it."""

import gzip
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.data.reading.files import sources
from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.files.standard_input import copy_stream
from amazon_desc.data.reading.kept import Kept
from amazon_desc.data.reading.records import TitleRecord, read_title_records
from amazon_desc.support.errors import DataError

LONG = b"x" * (sources.LINE_BYTES + 1)


def records_of(
    folder: Path, name: str, data: bytes, kept: Kept = "none", title_column: str = "title"
) -> list[TitleRecord]:
    (folder / name).write_bytes(data)
    return list(read_title_records(folder / name, title_column, kept))


def kept_of(path: Path, kept: Kept = "all") -> list[Any]:
    """Returns the columns that are kept of each record, or the reason why there are none."""
    records = read_title_records(path, "title", kept)
    return [json.loads(record.kept) if record.kept else record.reason for record in records]


def refusal(path: Path, kept: Kept) -> str:
    with pytest.raises(DataError) as error:
        list(read_title_records(path, "title", kept))
    return str(error.value)


def test_every_line_of_text_is_a_record(tmp_path: Path):
    data = b"\xef\xbb\xbfMog's Kittens\r\n\n \t\nCaf\xe9\n" + LONG + b"\n\nlast"
    assert records_of(tmp_path, "a.txt", data) == [
        TitleRecord("Mog's Kittens", "", None, "a.txt, line 1"),
        TitleRecord("", "title is empty", None, "a.txt, line 2"),
        TitleRecord(" \t", "title is empty", None, "a.txt, line 3"),
        TitleRecord("", "not valid UTF-8", None, "a.txt, line 4"),
        TitleRecord("", "line too long", None, "a.txt, line 5"),
        TitleRecord("", "title is empty", None, "a.txt, line 6"),
        TitleRecord("last", "", None, "a.txt, line 7"),
    ]


def test_a_file_of_blank_lines_is_no_error(tmp_path: Path):
    records = records_of(tmp_path, "a.txt", b"\n" * 150)
    assert {(record.title, record.reason) for record in records} == {("", "title is empty")}
    assert len(records) == 150
    for data in (b"", b"\xef\xbb\xbf"):
        with pytest.raises(DataError, match="is empty"):
            records_of(tmp_path, "b.txt", data)


def test_every_record_of_json_has_its_reason_and_columns(tmp_path: Path):
    rows = [
        b'{"title": "Mug", "sku": 1}',
        b'{"title": null, "sku": 2}',
        b'{"title": " ", "sku": 3}',
        b'{"title": ["Mug"], "sku": 4}',
        b'{"sku": 5}',
        b'"Mug"',
        b'{"title": "Mug}',
        b'{"title": "Caf\xff"}',
    ]
    found = [
        ("Mug", "", '{"sku":1}'),
        ("", "title is empty", '{"sku":2}'),
        (" ", "title is empty", '{"sku":3}'),
        ("", "title is not text", '{"sku":4}'),
        ("", "title is missing", '{"sku":5}'),
        ("", "not a JSON object", None),
        ("", "not valid JSON", None),
        ("", "not valid UTF-8", None),
    ]
    records = records_of(tmp_path, "a.jsonl", b"\n\n".join(rows), "all")
    assert [record[:3] for record in records] == found
    assert [record.place for record in records] == [f"a.jsonl, line {n}" for n in range(1, 16, 2)]
    del rows[6], found[6]  # an array breaks there
    records = records_of(tmp_path, "a.json", b"[" + b",".join(rows) + b"]", "all")
    assert [record[:3] for record in records] == found


def test_every_record_of_csv_has_its_reason_and_columns(tmp_path: Path):
    data = b'title,sku,stock\nMug,1,\n,2,5\nCar,3\nCar,4,5,6\nCaf\xff,5,5\n"Mug, red",6,""\n'
    assert [record[:3] for record in records_of(tmp_path, "a.csv", data, "all")] == [
        ("Mug", "", '{"sku":"1","stock":""}'),
        ("", "title is empty", '{"sku":"2","stock":"5"}'),
        ("Car", "", '{"sku":"3"}'),
        ("", "more fields than columns", None),
        ("", "not valid UTF-8", None),
        ("Mug, red", "", '{"sku":"6","stock":""}'),
    ]


def test_kept_columns_stand_in_the_records_order_under_their_names(tmp_path: Path):
    row = {"title": "Ours", "nome": "Mug", "description": "Old.", "row": 3, "reason": {"a": [1]}}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")

    def kept(kept: Kept) -> str | None:
        return next(read_title_records(path, "nome", kept)).kept

    assert kept("none") is None
    assert kept("all") == '{"title":"Ours","description":"Old.","row":3,"reason":{"a":[1]}}'
    assert kept(["reason", "nome", "title"]) == '{"title":"Ours","nome":"Mug","reason":{"a":[1]}}'
    assert kept([]) == "{}"


def test_numbers_and_texts_are_carried_as_they_are(tmp_path: Path):
    texts = [
        '{"n":12345678901234567890123,"m":-9223372036854775809,"s":"12345678901234567890123"}',
        '{"n":18446744073709551615,"x":0.1,"y":-0.0,"z":1e300,"b":true,"e":null}',
        '{"s":"Caf\u00e9 \u2028 \\u0000 </s> \\"","o":{"a":[[],{}]}}',
        f'{{"n":{"1" * 300}}}',
        f'{{"n":{"[" * 250 + "]" * 250}}}',
        f'{{"n":{"[" * 400 + "]" * 400},"m":12345678901234567890123}}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"title":"Mug",{text[1:]}\n' for text in texts), "utf-8")
    records = list(read_title_records(path, "title", "all"))
    assert [(record.title, record.reason) for record in records] == [("Mug", "")] * 6
    assert kept_of(path) == [json.loads(text) for text in texts]
    assert [record.kept for record in records[3:]] == texts[3:]
    array = tmp_path / "a.json"
    array.write_text(f'[{{"title":"Mug",{texts[0][1:]}]')
    assert next(read_title_records(array, "title", "all")).kept == texts[0]


def test_what_nests_too_deep_to_be_carried_is_skipped(tmp_path: Path):
    deep = b'{"title": "Mug", "n": ' + b"[" * 1_020 + b"]" * 1_020 + b"}\n"
    records = records_of(tmp_path, "a.jsonl", deep + b'{"title": "Car", "n": 1}\n', ["n"])
    assert [record[:3] for record in records] == [
        ("", "columns are nested too deep", None),
        ("Car", "", '{"n":1}'),
    ]
    assert [record.title for record in records_of(tmp_path, "a.jsonl", deep)] == ["Mug"]


def test_parquet_columns_of_any_kind_are_carried(tmp_path: Path):
    moment = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
    columns = {
        "n": pa.array([5, None], pa.int64()),
        "title": ["Mug", "Car"],
        "price": pa.array([Decimal("1.50"), None]),
        "day": [date(2024, 2, 3), None],
        "moment": pa.array([moment.replace(tzinfo=None), None], pa.timestamp("ns")),
        "zoned": pa.array([moment, None], pa.timestamp("us", "UTC")),
        "took": pa.array([timedelta(seconds=90), None]),
        "raw": pa.array([b"\xff\x00", b"text"]),
        "tags": [["a", "b"], []],
        "size": [{"w": 1.5, "h": float("nan")}, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = [
        {
            "n": 5,
            "price": "1.50",
            "day": "2024-02-03",
            "moment": "2024-02-03T04:05:06",
            "zoned": "2024-02-03T04:05:06+00:00",
            "took": "0:01:30",
            "raw": "/wA=",
            "tags": ["a", "b"],
            "size": {"w": 1.5, "h": None},
        },
        {**dict.fromkeys(columns), "raw": "text", "tags": []},
    ]
    del rows[1]["title"]
    assert kept_of(tmp_path / "a.parquet") == rows
    chosen = [{"tags": row["tags"], "n": row["n"]} for row in rows]
    assert kept_of(tmp_path / "a.parquet", ["tags", "n"]) == chosen
    assert kept_of(tmp_path / "a.parquet", ["title"]) == [{"title": "Mug"}, {"title": "Car"}]


def test_parquet_values_that_cannot_be_read_are_skipped(tmp_path: Path):
    raw = pa.array([b"a", b"\xff", b"c", b"d"], pa.binary()).view(pa.string())
    days = pa.array([0, 0, 2**31 - 1, 1], pa.int32()).view(pa.date32())  # after the year 9999
    table = pa.table({"title": ["Mug", "Car", "Cup", "Pot"], "raw": raw, "day": days})
    pq.write_table(table, tmp_path / "a.parquet")
    assert kept_of(tmp_path / "a.parquet") == [
        {"raw": "a", "day": "1970-01-01"},
        "not valid UTF-8",
        "a value cannot be read",
        {"raw": "d", "day": "1970-01-02"},
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_kept_column_that_is_missing_is_refused_with_those_seen(tmp_path: Path, name: str):
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("title,sku\nMug,1\n")
    elif name == "a.jsonl":
        path.write_text('{"title": "Mug", "sku": 1}\n')
    else:
        pq.write_table(pa.table({"title": ["Mug"], "sku": [1]}), path)
    assert refusal(path, ["sku", "ean", "size"]) == (
        f"{path}: wanted a column 'ean' and a column 'size' to keep; the columns seen are title, "
        "sku. Use --data.keep_columns with names of these (as in sku,price), all or none."
    )
    with pytest.raises(DataError, match="wanted a column 'name' with the title; the columns seen"):
        list(read_title_records(path, "name", ["ean"]))


def test_text_has_no_columns_to_keep(tmp_path: Path):
    assert records_of(tmp_path, "a.txt", b"Mug\n", "all")[0].kept is None
    assert records_of(tmp_path, "a.txt", b"Mug\n", [])[0].kept is None
    path = tmp_path / "a.txt"
    assert refusal(path, ["sku"]) == (
        f"{path}: wanted a column 'sku' to keep; a .txt file holds titles alone. Use "
        "--data.keep_columns none, or write the titles with their columns as .csv or .jsonl."
    )


def test_of_two_kept_columns_of_a_name_neither_is_guessed(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("title,sku,sku,,\nMug,1,2,,\n")
    assert kept_of(path, "none") == [""]
    for kept in ("all", ["sku"]):
        assert "wanted one column 'sku', found 2" in refusal(path, kept)
    path.write_text("title,sku,,\nMug,1,,\n")
    assert kept_of(path) == [{"sku": "1", "": ""}]
    twins = pa.table([["Mug"], [1], [2]], names=["title", "sku", "sku"])
    pq.write_table(twins, tmp_path / "a.parquet")
    assert "wanted one column 'sku', found 2" in refusal(tmp_path / "a.parquet", "all")


def test_the_meter_tells_how_far_a_text_was_read(tmp_path: Path):
    path, meter = tmp_path / "a.txt", Meter()
    path.write_bytes(b"A mug of stoneware\n" * 100_000)
    shares = [meter.share() for _ in read_title_records(path, meter=meter)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert 0.4 < shares[50_000] < 0.7
    assert meter.share() == 1.0


# Streams


@pytest.mark.parametrize(
    ("data", "suffix", "titles"),
    [
        (b"Mug\n\nCar", ".txt", ["Mug", "", "Car"]),
        (b"\n" * 150, ".txt", [""] * 150),
        (b'\n \n{"title": "Mug"}\n{"title": "Car"}\n', ".jsonl", ["Mug", "Car"]),
        (b'\xef\xbb\xbf{"title": "Mug"}', ".jsonl", ["Mug"]),
        (b'{"title": "Mug"\n', ".txt", ['{"title": "Mug"']),
        (b'["Mug"]\n{"title": "Car"}\n', ".txt", ['["Mug"]', '{"title": "Car"}']),
        (b"Mug\n" + LONG + b"\n", ".txt", ["Mug", ""]),
        (LONG + b"\nMug\n", ".txt", ["", "Mug"]),
        (b"5\n", ".txt", ["5"]),
    ],
    ids=["text", "blank", "lines", "mark", "torn", "array", "long", "long first", "number"],
)
def test_a_stream_is_copied_as_what_it_holds(
    tmp_path: Path, data: bytes, suffix: str, titles: list[str]
):
    path = copy_stream(io.BytesIO(data), tmp_path / "new")
    assert path == tmp_path / "new" / f"standard_input{suffix}"
    assert path.read_bytes() == data
    assert [record.title for record in read_title_records(path)] == titles


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.parametrize("form", ["gzip", "utf-16", "utf-16-le", "cp1252"])
def test_a_stream_that_is_packed_or_not_utf8_is_copied_as_what_it_holds(
    tmp_path: Path, form: str, suffix: str
):
    text = '\n{"title": "Caf\u00e9"}\n' if suffix == ".jsonl" else "\nCaf\u00e9\n"
    data = gzip.compress(text.encode()) if form == "gzip" else text.encode(form)
    path = copy_stream(io.BytesIO(data), tmp_path)
    assert (path.name, path.read_bytes()) == (f"standard_input{suffix}", data)
    titles = [record.title for record in read_title_records(path) if record.title]
    assert titles == ["Caf\u00e9"]


def test_a_packed_stream_that_is_cut_is_told_by_its_reader(tmp_path: Path):
    path = copy_stream(io.BytesIO(gzip.compress(b"Mug\n")[:-9]), tmp_path)
    assert path.name == "standard_input.txt"
    with pytest.raises(DataError, match="is damaged, cut short"):
        list(read_title_records(path))


def test_a_stream_replaces_the_copy_of_the_one_before(tmp_path: Path):
    copy_stream(io.BytesIO(b"Mug\n"), tmp_path)
    copy_stream(io.BytesIO(b'{"title": "Mug"}\n'), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["standard_input.jsonl"]


def test_a_stream_of_nothing_is_refused_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(DataError, match=r"standard input is empty \(0 bytes\)"):
        copy_stream(io.BytesIO(b""), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path):
    class Breaking(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise AssertionError("not asked")

        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_stream(Breaking(b"Mug\nCar\n"), tmp_path)
    assert list(tmp_path.iterdir()) == []
