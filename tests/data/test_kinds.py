"""What a file is told to be by how it begins, and what is refused for what it is."""

import zipfile
from pathlib import Path

import pytest

from amazon_desc.data.reading.files.kinds import foreign, refuse_foreign, table_of, text_suffix
from amazon_desc.data.reading.records import read_products, read_title_records
from amazon_desc.support.errors import DataError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
DRIVE = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>"
    b"<body>LF-Amazon-1.3M.raw.zip is too large for Google to scan for viruses.</body></html>"
)


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    ("name", "data", "what", "remedy"),
    [
        ("a.csv", POINTER, "a Git LFS pointer: the name of a file that", "Run `git lfs pull`"),
        ("a.parquet", POINTER, "a Git LFS pointer", "Run `git lfs pull`"),
        ("LF.raw.zip", DRIVE, "a page of the web (HTML)", "`gdown --fuzzy LINK`"),
        ("a.json.gz", DRIVE, "a page of the web (HTML)", "It is Google Drive's warning"),
        ("a.parquet", b"\n <html>Log in", "a page of the web (HTML)", "download that"),
        ("a.csv", b"\xef\xbb\xbf<HTML>", "a page of the web (HTML)", "open the link in a browser"),
        ("a.csv", b"%PDF-1.7\n%\xe2\xe3", "a PDF", "as CSV or JSON Lines"),
        (
            "a.xls",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0",
            "an Excel workbook of the old",
            "as CSV",
        ),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "an Excel workbook of the", ".xlsx"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "an image (PNG)", "Name the file of products"),
        ("a", b"\xff\xd8\xff\xe0\0\x10JFIF", "an image (JPEG)", "Name the file of products"),
        ("a.zip", b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive", "Unpack it"),
        ("a.zip", b"Rar!\x1a\x07\x01\0", "a RAR archive", "Unpack it"),
        ("a.json", b"SQLite format 3\0", "an SQLite database", "select * from TABLE"),
        ("a.pkl", b"\x80\x04\x95\x10\0\0\0", "a Python pickle", "Write it with pandas"),
        ("a.tar", bytes(257) + b"ustar\0" + bytes(200), "a tar archive", "tar -xf"),
        ("a.csv", b'<?xml version="1.0"?><rss>', "an XML file", "as CSV or JSON Lines"),
        ("a.feather", b"FEA1\0\0", "a Feather file of version 1", "to_parquet"),
    ],
)
def test_what_holds_no_products_is_named_for_what_it_is(
    tmp_path: Path, name: str, data: bytes, what: str, remedy: str
):
    path = written(tmp_path, name, data)
    for read in (read_products, read_title_records):
        with pytest.raises(DataError) as error:
            list(read(path))
        assert str(error.value).startswith(f"{path} is {what}")
        assert ", not a file of products. " in str(error.value)
        assert remedy in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"title,content\n",
        b'{"title": "<html>"}\n',
        b"<b>Mug</b>, red\n",
        b"version of a mug\n",
        b"PDF reader\n",
        b"GIF\n",
        b"ORCHID, white\n",
        b"Rar\n",
        b"PK\n",
        b"",
    ],
)
def test_what_may_hold_products_is_none_of_them(data: bytes):
    assert foreign(data) is None
    refuse_foreign("a.csv", data)


@pytest.mark.parametrize(
    ("name", "start", "table"),
    [
        ("a.csv", b"PAR1\x15\4", ".parquet"),
        ("a.parquet", b"noise", ".parquet"),
        ("a.parquet", b'{"title": "Mug"}', None),
        ("a.parquet", b"\x1f\x8b\x08", None),
        ("a.json", b"ARROW1\0\0", ".arrow"),
        ("data-00000-of-00001.arrow", b"\xff\xff\xff\xff\x58\4\0\0", ".arrow"),
        ("a.feather", b"x", ".arrow"),
        ("a.json", b"PK\x03\x04\x14\0", ".zip"),
        ("a.zip", b"noise", ".zip"),
        ("a.zip", b"[{", None),
        ("a.json", b"[{", None),
        ("a.csv", b"title", None),
    ],
)
def test_a_table_is_told_by_its_beginning_else_by_its_name(
    name: str, start: bytes, table: str | None
):
    assert table_of(name, start) == table


@pytest.mark.parametrize(
    ("name", "start", "suffix"),
    [
        ("a.csv", b"title,content\n", ".csv"),
        ("a.CSV.GZ", b"title\n", ".csv"),
        ("a.csv", b'{"title": "Mug"}', ".jsonl"),
        ("a.csv", b'{title},"x"', ".csv"),
        ("a.tsv", b'\xef\xbb\xbf [ {"title"', ".jsonl"),
        ("a.json", b"title,content\n", ".json"),
        ("a.ndjson", b'{"', ".ndjson"),
        ("a.txt", b'{"title": "Mug"}', ".txt"),
        ("part-00000", b'{"title": "Mug"}', ".jsonl"),
        ("part-00000", b"title,content", None),
        ("a.docx", b"words", None),
    ],
)
def test_text_is_what_it_is_called_unless_it_is_json(name: str, start: bytes, suffix: str | None):
    assert text_suffix(name, start) == suffix


def test_a_workbook_that_is_called_otherwise_is_named(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DataError, match=r"is an Excel workbook\. Name it \.xlsx"):
        list(read_products(tmp_path / "a.csv"))
