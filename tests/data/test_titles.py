"""The table of titles: every record has its row, and what it repeats is found on the disk."""

import gzip
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.data.cleaning.cleaner import Cleaner
from amazon_desc.data.loading import building, titles
from amazon_desc.data.loading.repeats import Repeats
from amazon_desc.data.loading.titles import TitleRow, TitleTable
from amazon_desc.data.reading.kept import Kept
from amazon_desc.support.errors import DataError, StorageError
from amazon_desc.support.resources import PACKAGE

CLEAN = Cleaner().text
ROWS = [{"title": "Mug", "sku": 7}, {"title": "", "sku": 8}, {"title": "Car"}, {"title": "Mug"}]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
COMMAS = b"title,sku\nMug,7\n,8\nCar\nMug\n"
FIRSTS, REASONS = [0, 1, 2, 0], ["", "title is empty", "", ""]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "ROWS_PER_BATCH", 7)


def table_of(
    folder: Path, data: bytes, name: str = "titles.txt", kept: Kept = "none", **options: Any
) -> TitleTable:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return TitleTable.read(path, "title", kept, folder / "table", CLEAN, **options)


def reference(texts: list[str]) -> list[int]:
    """Returns the first row of each title, from a plain dict."""
    firsts: dict[str, int] = {}
    return [
        firsts.setdefault(CLEAN(text), row) if CLEAN(text) else row
        for row, text in enumerate(texts)
    ]


def test_every_line_has_its_row(tmp_path: Path):
    table = table_of(tmp_path, b"Mug\n\nTin Car\nMug \n\xff\n&nbsp;\n")
    assert list(table) == [
        TitleRow(0, "Mug", "", 0, None),
        TitleRow(1, "", "title is empty", 1, None),
        TitleRow(2, "Tin Car", "", 2, None),
        TitleRow(3, "Mug ", "", 0, None),
        TitleRow(4, "", "not valid UTF-8", 4, None),
        TitleRow(5, "&nbsp;", "title is empty after cleaning", 5, None),
    ]
    assert [row.is_written for row in table] == [True, False, True, False, False, False]
    assert list(table.written()) == [(0, "Mug"), (2, "Tin Car")]
    assert list(table.written(1)) == [(2, "Tin Car")]
    assert (len(table), table.num_written) == (6, 2)
    assert table.reasons == {
        "title is empty": 1,
        "not valid UTF-8": 1,
        "title is empty after cleaning": 1,
    }


def test_what_is_one_title_follows_from_cleaning(tmp_path: Path):
    data = "Caf&eacute; <b>Mug</b>\nCafé  Mug\nCafe\u0301 Mug\nCAFÉ MUG\n".encode()
    assert [row.first for row in table_of(tmp_path, data)] == [0, 0, 0, 3]
    (tmp_path / "titles.txt").write_bytes(data)
    table = TitleTable.read(tmp_path / "titles.txt", "title", "none", tmp_path / "raw", str)
    assert [row.first for row in table] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", LINES),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.csv", COMMAS),
        ("a.csv.gz", COMMAS),
        ("a.tsv", COMMAS.replace(b",", b"\t")),
        ("a.txt", b"Mug\n\nCar\nMug\n"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, data: bytes):
    table = table_of(tmp_path, data, name)
    assert [row.title for row in table] == ["Mug", "", "Car", "Mug"]
    assert [row.first for row in table] == FIRSTS
    assert [row.reason for row in table] == REASONS


def test_parquet_gives_the_same_rows(tmp_path: Path):
    pq.write_table(pa.table({"title": ["Mug", None, "Car", "Mug"]}), tmp_path / "a.parquet")
    table = TitleTable.read(tmp_path / "a.parquet", "title", "all", tmp_path / "table", CLEAN)
    assert list(table) == [
        TitleRow(row, title, reason, first, "{}")
        for row, (title, reason, first) in enumerate(
            zip(["Mug", "", "Car", "Mug"], REASONS, FIRSTS, strict=True)
        )
    ]


def test_unreadable_records_end_nothing_and_keep_their_place(tmp_path: Path):
    data = (
        b'{"title": "Mug"}\n{"title"\n[1]\n{"title": [5], "sku": 1}\n{"sku": 2}\n{"title": "Mug"}\n'
    )
    table = table_of(tmp_path, data, "a.jsonl", kept="all")
    assert [(row.reason, row.first, row.kept) for row in table] == [
        ("", 0, "{}"),
        ("not valid JSON", 1, None),
        ("not a JSON object", 2, None),
        ("title is not text", 3, '{"sku":1}'),
        ("title is missing", 4, '{"sku":2}'),
        ("", 0, "{}"),
    ]


def test_a_file_of_blank_lines_is_as_many_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table = table_of(tmp_path, b" \n" * 150)
    assert (len(table), table.num_written) == (150, 0)
    assert {row.reason for row in table} == {"title is empty"}
    assert list(table.written()) == []
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "No title at titles.txt, line 1: title is empty"
    assert said[10:] == ["Records without a title to write for: 150 (150 × title is empty)"]


def test_kept_columns_are_carried_as_they_are(tmp_path: Path):
    data = (
        b'{"sku": 7, "description": "Old.", "title": "Mug", "n": [1.5, null]}\n{"title": "Car"}\n'
    )
    kept = {
        "none": [None, None],
        "all": ['{"sku":7,"description":"Old.","n":[1.5,null]}', "{}"],
        ("title", "description"): ['{"description":"Old.","title":"Mug"}', '{"title":"Car"}'],
    }
    for columns, texts in kept.items():
        table = table_of(tmp_path, data, "a.jsonl", kept=columns)
        assert [row.kept for row in table] == texts


def test_repeats_are_those_of_a_plain_dict(tmp_path: Path, small_batches: None):
    draw = random.Random(5)
    texts = [
        draw.choice(["", " ", "Mug"]) if draw.random() < 0.2 else f"Mug {draw.randrange(900)} "
        for _ in range(2_000)
    ]
    table = table_of(tmp_path, "\n".join([*texts, "end"]).encode())
    firsts = reference([*texts, "end"])
    assert [row.first for row in table] == firsts
    assert [row.title for row in table] == [*texts, "end"]
    written = [(row, text) for row, text in enumerate([*texts, "end"])
               if firsts[row] == row and text.strip()]  # fmt: skip
    assert 500 < table.num_written == len(written) < 1_000
    for start in (0, 1, 6, 7, 8, 500, len(written) - 1, len(written)):
        assert list(table.written(start)) == written[start:]
    everything = list(table)
    for start in (0, 1, 6, 7, 8, 1_999, 2_000, 2_001):
        assert list(table.records(start)) == everything[start:]
    for row in (0, 6, 7, 1_000, 2_000):
        assert table[row] == everything[row]
    for row in (-1, 2_001):
        with pytest.raises(IndexError, match="wanted a row from 0 to 2000"):
            table[row]


def test_repeats_are_found_over_batches_of_any_length(tmp_path: Path):
    draw = np.random.default_rng(1)
    numbers = draw.integers(0, 3_000, 20_000)
    texts = [None if number % 10 == 3 else str(number) for number in numbers]
    with Repeats(tmp_path) as repeats:
        start = 0
        while start < len(texts):
            end = start + int(draw.integers(1, 2_000))
            repeats.add(texts[start:end])
            start = end
        found = np.concatenate(list(repeats.firsts())).tolist()
    firsts: dict[str, int] = {}
    assert found == [
        row if text is None else firsts.setdefault(text, row) for row, text in enumerate(texts)
    ]


def test_one_title_in_all_records_fills_no_file(tmp_path: Path):
    with Repeats(tmp_path) as repeats:
        for _ in range(100):
            repeats.add(["Mug"] * 1_000)
        repeats._counts.flush()
        for file in repeats._entries:
            file.flush()
        sizes = [path.stat().st_size for path in tmp_path.glob("entries-*")]
        assert sum(sizes) == 100 * 24
        assert {int(first) for firsts in repeats.firsts() for first in firsts} == {0}


def test_long_records_fill_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "CHARACTERS_PER_BATCH", 100)
    texts = [f"{'long ' * 15}{number % 3}" for number in range(9)]
    table = table_of(tmp_path, "\n".join(texts).encode())
    assert table._starts.tolist() == [0, 2, 4, 6, 8, 9]
    assert [row.first for row in table] == [0, 1, 2] * 3
    assert table[8].title == texts[8]


def test_titles_appended_leave_the_digest_of_those_before(tmp_path: Path, small_batches: None):
    data = b"".join(b"Mug %d\n" % (number % 20) for number in range(30)) + b"\n"
    lines = b"".join(b'["Mug %d","",null]\n' % (number % 20) for number in range(30))
    before = hashlib.sha256(lines + b'["","title is empty",null]\n').hexdigest()
    table = table_of(tmp_path, data)
    assert table.digest() == table.digest(31) == before
    longer = table_of(tmp_path, data + b"Cup\n" * 5, digest_at=31)
    assert longer.digest(31) == before
    assert longer.digest() != before
    assert table_of(tmp_path, data.replace(b"Mug 3", b"Mug 4"), digest_at=31).digest() != before
    assert table_of(tmp_path, data[:60], digest_at=31).digest(31) is None
    assert longer.digest(36) == longer.digest()
    for number in (0, 7, 14, 30):
        expected = hashlib.sha256(b"".join(lines.splitlines(True)[:number])).hexdigest()
        assert table_of(tmp_path, data, digest_at=number).digest(number) == expected


def test_the_digest_covers_what_is_kept(tmp_path: Path):
    digests = {table_of(tmp_path, COMMAS, "a.csv", kept=kept).digest() for kept in ("none", "all")}
    digests.add(table_of(tmp_path, COMMAS.replace(b"7", b"9"), "a.csv", kept="all").digest())
    assert len(digests) == 3


def test_a_table_is_opened_again(tmp_path: Path):
    table = table_of(tmp_path, LINES, "a.jsonl", kept=["sku"])
    again = TitleTable(table.folder)
    assert list(again) == list(table)
    assert again.facts == table.facts
    assert again.source_sha256 == hashlib.sha256(LINES).hexdigest()
    files = {"records.arrow", "first.i64", "batches.npy", "facts.json"}
    assert {path.name for path in table.folder.iterdir()} == files


def cut_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(random.Random(0).randbytes(3_000).hex().encode())[:2_000])


@pytest.mark.parametrize(
    ("name", "write", "kept", "message"),
    [
        ("none.txt", lambda path: None, "none", "does not exist"),
        ("a.txt", lambda path: path.touch(), "none", r"is empty \(0 bytes\)"),
        ("a.csv", lambda path: path.write_text("label\nMug\n"), "none", "wanted a column 'title'"),
        ("a.csv", lambda path: path.write_text("title\nMug\n"), ["sku"], "a column 'sku' to keep"),
        ("a.json", lambda path: path.write_text('[{"title": "Mug"},'), "none", "not a valid JSON"),
        ("a.jsonl.gz", cut_gz, "none", "damaged, cut short"),
    ],
)
def test_a_file_that_is_refused_leaves_nothing(
    tmp_path: Path, name: str, write: Callable[[Path], Any], kept: Kept, message: str
):
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        TitleTable.read(tmp_path / name, "title", kept, tmp_path / "there" / "table", CLEAN)
    folder = tmp_path / "there"
    assert not folder.exists() or not list(folder.iterdir())


def test_a_refused_file_leaves_the_table_of_before(tmp_path: Path):
    table = table_of(tmp_path, b"Mug\n")
    leftover = tmp_path / ".tmp-123-table"
    leftover.mkdir()
    with pytest.raises(DataError):
        table_of(tmp_path, b"[{", "a.json")
    assert list(TitleTable(table.folder)) == [TitleRow(0, "Mug", "", 0, None)]
    assert not leftover.exists()


def test_a_file_that_is_replaced_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = titles.read_title_records

    def read_and_replace(path: Path, *arguments: Any) -> Any:
        yield from read(path, *arguments)
        path.write_bytes(b"red cup\n")

    monkeypatch.setattr(titles, "read_title_records", read_and_replace)
    with pytest.raises(DataError, match=r"--data\.titles .* was replaced while it was read"):
        table_of(tmp_path, b"red mug\n")
    assert not (tmp_path / "table").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "titles.txt").write_bytes(b"Mug\n")
    with pytest.raises(StorageError, match="cannot be written"):
        TitleTable.read(
            tmp_path / "titles.txt", "title", "none", tmp_path / "file" / "table", CLEAN
        )


def test_records_that_may_hold_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = "A mug.\n" * 30
    table = table_of(tmp_path, f'n,title\n1,"{text}"\n'.encode(), "a.csv")
    assert table[0].title == text
    assert capsys.readouterr().out == (
        "Titles that may hold the lines after them: 1, the longest of 31 lines at a.csv, line 2. "
        "If a quote is not closed there, close it or take it out.\n"
    )


def test_progress_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shares: list[float] = []

    class Bar(titles.tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shares.append(self.n / self.total)
            return super().update(n)

    monkeypatch.setattr(titles, "tqdm", Bar)
    table_of(tmp_path, b"".join(b"A mug with the number %d\n" % n for n in range(50_000)))
    assert shares == sorted(shares)
    assert len(shares) == 50
    assert shares[0] < 0.3
    assert shares[-1] > 0.9


PROGRAM = """
import re, sys
from pathlib import Path
from amazon_desc.data.cleaning.cleaner import Cleaner
from amazon_desc.data.loading.titles import TitleTable

path, kept, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
table = TitleTable.read(path, "title", kept, path.parent / "table", Cleaner().text, number // 2)
assert len(table) == number and number // 2 < table.num_written < number
assert sum(1 for _ in table.records()) == number
assert sum(1 for _ in table.written()) == table.num_written
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kept", ["none", "all"])
def test_memory_does_not_grow_with_the_number_of_titles(tmp_path: Path, kept: str):
    peaks: list[int] = []
    for number in (30_000, 300_000):
        draw = random.Random(0)
        path = tmp_path / "titles.csv"
        with path.open("w", encoding="utf-8") as file:
            file.write("title,sku,stock\n")
            for row in range(number):
                of = draw.randrange(number)
                file.write(f"Stoneware Mug with a Lid and Number {of} in Blue,{row},{row % 7}\n")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path), kept, str(number)],
            capture_output=True,
            text=True,
            cwd=PACKAGE.parent,
            timeout=120,
            check=True,
        )
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 15 << 20  # the digests of all titles in a set would take 25 MB
