"""Reading: every record of every supported file is a Product or a Fault with its place."""

import csv
import gzip
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from amazon_desc.data.reading.files import sources
from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.records import (
    Fault,
    Product,
    read_products,
    read_title_records,
)
from amazon_desc.support.errors import DataError

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
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "data.parquet")
    return folder / "data.parquet"


def titles_of(path: Path, title_column: str = "title") -> Iterator[str | Fault]:
    """Yields the title of each record, or a Fault that says why there is none to write for."""
    for record in read_title_records(path, title_column):
        yield Fault(record.place, record.reason) if record.reason else record.title


def read_until_refused(path: Path) -> tuple[list[str | Fault], str]:
    """Returns the titles in front of what is refused, and how it is."""
    titles: list[str | Fault] = []
    with pytest.raises(DataError) as error:
        titles.extend(titles_of(path))
    return titles, str(error.value)


def refusal(read: Callable, path: Path, **columns: Any) -> str:
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
    assert list(titles_of(path)) == TITLES


def test_parquet_gives_the_same(tmp_path: Path):
    path = parquet(tmp_path, {"n": [1, 2], "title": TITLES, "content": ["A cat's tale.", None]})
    assert list(read_products(path)) == PRODUCTS
    assert list(titles_of(path)) == TITLES


def test_parquet_counts_over_its_batches(tmp_path: Path):
    texts = [f"title {number}" for number in range(3000)]
    path = parquet(tmp_path, {"title": [*texts, None], "content": [*texts, "x"]})
    assert list(titles_of(path)) == [
        *texts,
        Fault("data.parquet, record 3001", "title is empty"),
    ]


def test_parquet_text_that_is_no_text_is_a_fault(tmp_path: Path):
    import pyarrow

    raw = pyarrow.array([b"Mog", b"\xff\xfe", b"Car"], pyarrow.binary()).view(pyarrow.string())
    path = parquet(tmp_path, {"title": raw})
    assert list(titles_of(path)) == [
        "Mog",
        Fault("data.parquet, record 2", "not valid UTF-8"),
        "Car",
    ]


def test_parquet_text_that_is_longer_than_any_line_may_be_is_a_fault(tmp_path: Path):
    longest = "x" * sources.LINE_BYTES
    path = parquet(tmp_path, {"title": ["Mog", longest, longest + "x", "Car"]})
    fault = Fault("data.parquet, record 3", "text too long")
    assert list(titles_of(path)) == ["Mog", longest, fault, "Car"]


def test_the_data_sets_own_archive_is_read_in_place(tmp_path: Path):
    folder = "LF-Amazon-1.3M"
    members = {f"{folder}/": b"", f"{folder}/lbl.json.gz": b"{}", f"{folder}/trn.json.gz": LINES}
    path = zipped(tmp_path, members | {f"{folder}/tst.json.gz": b"{}"}, "LF-Amazon-1.3M.raw.zip")
    assert list(read_products(path)) == PRODUCTS
    assert list(titles_of(path)) == TITLES
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


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_would_unpack_without_a_bound_is_refused(tmp_path: Path, kind: int):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        archive.writestr("trn.json", LINES)
    message = refusal(read_products, tmp_path / "a.zip")
    assert "a.zip: wanted members packed with deflate" in message
    assert "Unpack it and name the file" in message


def test_an_archive_in_an_archive_is_not_unpacked(tmp_path: Path):
    zipped(tmp_path, {"trn.json": LINES}, "inner.zip")
    path = zipped(tmp_path, {"inner.zip": (tmp_path / "inner.zip").read_bytes()})
    assert "found inner.zip" in refusal(read_products, path)


def test_a_file_that_is_no_archive_is_named(tmp_path: Path):
    message = refusal(read_products, written(tmp_path, "data.zip", b"not a zip"))
    assert "data.zip is damaged" in message
    assert "not a zip file" in message


def test_other_columns_are_read_by_name(tmp_path: Path):
    path = written(tmp_path, "a.csv", b"name,text,title\nMog,A cat,x\n")
    columns = {"title_column": "name", "description_column": "text"}
    assert list(read_products(path, **columns)) == [Product("Mog", "A cat")]
    assert list(titles_of(path, title_column="name")) == ["Mog"]


def test_only_a_line_feed_ends_a_line(tmp_path: Path):
    title = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    row = json.dumps({"title": title, "content": title + "\r"}, ensure_ascii=False)
    path = written(tmp_path, "a.jsonl", f"{row}\r\n{row}".encode())
    assert list(read_products(path)) == [Product(title, title + "\r")] * 2
    path = written(tmp_path, "a.csv", f'title,content\n{title},"x\ry"\n'.encode())
    assert list(read_products(path)) == [Product(title, "x\ry")]
    path = written(tmp_path, "a.txt", f"{title}\rh\r\n{title}\n".encode())
    assert list(titles_of(path)) == [f"{title}\rh", title]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"title": "Mog", "content": "A cat', "not valid JSON"),
        (b'{"title": "Mog", "content": "\\ud800"}', "not valid JSON"),
        (b'{"title": "Mog", "content": "a\0b"}', "not valid JSON"),
        (b'{"title": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"title": "Mog", "content": "\xff"}', "not valid UTF-8"),
        (b"\0", "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'"Mog"', "not a JSON object"),
        (b'{"title": ["Mog"], "content": "A cat"}', "title is not text"),
        (b'{"title": {"en": "Mog"}, "content": "A cat"}', "title is not text"),
        (b'{"title": "Mog", "content": {"en": "A cat"}}', "description is not text"),
        (b'{"title": "Mog", "content": [["A"], "cat"]}', "description is not text"),
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


def test_an_arrays_records_are_told_by_number(tmp_path: Path):
    path = written(tmp_path, "a.json", b'[{"title": "Mog", "content": "A cat"},\n3, {"title": {}}]')
    assert list(read_products(path)) == [
        Product("Mog", "A cat"),
        Fault("a.json, record 2", "not a JSON object"),
        Fault("a.json, record 3", "title is not text"),
    ]


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (ARRAY[:-3], 2),
        (ARRAY + b"{}", 3),
        (ARRAY[:-1] + b",]", 3),
        (ARRAY[:-1] + b", {}", 3),
        (ARRAY.replace(b"},", b"}"), 1),
        (b"[" + b"[" * 100_000, 1),
        (b'["' + b"x" * sources.LINE_BYTES + b'"]', 1),
    ],
    ids=["cut", "more behind", "comma", "open", "no comma", "nested", "too long"],
)
def test_an_array_whose_records_run_together_names_the_place_and_the_way_out(
    tmp_path: Path, data: bytes, number: int
):
    titles, message = read_until_refused(written(tmp_path, "a.json", data))
    assert f"a.json is not a valid JSON array: it breaks at record {number}, or" in message
    assert "Write one object a line instead" in message
    assert titles == TITLES[: number - 1]


@pytest.mark.parametrize("buffer_bytes", [1, 2, 3, 50, 1_000])
@pytest.mark.parametrize("indent", [None, 0, 7])
def test_an_array_is_read_in_parts_that_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int, indent: int | None
):
    """In a number, in a character of several bytes, between a record and its comma."""
    monkeypatch.setattr("amazon_desc.data.reading.json.elements.BUFFER_BYTES", buffer_bytes)
    titles = ['\u00e9]\u2028\U0001f600, \\"' * number for number in range(1, 12)]
    rows = [{"n": [10**n, -1.5e9], "title": title} for n, title in enumerate(titles)]
    data = json.dumps([*rows, 12345], indent=indent, ensure_ascii=False).encode()
    fault = Fault("a.json, record 12", "not a JSON object")
    assert list(titles_of(written(tmp_path, "a.json", data + b"\n "))) == [*titles, fault]


def test_a_list_in_the_first_line_makes_no_array_of_a_file_of_lines(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", b'["a", "list"]\r\n' + LINES)
    assert list(titles_of(path)) == [Fault("a.jsonl, line 1", "not a JSON object"), *TITLES]
    path = written(tmp_path, "a.jsonl", json.dumps([MOG, CAR]).encode() + b"\n\n")
    assert list(titles_of(path)) == TITLES


def test_csv_fields_may_hold_commas_quotes_and_lines(tmp_path: Path):
    data = b'title,content\n"Mog, ""the"" cat","A\r\ncat\n\ntale"\n6" pipe,x\n\nCar,y\n'
    faulty = data + b"Bus\n"
    assert list(read_products(written(tmp_path, "a.csv", faulty))) == [
        Product('Mog, "the" cat', "A\ncat\n\ntale"),
        Product('6" pipe', "x"),
        Product("Car", "y"),
        Product("Bus", ""),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"3,Bus,red, blue", "more fields than columns"),
        (b"3,B\xffs,red", "not valid UTF-8"),
        (b'3,Bus,"red\n\xff\nblue"', "not valid UTF-8"),
        (b"3,B\0s,red", "NUL character"),
        (b'3,Bus,"red" blue', "not valid CSV"),
        (b"3,Bus," + b"x" * (1 << 20), "line too long"),
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


@pytest.mark.parametrize(
    "line", [b'3,"Bus,red', b'"3,Bus,red', b'3,Bus,"', b'3,Bus,"a ""red"" one']
)
@pytest.mark.parametrize(
    "end",
    [
        b"",  # of the file
        b'6,"Bag",one\n',
        b'6,Bag,"one\ntwo"\n',
        b'6,12" bag,one\n',
        b"6,Bag,one\n" * 200,  # more than a record may hold
    ],
    ids=["file", "quotes", "lines", "inch", "far"],
)
def test_a_quote_never_closed_costs_its_own_line_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, end: bytes
):
    """The good lines behind it are at first taken for the rest of its text."""
    monkeypatch.setattr("amazon_desc.data.reading.tables.delimited.LINE_BYTES", 1_000)
    lines = [line, b"4,Car,blue", b"5,Mug,red", *end.splitlines()]
    good = [("Car", "blue"), ("Mug", "red"), *csv_pairs(end)]
    data = COMMAS + b"\n".join(lines) + b"\n"
    records = list(read_products(written(tmp_path, "a.csv", data)))
    assert records[:3] == [*PRODUCTS, Fault("a.csv, line 4", "quote not closed")]
    products = [record for record in records[3:] if isinstance(record, Product)]
    assert products[0].place == "a.csv, line 5"
    assert [(p.title, p.description) for p in products] == good
    assert len(records) == 3 + len(products)


def csv_pairs(data: bytes) -> list[tuple[str, str]]:
    return [(row[1], row[2]) for row in csv.reader(data.decode().splitlines(keepends=True))]


TITLES_IN_TABS = b"title\tcontent\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Mug", '"Great product'),
        ("Mug", '"Great" product, said Mary.'),
        ('"Great" mug', "of clay"),
        ('"Great" mug', 'of "clay"'),
        ("Mug", 'A 12" mug'),
        ("Mug", '"'),
        ("Mug", '"Great product"'),
    ],
)
def test_a_quote_in_tsv_is_a_character_like_any(tmp_path: Path, name: str, first: str, second: str):
    data = f'{first}\t{second}\nCup\tNice, warm\nPot\t12"\n' * 2
    path = written(tmp_path, name, TITLES_IN_TABS + data.encode())
    rows = [Product(first, second), Product("Cup", "Nice, warm"), Product("Pot", '12"')]
    assert list(read_products(path)) == rows * 2


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ('"title"\t"content"\n"Mug"\t"A mug."\n', [("Mug", "A mug.")]),
        ('title\tcontent\nMug\t"A ""great"" mug"\n', [("Mug", 'A "great" mug')]),
        ('title\tcontent\nMug\t"A mug.\nOf clay."\n', [("Mug", "A mug.\nOf clay.")]),
        ('title\tcontent\nMug\t"A mug.\tOf clay."\n', [("Mug", "A mug.\tOf clay.")]),
        (
            'title\tcontent\r\n"Mug, red"\t"Soft, warm"\r\nCup\tA cup\r\n',
            [("Mug, red", "Soft, warm"), ("Cup", "A cup")],
        ),
        (
            'title\tcontent\n"Bus\tred\nMug\t"A ""great"" mug"\nCup\t"Of\n""clay"""\nPot\tx\n',
            ["quote not closed", ("Mug", 'A "great" mug'), ("Cup", 'Of\n"clay"'), ("Pot", "x")],
        ),
    ],
    ids=["all", "doubled", "lines", "tab", "Excel", "with a bad line"],
)
def test_tsv_that_clearly_quotes_is_read_as_quoted(tmp_path: Path, data: str, wanted: list):
    found = list(read_products(written(tmp_path, "a.tsv", data.encode())))
    assert [
        record.reason if isinstance(record, Fault) else (record.title, record.description)
        for record in found
    ] == wanted


def test_a_field_that_doubles_quotes_is_quoted_in_any_tsv(tmp_path: Path):
    data = TITLES_IN_TABS + b'"Loose mug\tx\n"Loose\ty\nCup\t"A ""great"" cup"\n'
    wanted = [Product('"Loose mug', "x"), Product('"Loose', "y"), Product("Cup", 'A "great" cup')]
    assert list(read_products(written(tmp_path, "a.tsv", data))) == wanted


@pytest.mark.parametrize(
    ("data", "noted"),
    [
        ('title,content\nMug,"Great\nCup,Nice\nPot,12"\n', (1, "a.csv, line 2", 3)),
        ('uid,title,content\n1,Mug,"Great\n2,Cup,12"\n', (1, "a.csv, line 2", 2)),
        (
            'title,content\nMug,"' + "A\n" * 21 + '"\nCup,"' + "B\n" * 40 + '"\n',
            (2, "a.csv, line 24", 41),
        ),
        ('title,content\nMug,"' + "A\n" * 19 + '"\n', (0, "", 0)),
        ('title,content\nMug,"Soft,\nwarm, light"\n', (0, "", 0)),
        ('uid,title,content\n1,Mug,"Soft,\nwarm.\nA, b, c"\n', (0, "", 0)),
        ('content\n"A\nmug"\n', (0, "", 0)),
    ],
)
def test_a_csv_record_that_may_hold_others_is_noted(tmp_path: Path, data: str, noted: tuple):
    meter = Meter()
    path = written(tmp_path, "a.csv", data.encode())
    title = "title" if "title" in data else "content"
    assert len(list(read_products(path, title, "content", meter=meter))) > 0
    found = meter.long_records
    assert (found.num, found.place, found.num_lines) == noted


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_two_columns_of_the_name_that_is_asked_for_are_refused(tmp_path: Path, name: str):
    names = ["title", "content", "x", "x", "content"]
    if name == "a.parquet":
        table = pyarrow.Table.from_arrays([pyarrow.array(["Mog"])] * 5, names=names)
        pyarrow.parquet.write_table(table, tmp_path / name)
    else:
        lines = [names, ["Mog"] * 5]
        mark = "," if name == "a.csv" else "\t"
        written(tmp_path, name, "".join(mark.join(line) + "\n" for line in lines).encode())
    message = refusal(read_products, tmp_path / name)
    assert name in message
    assert "wanted one column 'content', found 2" in message
    assert "give the others another name" in message
    assert list(titles_of(tmp_path / name)) == ["Mog"]


def test_lines_in_closed_quotes_are_text_whatever_they_look_like(tmp_path: Path):
    path = written(tmp_path, "a.csv", COMMAS + b'3,Bus,"red\n4,Car,blue\n"\n5,Mug,green\n')
    wanted = [Product("Bus", "red\n4,Car,blue\n"), Product("Mug", "green")]
    assert list(read_products(path)) == [*PRODUCTS, *wanted]


def test_a_carriage_return_ends_no_csv_line_within_quotes_or_without(tmp_path: Path):
    data = b'title,content\r\r\nMo\rg,"a\rb"\r\n\rCar\r\r,\ro\r"n"\re\r\n'
    wanted = [Product("Mo\rg", "a\rb"), Product("\rCar\r\r", '\ro\r"n"\re')]
    assert list(read_products(written(tmp_path, "a.csv", data))) == wanted


def test_the_process_keeps_its_own_csv_limit(tmp_path: Path):
    before = csv.field_size_limit()
    records = read_products(written(tmp_path, "a.csv", COMMAS + b"3," + b"x" * 500_000 + b",y\n"))
    next(records)
    assert csv.field_size_limit() == before
    assert len(list(records)) == 2
    assert csv.field_size_limit() == before


def test_a_line_of_just_the_limit_is_read(tmp_path: Path):
    longest = b"x" * sources.LINE_BYTES
    records = list(titles_of(written(tmp_path, "a.txt", longest + b"\n" + longest + b"x\nMog")))
    assert records == [longest.decode(), Fault("a.txt, line 2", "line too long"), "Mog"]


def test_a_missing_file_is_named_with_its_whole_path(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist") as error:
        read_products(Path("trn.json.gz"))
    assert str(tmp_path / "trn.json.gz") in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        read_title_records(Path("titles.txt"))


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_products(tmp_path)


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path):
    path = written(tmp_path, "a.docx", b"x")
    message = refusal(read_products, path)
    for suffix in (".json", ".jsonl", ".json.gz", ".csv", ".tsv", ".parquet", ".zip", ".xlsx"):
        assert suffix in message
    assert ".txt" not in message
    assert ".txt" in refusal(titles_of, path)
    assert "not supported" in refusal(read_products, written(tmp_path, "a.txt", b"Mog"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.tsv.gz"])
@pytest.mark.parametrize("data", [b"", b" \n\r\n\t \n"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, data: bytes):
    path = written(tmp_path, name, data)
    assert f"{path} is empty" in refusal(titles_of, path)


def test_a_file_without_records_is_refused(tmp_path: Path):
    assert "holds no record" in refusal(read_products, written(tmp_path, "a.json", b" [ ]"))
    assert "holds no record" in refusal(titles_of, written(tmp_path, "a.csv", b"title,content\n"))
    assert "is empty" in refusal(titles_of, written(tmp_path, "a.parquet", b""))


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_missing_columns_are_named_with_those_seen_and_the_option(tmp_path: Path, name: str):
    if name == "a.parquet":
        path = parquet(tmp_path, {"asin": ["1"], "label": ["Mog"], "content": ["A cat"]})
    elif name == "a.csv":
        path = written(tmp_path, name, b"asin,label,content\n1,Mog,A cat\n")
    else:
        path = written(tmp_path, name, b'{"asin": 1, "label": "Mog", "content": "A cat"}\n')
    message = refusal(read_products, path)
    assert message == (
        f"{path}: wanted a column 'title' with the title; the columns seen are "
        "asin, label, content. Name yours with --data.title_column."
    )
    message = refusal(read_products, path, description_column="text")
    assert message.endswith(
        "The description is likely meant by --data.description_column content; "
        "name yours with --data.title_column."
    )
    assert refusal(titles_of, path).endswith("Name yours with --data.title_column.")


def test_a_column_may_first_appear_in_the_hundredth_object(tmp_path: Path):
    other = b'{"label": "Mog"}\n'
    path = written(tmp_path, "a.jsonl", other * 99 + LINES)
    assert list(titles_of(path))[99:] == TITLES
    message = refusal(titles_of, written(tmp_path, "b.jsonl", other * 100 + LINES))
    assert "the columns seen are label." in message


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
    assert refusal(titles_of, path).endswith(f"use --data.title_column {column}.")
    columns = {"title_column": column, "description_column": "output"}
    assert list(read_products(path, **columns)) == [Product(text or "Describe", "A cat")]


@pytest.mark.parametrize(
    ("values", "kind", "remedy"),
    [
        ([b"a"], "binary", "Choose another column, or write this one as strings."),
        ([{"en": "a"}], "struct<en: string>", "or a part of this one (content.en), or write"),
        ([[{"en": "a"}]], "list<element: struct<en: string>>", "Choose another column, or write"),
        ([[b"a"]], "list<element: binary>", "Choose another column, or write"),
    ],
)
def test_a_parquet_column_that_cannot_become_text_is_refused_at_once(
    tmp_path: Path, values: list, kind: str, remedy: str
):
    path = parquet(tmp_path, {"title": ["a"], "content": values})
    message = refusal(read_products, path)
    assert f"{path}: wanted text in the column 'content', found {kind}. " in message
    assert remedy in message


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path):
    message = refusal(read_products, written(tmp_path, "a.parquet", b"PAR1 no, not really PAR1"))
    assert "a.parquet is damaged or no Parquet file" in message


def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path):
    message = refusal(titles_of, written(tmp_path, "a.csv", b"t\xfftle,content\nMog,A cat\n"))
    assert (
        "a.csv, line 1: the line that names the columns cannot be read: not valid UTF-8" in message
    )


@cache
def many_rows(name: str) -> bytes:
    rows = [{"title": f"title {i}", "content": random.Random(i).random()} for i in range(20_000)]
    if name.startswith("array"):
        return json.dumps(rows).encode()
    if "json" in name:
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    lines = ["title,content", *(f"{row['title']},{row['content']}" for row in rows)]
    text = "\n".join(lines) + "\n"
    return (text.replace(",", "\t") if "tsv" in name else text).encode()


def damaged(packed: bytes, damage: str) -> bytes:
    changed = bytearray(packed)
    if damage == "changed":
        changed[len(packed) // 2] ^= 1
    elif damage == "check sum":  # every line is still good
        changed[-6] ^= 1
    elif damage == "CRC of the archive":
        changed[packed.index(b"PK\1\2") + 16] ^= 1
    return {
        "cut": packed[: len(packed) // 2],
        "cut by a byte": packed[:-1],
        "garbage behind": packed + b"<html>",
    }.get(damage, bytes(changed))


@pytest.mark.parametrize(
    "damage", ["cut", "cut by a byte", "changed", "check sum", "garbage behind"]
)
@pytest.mark.parametrize("name", ["a.json.gz", "array.json.gz", "a.csv.gz", "a.tsv.gz", "a.zip"])
def test_a_damaged_file_is_named_where_the_reader_meets_it(tmp_path: Path, name: str, damage: str):
    """Of .zip the archive is whole, and the .gz in it is not."""
    packed = damaged(gzip.compress(many_rows(name.replace(".zip", ".json"))), damage)
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("trn.json.gz", packed)
    else:
        path.write_bytes(packed)
    titles, message = read_until_refused(path)
    assert f"{path} is damaged, cut short or cannot be read" in message
    assert len(titles) > 5_000
    if damage != "changed":  # what was changed is noticed at the end
        assert titles == [f"title {i}" for i in range(len(titles))]


@pytest.mark.parametrize("damage", ["cut", "cut by a byte", "changed", "CRC of the archive"])
@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("member", ["trn.json.gz", "a.csv"])
def test_a_damaged_archive_is_named(tmp_path: Path, member: str, kind: int, damage: str):
    rows = many_rows(member)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(member, gzip.compress(rows) if member.endswith(".gz") else rows)
    path.write_bytes(damaged(path.read_bytes(), damage))
    titles, message = read_until_refused(path)
    assert f"{path} is damaged, cut short or cannot be read" in message
    if damage == "CRC of the archive":  # every line is still good
        assert titles == [f"title {i}" for i in range(len(titles))]
        assert len(titles) > 15_000


def small_files(folder: Path) -> list[Path]:
    """Files in which every byte can be damaged, one after the other."""
    rows = [{"title": f"mug {n}", "content": f"It holds {n * n}."} for n in range(20)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    files = [written(folder, "a.json.gz", lines)]
    with zipfile.ZipFile(folder / "stored.zip", "w") as archive:
        archive.writestr("shop/trn.json.gz", gzip.compress(lines))
    with zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("café.jsonl", lines)  # a name in UTF-8, which may be damaged too
    return [*files, folder / "stored.zip", folder / "deflated.zip"]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    table = parquet(tmp_path, {"title": ["Mog", "Car"] * 50, "content": ["A cat", None] * 50})
    for path in [*small_files(tmp_path), table]:
        whole = path.read_bytes()
        assert len(list(titles_of(path))) >= 20
        for length in range(0, len(whole), 1 if path != table else 5):
            path.write_bytes(whole[:length])
            message = refusal(titles_of, path)
            assert f"{path} is " in message
            assert "Copy or download it again" in message


def test_a_byte_changed_anywhere_is_noticed_or_changes_nothing(tmp_path: Path):
    """It changes nothing in the time of packing, or in what the system was called."""
    for path in small_files(tmp_path):
        whole, titles = path.read_bytes(), list(titles_of(path))
        num_refused = 0
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 0xFF
            path.write_bytes(changed)
            try:
                found = list(titles_of(path))
            except DataError:
                num_refused += 1
            else:
                assert found == titles
        assert num_refused > 0.7 * len(whole)


def test_a_changed_page_of_parquet_is_noticed_where_it_has_a_check_sum(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    columns = {"title": [f"title {n}" for n in range(1_000)]}
    pyarrow.parquet.write_table(
        pyarrow.table(columns), path, write_page_checksum=True, compression="none"
    )
    assert len(list(titles_of(path))) == 1_000
    path.write_bytes(path.read_bytes().replace(b"title 500", b"title 50O", 1))
    assert f"{path} is damaged or no Parquet file" in refusal(titles_of, path)


@pytest.mark.real
def test_the_real_rows_are_all_there(real_dir: Path):
    products = [row for row in read_products(real_dir / "trn.json.gz") if isinstance(row, Product)]
    assert len(products) == 9_023
    assert sum(bool(product.description.strip()) for product in products) == 8_462
    assert products[0].title == "Mog's Kittens"
    assert products[0].description.startswith("Judith Kerr&#8217;s best&#8211;selling")


@pytest.mark.real
def test_the_real_titles_are_all_there(real_dir: Path):
    titles = [title for title in titles_of(real_dir / "titles.txt") if isinstance(title, str)]
    assert len(titles) == 300
    assert titles[0].startswith("Spears 1406 Series PVC Tube Fitting")
    assert len(list(read_products(real_dir / "quirk_samples.jsonl"))) == 147
