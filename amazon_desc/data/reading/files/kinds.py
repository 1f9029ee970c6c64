"""How a file begins -> what it is, whatever it is called.

In come the first bytes and a name, out goes a suffix that a reader knows, or DataError with the
right remedy for what is no file of products at all: a pointer of Git LFS, a page of the web, a PDF.
What stands in the records is not known here.
"""

import re
from typing import NamedTuple

from amazon_desc.data.reading.files.packing import PACKED, packing_of, without_packing
from amazon_desc.support.errors import DataError

START_BYTES = 1 << 12  # of a file, to tell what it is
SHORTEST_PACKED = 10  # bytes: by fewer bzip2 cannot be told from text

PACKABLE = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
TABLES = (".parquet", ".arrow")
SHEETS = (".xlsx", ".xlsm", ".ods")  # which are archives, too
OLD_SHEETS = (".xls", ".xlsb")
SUPPORTED = (*PACKABLE, *TABLES, *SHEETS, ".zip")
TEXTS = (*PACKABLE, ".txt")

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ARROW_STREAM = b"\xff\xff\xff\xff"
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\{\s*(?:"[^"\n]*"\s*:|\})|\[\s*[\[{\]"])')
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
# What no text has, but for a NUL that has strayed into it.
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")


class Foreign(NamedTuple):
    """What is no file of products."""

    beginning: bytes
    what: str
    remedy: str


_SAVE = "Save the table as CSV in UTF-8, or as .xlsx, and name that."
FOREIGN = (
    Foreign(
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer: the name of a file that was not fetched",
        "Run `git lfs pull` in its folder, or download the file itself.",
    ),
    Foreign(b"%PDF-", "a PDF", "Write the products as CSV or JSON Lines."),
    Foreign(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook of the old kind (.xls)", _SAVE),
    Foreign(b"\x89PNG\r\n", "an image (PNG)", "Name the file of products."),
    Foreign(b"\xff\xd8\xff", "an image (JPEG)", "Name the file of products."),
    Foreign(b"GIF8", "an image (GIF)", "Name the file of products."),
    Foreign(b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and name the file you mean."),
    Foreign(b"Rar!\x1a\x07", "a RAR archive", "Unpack it and name the file you mean."),
    Foreign(
        b"SQLite format 3\0",
        "an SQLite database",
        "Export the table: sqlite3 -header -csv FILE 'select * from TABLE' > products.csv",
    ),
    Foreign(b"\x80\x04\x95", "a Python pickle", "Write it with pandas: to_parquet or to_csv."),
    Foreign(b"ORC", "an ORC file", "Write it as Parquet."),
    Foreign(b"Obj\x01", "an Avro file", "Write it as Parquet or JSON Lines."),
    Foreign(b"FEA1", "a Feather file of version 1", "Write it anew with pandas: to_parquet."),
    Foreign(b"\x89HDF\r\n", "an HDF5 file", "Write it with pandas: to_parquet."),
    Foreign(b"<?xml", "an XML file", "Write its products as CSV or JSON Lines."),
    Foreign(b"<rss", "an XML feed", "Write its products as CSV or JSON Lines."),
)
_DRIVE = (
    "It is Google Drive's warning that the file is too large to be looked through: open the link "
    "in a browser and confirm it, or use `gdown --fuzzy LINK`."
)
_NOT_THE_FILE = "It was saved in place of the file: open the link in a browser, and download that."


def foreign(start: bytes) -> tuple[str, str] | None:
    """Returns what a file is that cannot hold products, and the remedy; None: it may hold some.

    b"%PDF-1.7" -> ("a PDF", "Write the products as CSV or JSON Lines.")
    """
    text = start.removeprefix(b"\xef\xbb\xbf")
    for of in FOREIGN:
        if text.startswith(of.beginning) and (of.beginning != b"ORC" or b"\0" in start[:64]):
            return of.what, of.remedy
    if start[257:262] == b"ustar":
        return "a tar archive", "Unpack it (tar -xf) and name the file you mean."
    if _PAGE.match(start):
        is_drive = b"Google Drive" in start or b"drive.google" in start
        return "a page of the web (HTML)", _DRIVE if is_drive else _NOT_THE_FILE
    return None


def refuse_foreign(name: str, start: bytes) -> None:
    """Refuses what can hold no products, by what it is.

    Raises:
        DataError: with the remedy that is right for it.
    """
    if found := foreign(start):
        what, remedy = found
        raise DataError(f"{name} is {what}, not a file of products. {remedy}")


def table_of(name: str, start: bytes) -> str | None:
    """Returns .parquet, .arrow, .zip or that of a spreadsheet: where it has to be read by place.

    A file that begins as none of them is what it is called, unless it shows that it is another.
    """
    if start.startswith(b"PAR1"):
        return ".parquet"
    if start.startswith((b"ARROW1", _ARROW_STREAM)):
        return ".arrow"
    lowered = name.lower()
    if start.startswith(ZIP):
        return next((suffix for suffix in SHEETS if lowered.endswith(suffix)), ".zip")
    for suffix in (*TABLES, *SHEETS, ".zip"):
        if lowered.endswith((suffix, ".feather") if suffix == ".arrow" else suffix):
            is_other = packing_of(start) or _JSON.match(start) or foreign(start)
            return None if is_other else suffix
    return None


def text_suffix(name: str, start: bytes) -> str | None:
    """Returns which kind of text it is that starts like this; None: nothing tells it.

    a.csv, b"title,content\\n"  -> .csv
    a.csv, b'{"title": "Mug"'   -> .jsonl
    part-00000, b'{"title": ..' -> .jsonl
    """
    plain = without_packing(name)
    suffix = next((suffix for suffix in TEXTS if plain.endswith(suffix)), None)
    if suffix in (".txt", ".json", ".jsonl", ".ndjson"):
        return suffix
    return ".jsonl" if _JSON.match(start) else suffix


def is_called_packed(name: str) -> bool:
    return name.lower().endswith(PACKED)


def is_binary(start: bytes) -> bool:
    """Says whether no text starts like this."""
    return bool(_CONTROL.search(start)) or start.count(0) > len(start) / 2
