"""Fuzzed files: in every format each good record is there, in order, and each bad one is named.

Ten thousand records a file, of which every fifth is bad in one of many ways, and the good ones hold
what few expect. What is read of a single bad record is in test_records.py.
"""

import gzip
import json
import random
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.data.corpus import product_files as reading
from amazon_desc.data.corpus.tables import open_table
from amazon_desc.data.reading.files.sources import LINE_BYTES
from amazon_desc.data.reading.records import Fault, Product, read_products, read_title_records
from amazon_desc.support.errors import DataError
from tests.data.test_corpus import folders, prepare, settings_of

NUM_RECORDS = 10_000
TOO_LONG = (5_000, 5_001, 8_000)  # the numbers of those that are longer than any may be

# What may stand in a good text, and a letter behind it: white space at the end is nobody's.
ODD = (
    *("", "", "", "\u2028", "\u2029", "\x85", "\x0b\x0c", "\x1c", "\r", "\n", "\t", "\ufeff"),
    *(",", '"', "\\", "</s>", "é", "\U0001f600", "\u200b"),
)
NOT_JSON, NOT_UTF8 = "not valid JSON", "not valid UTF-8"


class Record(NamedTuple):
    """A record as it is written, and what is to be read there: a product, a reason or nothing."""

    data: bytes
    wanted: Product | str | None


class Damage(NamedTuple):
    """What makes a good line bad, and the reason that is to be given."""

    make: Callable[[bytes], bytes]
    reason: str


# Damages


def instead(*lines: bytes, reason: str) -> list[Damage]:
    return [Damage(lambda _, bad=bad: bad, reason) for bad in lines]


def in_front(*parts: bytes, reason: str) -> list[Damage]:
    return [Damage(lambda line, bad=bad: bad + line, reason) for bad in parts]


def in_title(*parts: bytes, reason: str) -> list[Damage]:
    start = b'{"title": "'
    return [Damage(lambda line, bad=bad: start + bad + line[len(start) :], reason) for bad in parts]


def beside(*numbers: bytes, reason: str) -> list[Damage]:
    """In a column that nobody asked for."""
    return [Damage(lambda line, bad=bad: line[:-1] + b',"x":%s}' % bad, reason) for bad in numbers]


def cut(*lengths: int, reason: str) -> list[Damage]:
    return [Damage(lambda line, length=length: line[:length], reason) for length in lengths]


BYTES_NOT_UTF8 = (b"\xff", b"caf\xe9 ", b"\x93so\x94", b"\xed\xa0\x80", b"\xc0\x80", b"\xf0\x9f")
BAD_OBJECTS = [  # where each ends is still to be seen, so in an array it costs no other
    *in_title(b"\0", b"\\ud800", b"\\udfff x", b"\t", reason=NOT_JSON),
    *in_title(*BYTES_NOT_UTF8, reason=NOT_UTF8),
    *beside(b"1e400", b"1" * 5_000, reason=NOT_JSON),
    *instead(b"[1, 2]", b'"Mog"', b"12", b"null", b"[]", reason="not a JSON object"),
    *instead(b'{"title": {}, "content": "A"}', b'{"title": ["Mog"]}', reason="title is not text"),
    *instead(b'{"title": "Mog", "content": {}}', reason="description is not text"),
]
BAD_LINES = [
    *BAD_OBJECTS,
    *in_title(b"\\x", b'" "', reason=NOT_JSON),
    *in_front(b"\xef\xbb\xbf", b"\0", b"{}, ", reason=NOT_JSON),
    *cut(1, 5, 10, 12, -1, reason=NOT_JSON),
    *instead(b"\0" * 40, b'{"title": ' + b"[" * 10_000, b'{"a":' * 10_000, reason=NOT_JSON),
    *instead(bytes(range(128, 256)), "Mog".encode("utf-16"), reason=NOT_UTF8),
]
BAD_ROWS = [
    *instead(b"7,Mog,A cat,", b'7,Mog,"A cat",it,is', reason="more fields than columns"),
    *instead(b"7,Mo\0g,A cat", b"\0" * 40, reason="NUL character"),
    *instead(*(b"7,%sMog,A cat" % bad for bad in BYTES_NOT_UTF8), reason=NOT_UTF8),
    *instead(b'7,"Mog" the,A cat', b'7,Mog,"A "fat" cat"', reason="not valid CSV"),
    *instead(b'7,"Mog,A cat', b'7,Mog,"A ""cat', b'"7,Mog,A cat', reason="quote not closed"),
]
BAD_TITLES = [
    *instead(b"", b" \t", "\u2028".encode(), reason="title is empty"),
    *in_front(*BYTES_NOT_UTF8, reason=NOT_UTF8),
]


# Good records


def json_line(product: Product) -> bytes:
    row = {"title": product.title, "content": product.description}
    return json.dumps(row, ensure_ascii=len(product.title) % 2 == 0).encode()


def csv_line(delimiter: str, product: Product) -> bytes:
    """Quotes are where they must be, and elsewhere; within a bare text they are themselves."""
    fields = []
    for text in ("7", product.title, product.description):
        is_quoted = delimiter in text or "\n" in text or len(text) % 3 == 0
        fields.append('"' + text.replace('"', '""') + '"' if is_quoted else text)
    return delimiter.join(fields).encode()


def title_line(product: Product) -> bytes:
    return product.title.replace("\n", "").encode()


def title_cell(product: Product) -> bytes:
    return product.title.encode()


def as_it_is(line: bytes) -> bytes:
    return line


def with_return(line: bytes) -> bytes:
    return line + b"\r"


GOOD_LINES = [
    as_it_is,
    with_return,
    lambda line: b" \t" + line,
    lambda line: line[:-1] + b', "x": NaN, "y": [Infinity, -Infinity]}',
    lambda line: b'{"title": "Old", "content": 3, ' + line[1:],  # of equal keys the last counts
    lambda line: line[:-1] + b', "x": [1e300, -0.0, {"y": null}, 18446744073709551615]}',
]
GOOD_ROWS = [as_it_is, with_return, lambda row: row + b"\r\r", lambda row: b"\xef\xbb\xbf" + row]
BAD_TABS = [Damage(lambda _, d=d: d.make(b"").replace(b",", b"\t"), d.reason) for d in BAD_ROWS]

# What the first part of a file's name says: how a product is written, what else is as good, and
# what is bad.
FORMS: dict[str, tuple[Callable[[Product], bytes], list, list[Damage]]] = {
    "lines": (json_line, GOOD_LINES, BAD_LINES),
    "array": (json_line, GOOD_LINES, BAD_OBJECTS),
    "commas": (partial(csv_line, ","), GOOD_ROWS, BAD_ROWS),
    "tabs": (partial(csv_line, "\t"), GOOD_ROWS, BAD_TABS),
    "titles": (title_line, [as_it_is, with_return], BAD_TITLES),
    "table": (title_cell, [as_it_is], in_front(*BYTES_NOT_UTF8, reason=NOT_UTF8)),
}


def fuzzed(form: str, file: int) -> Iterator[Record]:
    """Yields good records and bad ones, and empty lines between them; both ends are good.

    Words 2 to 4 of a title tell the file and the record; cleaning keeps all of these products.
    """
    write, good, bad = FORMS[form]
    chance = random.Random(file)
    for number in range(NUM_RECORDS):
        odd = [chance.choice(ODD) for _ in range(3)]
        title = f"mug w{file} w{number // 100} w{number % 100} {odd[0]}x"
        product = Product(title, f"It{odd[1]} holds {odd[2]}a mug.")
        line = write(product)
        if number in TOO_LONG and form != "array":
            yield Record(line.replace(b"\n", b"") + b" " * LINE_BYTES, "line too long")
        elif number in (0, NUM_RECORDS - 1) or chance.random() < 0.8:
            yield Record(chance.choice(good)(line), product)
        else:
            damage = chance.choice(bad)
            yield Record(damage.make(line), damage.reason)
        if chance.random() < 0.02 and form in ("lines", "commas", "tabs"):
            yield Record(chance.choice((b"", b"\r")), None)


# Files of them

LINES = ("lines.jsonl", "lines.json", "lines.jsonl.gz", "lines.json.gz", "lines.zip")
ARRAYS = ("array.json", "array.json.gz", "array.zip")
ROWS = ("commas.csv", "commas.csv.gz", "commas.zip", "tabs.tsv", "tabs.tsv.gz", "tabs.zip")
FILES = (*LINES, *ARRAYS, *ROWS, "table.parquet")
MEMBERS = {
    **{"lines.zip": "shop/trn.json.gz", "array.zip": "trn.json"},
    **{"commas.zip": "commas.csv", "tabs.zip": "tabs.tsv.gz"},
}
HEADERS = {"commas": b"uid,title,content\n", "tabs": b"uid\ttitle\tcontent\n"}


def write_fuzzed(path: Path, file: int) -> list[Product | Fault]:
    """Writes a file of good and bad records; returns what is to be read of it."""
    form = path.name.split(".")[0]
    records = list(fuzzed(form, file))
    if form == "table":
        return write_table(path, records)
    name = f"{path.name} ({Path(MEMBERS[path.name]).name})" if path.suffix == ".zip" else path.name
    if form == "array":
        write(path, b"[" + b",\n".join(record.data for record in records) + b"]")
        return [placed(r.wanted, f"{name}, record {n}") for n, r in enumerate(records, 1)]
    header = HEADERS.get(form, b"")
    write(path, header + b"\n".join(record.data for record in records))
    wanted, number = [], 1 + header.count(b"\n")
    for record in records:
        if record.wanted is not None:
            wanted.append(placed(record.wanted, f"{name}, line {number}"))
        number += 1 + record.data.count(b"\n")
    return wanted


def write(path: Path, content: bytes) -> None:
    if path.suffix == ".zip":
        member = MEMBERS[path.name]
        packed = gzip.compress(content, 1) if member.endswith(".gz") else content
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(member, packed)
    else:
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_table(path: Path, records: list[Record]) -> list[Product | Fault]:
    """A table has no lines: a bad record is one with a bad text."""
    titles = pa.array([record.data for record in records], pa.binary()).view(pa.string())
    contents = [getattr(record.wanted, "description", "A mug.") for record in records]
    pq.write_table(pa.table({"title": titles, "content": contents}), path)
    wanted = ("text too long" if r.wanted == "line too long" else r.wanted for r in records)
    return [placed(what, f"{path.name}, record {n}") for n, what in enumerate(wanted, 1)]


def placed(wanted: Product | str | None, place: str) -> Product | Fault:
    assert wanted is not None
    if isinstance(wanted, str):
        return Fault(place, wanted)
    return Product(wanted.title, wanted.description, place)


def faults_of(wanted: Iterable[Any]) -> list[Fault]:
    return [record for record in wanted if isinstance(record, Fault)]


# What is read of them


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_of_a_fuzzed_file_every_good_product_is_read_in_order_and_every_bad_record_is_named(
    tmp_path: Path, name: str
):
    wanted = write_fuzzed(tmp_path / name, FILES.index(name))
    assert 1_500 < len(faults_of(wanted)) < 2_500
    found = list(read_products(tmp_path / name))
    for record, other in zip(found, wanted, strict=False):
        assert (record.place, record) == (other.place, other)
    assert len(found) == len(wanted) == NUM_RECORDS


@pytest.mark.parametrize("name", ["titles.txt", "lines.jsonl", "commas.csv", "table.parquet"])
def test_of_a_fuzzed_file_every_good_title_is_read_in_order_and_every_bad_one_is_named(
    tmp_path: Path, name: str
):
    """Where only a title is asked for, what is wrong with a description does not count."""
    wanted = [
        record.title.replace("\n", "" if name == "titles.txt" else "\n")
        if isinstance(record, Product)
        else record
        for record in write_fuzzed(tmp_path / name, 0)
    ]
    for number, record in enumerate(wanted):
        if isinstance(record, Fault) and record.reason.startswith("description"):
            wanted[number] = "Mog"
    assert len(faults_of(wanted)) > 1_000
    found = list(read_title_records(tmp_path / name))
    for record, other in zip(found, wanted, strict=False):
        if isinstance(other, Fault):
            assert (record.place, record.reason) == (other.place, other.reason)
        else:
            assert (record.title, record.reason) == (other, "")
    assert len(found) == len(wanted) == NUM_RECORDS


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [0, 2])
def test_of_fuzzed_files_every_good_product_is_prepared_in_order_and_every_bad_record_counted(
    tmp_path: Path, toy_tokenizer_folder: Path, num_processes: int
):
    files = ("lines.json.gz", "array.json", "commas.csv", "tabs.zip", "table.parquet")
    wanted = [record for n, name in enumerate(files) for record in write_fuzzed(tmp_path / name, n)]
    faults = faults_of(wanted)
    settings = settings_of(
        *(tmp_path / name for name in files),
        max_bad_records=len(faults),
        validation_fraction=0,
        test_fraction=0,
    )
    corpora = tmp_path / "corpora"
    corpus = prepare(settings, toy_tokenizer_folder, corpora, num_processes=num_processes)
    counts = corpus.manifest["counts"]
    assert counts["num_records"] == len(wanted) == len(files) * NUM_RECORDS
    assert counts["bad"] == Counter(fault.reason for fault in faults)
    assert counts["faults"] == [f"{fault.place}: {fault.reason}" for fault in faults[:10]]
    assert counts["refused"] == {}
    # <s> ▁describe : ▁mug ▁w1 ▁w23 ▁w45
    examples = open_table(corpus.folder / "examples.arrow")["input_ids"]
    prepared = [" ".join(f"w{token - 100}" for token in ids[4:7]) for ids in examples]
    good = [record for record in wanted if isinstance(record, Product)]
    assert prepared == [" ".join(product.title.split()[1:4]) for product in good]


@pytest.mark.parametrize("num_processes", [0, 2])
def test_one_bad_record_more_than_allowed_ends_the_preparation(
    tmp_path: Path,
    toy_tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_processes: int,
):
    monkeypatch.setattr(reading, "RECORDS_PER_BATCH", 100)  # so that processes are at work by then
    faults = faults_of(write_fuzzed(tmp_path / "commas.csv.gz", 0))
    settings = settings_of(tmp_path / "commas.csv.gz", max_bad_records=len(faults) - 1)
    corpora = tmp_path / "corpora"
    with pytest.raises(DataError) as error:
        prepare(settings, toy_tokenizer_folder, corpora, num_processes=num_processes)
    reason, number = Counter(fault.reason for fault in faults).most_common(1)[0]
    assert f"more than {len(faults) - 1} records cannot be read" in str(error.value)
    assert f": {number} × {reason}; " in str(error.value)
    assert f"The first: {faults[0].place}: {faults[0].reason}; " in str(error.value)
    assert not corpora.exists() or folders(corpora) == []
