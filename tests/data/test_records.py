"""Reading: every record of every supported file is a Product or a Fault with its place."""

import csv
import gzip
import json
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from amazon_desc.data import sources
from amazon_desc.data.records import Fault, Product, read_products, read_titles
from amazon_desc.errors import DataError

MOG = {"uid": "1", "title": "Mog's Kittens", "content": "A cat's tale.", "target_ind": [1, 2]}
CAR = {"uid": "2", "title": "Tin Car", "content": "", "target_ind": []}
PRODUCTS = [Product("Mog's Kittens", "A cat's tale."), Product("Tin Car", "")]
TITLES = ["Mog's Kittens", "Tin Car"]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in (MOG, CAR))
ARRAY = json.dumps([MOG, CAR], indent=1).encode()
COMMAS = b"uid,title,content\r\n1,Mog's Kittens,A cat's tale.\r\n2,Tin Car,\r\n"
TABS = COMMAS.replace(b",", b"\t")


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def zipped(folder: Path, members: dict[str, bytes], name: str = "data.zip") -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, gzip.compress(data) if member.endswith(".gz") else data)
    return folder / name


def parquet(folder: Path, columns: dict) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "data.parquet")
    return folder / "data.parquet"


def refusal(read: Callable, path: Path, **columns: str) -> str:
    with pytest.raises(DataError) as error:
        list(read(path, **columns))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", LINES),
        ("a.jsonl", LINES.rstrip()),
        ("A.JSONL", b"\n\r\n" + LINES.replace(b"\n", b"\r\n") + b"\n"),
        ("a.json.gz", LINES),
        ("a.jsonl.gz", LINES),
        ("a.json", ARRAY),
        ("a.json", b" \n\t" + json.dumps([MOG, CAR]).encode()),
        ("a.json.gz", ARRAY),
        ("a.csv", COMMAS),
        ("a.csv", COMMAS.replace(b"\r\n", b"\n").rstrip()),
        ("a.csv.gz", COMMAS),
        ("a.tsv", TABS),
        ("a.tsv.gz", TABS),
    ],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_format_gives_the_same_products_and_titles(
    tmp_path: Path, name: str, data: bytes, bom: bytes
):
    path = written(tmp_path, name, bom + data)
    assert list(read_products(path)) == PRODUCTS
    assert list(read_titles(path)) == TITLES


def test_parquet_gives_the_same(tmp_path: Path):
    path = parquet(tmp_path, {"n": [1, 2], "title": TITLES, "content": ["A cat's tale.", None]})
    assert list(read_products(path)) == PRODUCTS
    assert list(read_titles(path)) == TITLES


def test_parquet_counts_over_its_batches(tmp_path: Path):
    texts = [f"title {number}" for number in range(3000)]
    path = parquet(tmp_path, {"title": [*texts, None], "content": [*texts, "x"]})
    assert list(read_titles(path)) == [
        *texts,
        Fault("data.parquet, record 3001", "title is empty"),
    ]


def test_parquet_text_that_is_no_text_is_a_fault(tmp_path: Path):
    import pyarrow

    raw = pyarrow.array([b"Mog", b"\xff\xfe", b"Car"], pyarrow.binary()).view(pyarrow.string())
    path = parquet(tmp_path, {"title": raw})
    assert list(read_titles(path)) == [
        "Mog",
        Fault("data.parquet, record 2", "not valid UTF-8"),
        "Car",
    ]


def test_the_data_sets_own_archive_is_read_in_place(tmp_path: Path):
    folder = "LF-Amazon-1.3M"
    members = {f"{folder}/": b"", f"{folder}/lbl.json.gz": b"{}", f"{folder}/trn.json.gz": LINES}
    path = zipped(tmp_path, members | {f"{folder}/tst.json.gz": b"{}"}, "LF-Amazon-1.3M.raw.zip")
    assert list(read_products(path)) == PRODUCTS
    assert list(read_titles(path)) == TITLES
    broken = zipped(tmp_path, {"trn.json.gz": LINES + b"{"})
    assert list(read_products(broken))[2] == Fault(
        "data.zip (trn.json.gz), line 3", "not valid JSON"
    )


@pytest.mark.parametrize("member", ["shop/a.csv", "a.csv.gz"])
def test_an_archive_with_one_usable_file_is_read(tmp_path: Path, member: str):
    members = {"README.md": b"hello", member: COMMAS, "__MACOSX/._a.csv": b"junk"}
    assert list(read_products(zipped(tmp_path, members))) == PRODUCTS


def test_an_archive_without_one_choice_names_its_members(tmp_path: Path):
    message = refusal(read_products, zipped(tmp_path, {"a.csv": COMMAS, "b.json": LINES}))
    assert "found a.csv, b.json" in message
    assert "trn.json.gz" in message
    assert "found notes.md" in refusal(read_products, zipped(tmp_path, {"notes.md": b"x"}))
    assert "found none" in refusal(read_products, zipped(tmp_path, {}))


def test_a_file_that_is_no_archive_is_named(tmp_path: Path):
    message = refusal(read_products, written(tmp_path, "data.zip", b"not a zip"))
    assert "data.zip is damaged" in message
    assert "not a zip file" in message


def test_other_columns_are_read_by_name(tmp_path: Path):
    path = written(tmp_path, "a.csv", b"name,text,title\nMog,A cat,x\n")
    columns = {"title_column": "name", "description_column": "text"}
    assert list(read_products(path, **columns)) == [Product("Mog", "A cat")]
    assert list(read_titles(path, title_column="name")) == ["Mog"]


def test_a_text_file_has_a_title_on_every_line(tmp_path: Path):
    path = written(tmp_path, "titles.txt", b"\xef\xbb\xbfMog\r\n\n \t\nTin\xff\n</s> Car\n\n")
    assert list(read_titles(path)) == [
        "Mog",
        Fault("titles.txt, line 2", "title is empty"),
        Fault("titles.txt, line 3", "title is empty"),
        Fault("titles.txt, line 4", "not valid UTF-8"),
        "</s> Car",
        Fault("titles.txt, line 6", "title is empty"),
    ]
    assert list(read_titles(written(tmp_path, "titles.txt", b"Mog"))) == ["Mog"]


def test_only_a_line_feed_ends_a_line(tmp_path: Path):
    title = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    row = json.dumps({"title": title, "content": title + "\r"}, ensure_ascii=False)
    path = written(tmp_path, "a.jsonl", f"{row}\r\n{row}".encode())
    assert list(read_products(path)) == [Product(title, title + "\r")] * 2
    path = written(tmp_path, "a.csv", f'title,content\n{title},"x\ry"\n'.encode())
    assert list(read_products(path)) == [Product(title, "x\ry")]
    path = written(tmp_path, "a.txt", f"{title}\rh\r\n{title}\n".encode())
    assert list(read_titles(path)) == [f"{title}\rh", title]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"title": "Mog", "content": "A cat', "not valid JSON"),
        (b'{"title": "Mog", "content": NaN}', "not valid JSON"),
        (b'{"title": "Mog", "content": "\\ud800"}', "not valid JSON"),
        (b'{"title": "Mog", "content": "a\0b"}', "not valid JSON"),
        (b'{"title": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"title": "Mog", "content": "\xff"}', "not valid UTF-8"),
        (b"\0", "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'"Mog"', "not a JSON object"),
        (b'{"content": "A cat"}', "title is missing"),
        (b'{"title": "Mog"}', "description is missing"),
        (b'{"title": 7, "content": "A cat"}', "title is not text"),
        (b'{"title": "Mog", "content": ["A", "cat"]}', "description is not text"),
    ],
)
def test_a_bad_json_record_is_one_fault_with_its_line(tmp_path: Path, line: bytes, reason: str):
    path = written(tmp_path, "a.jsonl", LINES + line + b"\n" + LINES)
    fault = Fault("a.jsonl, line 3", reason)
    assert list(read_products(path)) == [*PRODUCTS, fault, *PRODUCTS]


def test_odd_json_records_are_products(tmp_path: Path):
    lines = (
        b'{"title": "a", "title": "Mog", "content": null}\n'
        b'{"title": null, "content": "A \\u0000cat", "x": 1e400, "y": []}\n'
        b'{"title": "\\ud83d\\ude00 </s>", "content": "\xf0\x9f\x98\x80"}\n'
    ).replace(b"1e400", b"1" * 300)
    assert list(read_products(written(tmp_path, "a.jsonl", lines))) == [
        Product("Mog", ""),
        Product("", "A \0cat"),
        Product("\U0001f600 </s>", "\U0001f600"),
    ]


def test_an_empty_title_is_a_fault_only_where_titles_are_wanted(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", b'{"title": null}\n{"title": " "}\n{"title": 3}\n' + LINES)
    assert list(read_titles(path)) == [
        Fault("a.jsonl, line 1", "title is empty"),
        Fault("a.jsonl, line 2", "title is empty"),
        Fault("a.jsonl, line 3", "title is not text"),
        *TITLES,
    ]


def test_an_arrays_records_are_told_by_number(tmp_path: Path):
    path = written(tmp_path, "a.json", b'[{"title": "Mog", "content": "A cat"},\n3, {"title": 1}]')
    assert list(read_products(path)) == [
        Product("Mog", "A cat"),
        Fault("a.json, record 2", "not a JSON object"),
        Fault("a.json, record 3", "title is not text"),
    ]


def test_an_array_that_cannot_be_read_tells_the_way_out(tmp_path: Path, monkeypatch):
    message = refusal(read_products, written(tmp_path, "a.json", ARRAY[:-3]))
    assert "a.json is not a valid JSON array" in message
    assert "one object a line" in message
    monkeypatch.setattr("amazon_desc.data.formats.ARRAY_BYTES", 20)
    message = refusal(read_products, written(tmp_path, "a.json", ARRAY))
    assert "must not exceed 20 bytes" in message
    assert "one object a line" in message


def test_csv_fields_may_hold_commas_quotes_and_lines(tmp_path: Path):
    data = b'title,content\n"Mog, ""the"" cat","A\r\ncat\n\ntale"\n6" pipe,x\n\nCar,y\n'
    faulty = data + b"Bus\n"
    assert list(read_products(written(tmp_path, "a.csv", faulty))) == [
        Product('Mog, "the" cat', "A\ncat\n\ntale"),
        Product('6" pipe', "x"),
        Product("Car", "y"),
        Fault("a.csv, line 9", "description is missing"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"3", "title is missing"),
        (b"3,Bus", "description is missing"),
        (b"3,Bus,red, blue", "more fields than columns"),
        (b"3,B\xffs,red", "not valid UTF-8"),
        (b'3,Bus,"red\n\xff\nblue"', "not valid UTF-8"),
        (b"3,B\0s,red", "NUL character"),
        (b'3,Bus,"red" blue', "not valid CSV"),
        (b"3,Bus," + b"x" * (1 << 20), "line too long"),
        (b'3,Bus,"' + b"x\n" * (1 << 19) + b'x"', "line too long"),
    ],
)
def test_a_bad_csv_record_is_one_fault_with_its_first_line(
    tmp_path: Path, line: bytes, reason: str
):
    path = written(tmp_path, "a.csv", COMMAS + line + b"\n9,Mog,A cat\n")
    records = list(read_products(path))
    assert records[:3] == [*PRODUCTS, Fault("a.csv, line 4", reason)]
    assert records[-1] == Product("Mog", "A cat")
    assert len(records) == 4


def test_a_quote_never_closed_ends_in_a_fault(tmp_path: Path):
    path = written(tmp_path, "a.csv", COMMAS + b'3,"Bus,red\n4,Car,blue\n')
    assert list(read_products(path)) == [*PRODUCTS, Fault("a.csv, line 4", "not valid CSV")]


def test_the_process_keeps_its_own_csv_limit(tmp_path: Path):
    before = csv.field_size_limit()
    records = read_products(written(tmp_path, "a.csv", COMMAS + b"3," + b"x" * 500_000 + b",y\n"))
    next(records)
    assert csv.field_size_limit() == before
    assert len(list(records)) == 2
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.csv", "a.txt"])
def test_a_huge_line_is_a_fault_and_never_held(tmp_path: Path, name: str):
    path = tmp_path / name
    head, tail = (COMMAS, b"9,Car,x\n") if name == "a.csv" else (LINES, LINES)
    with gzip.open(path, "wb", 1) if name.endswith(".gz") else path.open("wb") as file:
        file.write(head)
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + tail)
    reader = read_titles if name == "a.txt" else read_products
    tracemalloc.start()
    records = list(reader(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    number = 4 if name == "a.csv" else 3
    assert records[2] == Fault(f"{name}, line {number}", "line too long")
    assert len(records) == (4 if name == "a.csv" else 5)
    assert not isinstance(records[-1], Fault)
    assert peak < 8 << 20


def test_a_line_of_just_the_limit_is_read(tmp_path: Path):
    longest = b"x" * sources.LINE_BYTES
    records = list(read_titles(written(tmp_path, "a.txt", longest + b"\n" + longest + b"x\nMog")))
    assert records == [longest.decode(), Fault("a.txt, line 2", "line too long"), "Mog"]


def test_a_missing_file_is_named_with_its_whole_path(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist") as error:
        read_products(Path("trn.json.gz"))
    assert str(tmp_path / "trn.json.gz") in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        read_titles(Path("titles.txt"))


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_products(tmp_path)


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path):
    path = written(tmp_path, "a.xlsx", b"x")
    message = refusal(read_products, path)
    for suffix in (".json", ".jsonl", ".json.gz", ".csv", ".tsv", ".parquet", ".zip"):
        assert suffix in message
    assert ".txt" not in message
    assert ".txt" in refusal(read_titles, path)
    assert "not supported" in refusal(read_products, written(tmp_path, "a.txt", b"Mog"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.txt", "a.tsv.gz"])
@pytest.mark.parametrize("data", [b"", b" \n\r\n\t \n"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, data: bytes):
    path = written(tmp_path, name, data)
    assert f"{path} is empty" in refusal(read_titles, path)


def test_a_file_without_records_is_refused(tmp_path: Path):
    assert "holds no record" in refusal(read_products, written(tmp_path, "a.json", b" [ ]"))
    assert "holds no record" in refusal(read_titles, written(tmp_path, "a.csv", b"title,content\n"))
    assert "is empty" in refusal(read_titles, written(tmp_path, "a.parquet", b""))


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_missing_columns_are_named_with_those_seen_and_the_option(tmp_path: Path, name: str):
    if name == "a.parquet":
        path = parquet(tmp_path, {"asin": ["1"], "name": ["Mog"], "content": ["A cat"]})
    elif name == "a.csv":
        path = written(tmp_path, name, b"asin,name,content\n1,Mog,A cat\n")
    else:
        path = written(tmp_path, name, b'{"asin": 1, "name": "Mog", "content": "A cat"}\n')
    message = refusal(read_products, path)
    assert message == (
        f"{path}: wanted a column 'title' with the title; the columns seen are "
        "asin, name, content. Name yours with --data.title_column."
    )
    message = refusal(read_products, path, description_column="text")
    assert "--data.title_column and --data.description_column" in message
    assert refusal(read_titles, path).endswith("Name yours with --data.title_column.")


def test_a_column_may_first_appear_in_the_hundredth_object(tmp_path: Path):
    other = b'{"name": "Mog"}\n'
    path = written(tmp_path, "a.jsonl", other * 99 + LINES)
    assert list(read_titles(path))[99:] == TITLES
    message = refusal(read_titles, written(tmp_path, "b.jsonl", other * 100 + LINES))
    assert "the columns seen are name." in message


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
@pytest.mark.parametrize(("text", "column"), [("Mog", "input"), ("", "instruction")])
def test_alpaca_rows_are_refused_with_the_options_to_use(
    tmp_path: Path, name: str, text: str, column: str
):
    row = {"instruction": "Describe", "input": text, "output": "A cat"}
    data = f"instruction,input,output\nDescribe,{text},A cat\n" if name == "a.csv" else str([row])
    path = written(tmp_path, name, data.replace("'", '"').encode())
    message = refusal(read_products, path)
    assert "look like Alpaca rows" in message
    assert f"use --data.title_column {column} --data.description_column output." in message
    assert refusal(read_titles, path).endswith(f"use --data.title_column {column}.")
    columns = {"title_column": column, "description_column": "output"}
    assert list(read_products(path, **columns)) == [Product(text or "Describe", "A cat")]


def test_a_parquet_column_of_numbers_is_refused(tmp_path: Path):
    message = refusal(read_products, parquet(tmp_path, {"title": [1, 2], "content": ["a", "b"]}))
    assert "wanted text in the column 'title', found int64" in message
    message = refusal(read_products, parquet(tmp_path, {"title": ["a"], "content": [["b"]]}))
    assert "wanted text in the column 'content', found list" in message


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path):
    message = refusal(read_products, written(tmp_path, "a.parquet", b"PAR1 no, not really PAR1"))
    assert "a.parquet is damaged or no Parquet file" in message


def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path):
    message = refusal(read_titles, written(tmp_path, "a.csv", b"t\xeftle,content\nMog,A cat\n"))
    assert "a.csv, line 1: the line that names the columns is not valid UTF-8" in message


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.txt"])
def test_utf16_is_named(tmp_path: Path, name: str):
    path = written(tmp_path, name, "title,content\nMog,A cat\n".encode("utf-16"))
    assert "UTF-16" in refusal(read_titles, path)


def many_lines() -> bytes:
    rows = ({"title": f"title {i}", "content": random.Random(i).random()} for i in range(20_000))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.json.gz", "cut"),
        ("a.json.gz", "flipped"),
        ("a.json.gz", "garbage behind"),
        ("a.zip", "cut"),
        ("a.zip", "flipped"),
    ],
)
def test_a_damaged_file_is_named_where_the_reader_meets_it(tmp_path: Path, name: str, damage: str):
    packed = bytearray(gzip.compress(many_lines()))
    if damage == "cut":
        del packed[len(packed) // 2 :]
    elif damage == "flipped":
        packed[-6] ^= 1  # in the check sum: every line is still good
    else:
        packed += b"<html>"
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("trn.json.gz", bytes(packed))
    else:
        path.write_bytes(packed)
    titles = []
    with pytest.raises(DataError, match="is damaged, cut short") as error:
        titles.extend(title for title in read_titles(path) if titles.append(title))
    assert str(path) in str(error.value)
    assert titles == [f"title {i}" for i in range(len(titles))]
    assert len(titles) > 5_000


def test_plain_text_that_is_called_gz_is_named(tmp_path: Path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(LINES)
    assert "Not a gzipped file" in refusal(read_products, path)


def test_a_fuzzed_file_keeps_every_good_row_in_order(tmp_path: Path):
    chance = random.Random(7)
    breaks = [
        lambda line: line[: chance.randrange(1, len(line) - 1)],
        lambda line: line[:14] + bytes([chance.choice([0, 0xC0, 0xFF, 0xED])]) + line[14:],
        lambda line: b"{" * chance.randrange(1, 5_000) + line,
        lambda line: bytes(chance.randrange(128, 256) for _ in range(40)),
        lambda line: line.replace(b'"title"', b'"tilte"'),
        lambda line: line[:14] + b"\\udfff" + line[14:],
    ]
    lines, wanted, num_bad = [], [], 0
    for number in range(10_000):
        product = Product(f"title {number}", "a\u2028b\r\n\x85\U0001f600"[: chance.randrange(9)])
        row = {"title": product.title, "content": product.description}
        line = json.dumps(row, ensure_ascii=chance.random() < 0.5).encode()
        if is_bad := chance.random() < 0.2:
            line = chance.choice(breaks)(line)
        num_bad += is_bad
        lines.append(line)
        wanted.append(None if is_bad else product)
    assert num_bad > 1_500
    records = list(read_products(written(tmp_path, "a.jsonl", b"\n".join(lines))))
    assert [None if isinstance(record, Fault) else record for record in records] == wanted
    assert [record.place for record in records if isinstance(record, Fault)] == [
        f"a.jsonl, line {number}" for number, product in enumerate(wanted, 1) if product is None
    ]


@pytest.mark.real
def test_the_real_rows_are_all_there(real_dir: Path):
    products = [row for row in read_products(real_dir / "trn.json.gz") if isinstance(row, Product)]
    assert len(products) == 9_023
    assert sum(bool(product.description.strip()) for product in products) == 8_462
    assert products[0].title == "Mog's Kittens"
    assert products[0].description.startswith("Judith Kerr&#8217;s best&#8211;selling")


@pytest.mark.real
def test_the_real_titles_are_all_there(real_dir: Path):
    titles = [title for title in read_titles(real_dir / "titles.txt") if isinstance(title, str)]
    assert len(titles) == 300
    assert titles[0].startswith("Spears 1406 Series PVC Tube Fitting")
    assert len(list(read_products(real_dir / "quirk_samples.jsonl"))) == 147
