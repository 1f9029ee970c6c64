"""Bounded memory: what has no end, or unpacks to far more than it is, is never held.

Each file is read by a process of its own, which tells by how much its memory grew at most. What is
held of a file is a line, as bytes and decoded, and the buffers in front of it: with LINE_BYTES of
1 MiB that are some MiB, and 32 MiB are allowed, a tenth of the lines here. The values of such a
line may take 72 bytes for each 3 of it, "{},", so where they come in masses 128 MiB are allowed.
Of Parquet 256 records are held twice, by pyarrow and as texts, of which one here has 1 MiB; that a
page is held too, however large its writer made it, is not for us to change.
"""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.support.resources import PACKAGE

pytestmark = pytest.mark.slow

MIB = 1 << 20
HUGE = 300  # MiB
PROGRAM = """
import json, re, sys
from collections import Counter
from itertools import islice
from pathlib import Path
from amazon_desc.data.reading.records import read_products, read_title_records
from amazon_desc.support.errors import DataError

def most_memory():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

path, most_records = Path(sys.argv[1]), int(sys.argv[2])
before, read, refusal = most_memory(), Counter(), ""
try:
    records = read_title_records(path) if path.suffix == ".txt" else read_products(path)
    for record in islice(records, most_records):
        read[getattr(record, "reason", "") or "good"] += 1
except DataError as error:
    refusal = str(error)
print(json.dumps([read, refusal, most_memory() - before]))
"""

GOOD = b'{"title": "Mug", "content": "It holds tea."}\n'
HEADER, ROW = b"title,content\n", b"Mug,It holds tea.\n"
BOTH_GOOD = {"good": 2, "line too long": 1}


def packed(*parts: tuple[bytes, int]) -> bytes:
    """Returns what unpacks to the parts, each so often: .gz files one after the other are one."""
    return b"".join(gzip.compress(part, 9) * times for part, times in parts)


def hole(path: Path, before: bytes, behind: bytes) -> None:
    """Writes a file with a line of NULs in it, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(HUGE * MIB, 1)
        file.write(b"\n" + behind)


def zipped(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(member, content)


def zipped_hole(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("rows.csv", "w") as member,
    ):
        member.write(HEADER + ROW)
        for _ in range(HUGE):
            member.write(bytes(MIB))
        member.write(b"\n" + ROW)


def repeating(path: Path) -> None:
    """Writes 2 GiB of text into a table of a few KiB: all records have the same description."""
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 2048, pa.int32()), ["It holds." * 116_500])
    table = pa.table({"title": ["Mug"] * len(same), "content": same})
    pq.write_table(table, path, compression="zstd")


def bz2_parts(path: Path) -> None:
    x = bz2.compress(b"x" * MIB)
    path.write_bytes(bz2.compress(GOOD) + x * HUGE + bz2.compress(b"\n" + GOOD))


def xz_parts(path: Path) -> None:
    x = lzma.compress(b"x" * MIB)
    path.write_bytes(lzma.compress(GOOD) + x * HUGE + lzma.compress(b"\n" + GOOD))


def zst_part(path: Path) -> None:
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
        file.write(GOOD)
        for _ in range(HUGE):
            file.write(b"x" * MIB)
        file.write(b"\n" + GOOD)


def wide(path: Path) -> None:
    """UTF-16, which is read as UTF-8, with lines that end as those of old Macs do."""
    with path.open("wb") as file:
        file.write(GOOD.decode().replace("\n", "\r").encode("utf-16"))
        for _ in range(HUGE // 2):
            file.write(("x" * MIB).encode("utf-16-le"))
        file.write(("\r" + GOOD.decode()).encode("utf-16-le"))


def arrow(path: Path) -> None:
    """Writes 256 MiB of one column, in batches that are longer than what is held of them."""
    batch = pa.record_batch({"title": ["Mug"] * 256, "content": ["It holds." * 14_563] * 256})
    with pa.ipc.new_stream(str(path), batch.schema) as writer:
        for _ in range(8):
            writer.write_batch(batch)


def gz(*parts: tuple[bytes, int]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(packed(*parts))


class Case(NamedTuple):
    """A file, what is to be read of it, and by how many MiB memory may grow."""

    name: str
    write: Callable[[Path], object]
    read: dict[str, int]
    refusal: str = ""
    limit: int = 32
    most_records: int = 10_000_000


NULS, XS = (bytes(MIB), HUGE), (b"x" * MIB, HUGE)
OBJECT = GOOD.strip()
LONG_ROW = GOOD.replace(b"tea", b"tea" * 340_000)
MANY_VALUES = b'{"title": "Mug", "x": [' + b"{}," * 340_000 + b"{}]}\n"

MANY_COLUMNS = MANY_VALUES.replace(b'"x"', b'"content": "Tea.", "y": NaN, "x"')
TURNS = b'"messages": [{"role": "user", "content": "Title: Mug"}]'
MANY_BESIDE_TURNS = MANY_VALUES.replace(b'"title": "Mug"', TURNS)

HUGE_LINES = [
    Case("line.jsonl", lambda path: hole(path, GOOD, GOOD), BOTH_GOOD),
    Case("line.json.gz", gz((GOOD, 1), XS, (b"\n" + GOOD, 1)), BOTH_GOOD),
    Case("line.csv", lambda path: hole(path, HEADER + ROW, ROW), BOTH_GOOD),
    Case("line.csv.gz", gz((HEADER + ROW, 1), XS, (b"\n" + ROW, 1)), BOTH_GOOD),
    Case(
        "line.tsv.gz",
        gz((b"title\tcontent\nMug\tTea\n", 1), NULS, (b"\nMug\tTea\n", 1)),
        BOTH_GOOD,
    ),
    Case("line.json.bz2", bz2_parts, BOTH_GOOD),
    Case("line.json.xz", xz_parts, BOTH_GOOD),
    # Arrow's reader of Zstandard holds as much again as a part may refer to.
    Case("line.json.zst", zst_part, BOTH_GOOD, limit=64),
    Case("wide.jsonl", wide, BOTH_GOOD),
    Case("line.txt", lambda path: hole(path, b"Mug\n", b"Mug\n"), BOTH_GOOD),
    Case("line.zip", zipped_hole, BOTH_GOOD),
    Case(
        "quote.csv.gz",
        gz((HEADER + ROW + b'Mug,"tea\n', 1), XS, (b"\n" + ROW, 1)),
        {"good": 2, "quote not closed": 1, "line too long": 1},
    ),
    Case(
        "string.json.gz",
        gz((b"[" + OBJECT + b',{"title": "', 1), XS, (b'"}]', 1)),
        {"good": 1},
        "string.json.gz is not a valid JSON array: it breaks at record 2, or that is longer than",
    ),
]
BOMBS = [
    Case("lines.json.gz", gz((GOOD * 20_000, 20)), {"good": 400_000}),
    Case("long.json.gz", gz((LONG_ROW, 512)), {"good": 512}),
    Case(
        "nested.zip",
        lambda path: zipped(path, "trn.json.gz", packed((GOOD, 1), NULS, (b"\n" + GOOD, 1))),
        BOTH_GOOD,
    ),
    Case(
        "objects.json.gz",
        gz((b"[" + OBJECT, 1), (b",{}" * 50_000, 20), (b"]", 1)),
        {"good": 1_000_001},
    ),
    Case(
        "wrapped.json.gz",
        gz((b'{"n": 1, "products": [' + OBJECT, 1), ((b"," + OBJECT) * 20_000, 20), (b"]}", 1)),
        {"good": 400_001},
    ),
    Case(
        "keyed.json.gz",
        gz((b'{"a": ' + OBJECT, 1), ((b',"b": ' + OBJECT) * 20_000, 20), (b"}", 1)),
        {"good": 400_001},
    ),
    Case("objects.jsonl.gz", gz(((b"\n{\n" + OBJECT[1:]) * 20_000, 20)), {"good": 400_000}),
    Case("nan.json.gz", gz((MANY_COLUMNS, 20)), {"good": 20}, limit=128),
    Case(
        "turns.json.gz",
        gz((MANY_BESIDE_TURNS, 100)),
        {},
        "turns.json.gz holds conversations",
        limit=128,
    ),
    Case(
        "columns.json.gz",
        gz((b'{"title": {"0": "', 1), XS, (b'"}}', 1)),
        {},
        "columns.json.gz stands in columns, and has more than 256 MiB",
        limit=640,
    ),
    Case(
        "values.json.gz",
        gz((MANY_VALUES, 100)),
        {},
        "wanted a column 'content' with the description; the columns seen are title, x",
        limit=128,
    ),
    Case(
        "record.csv.gz",
        gz((HEADER + ROW + b'Mug,"', 1), (b'","\n' * (MIB // 4), HUGE)),
        {"good": 9, "quote not closed": 1},
        limit=128,
        most_records=10,
    ),
    Case(
        "names.csv.gz",
        gz((b"a," * 400_000 + b"title,content\n", 1), (b"," * 400_000 + b"Mug,Tea\n", 100)),
        {"good": 100},
        limit=128,
    ),
    Case(
        "object.json.gz",
        gz((b'{"title": {' + b'"a": {}, ' * 100_000 + b'"b": 1}}\n', 200)),
        {},
        "wanted a column 'content' with the description; the columns seen are title",
        limit=128,
    ),
    Case("table.parquet", repeating, {"good": 2048}, limit=512),
    # of which 32 MiB are as texts, and what is mapped of the file counts
    Case("table.arrow", arrow, {"good": 2048}, limit=384),
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("case", [*HUGE_LINES, *BOMBS], ids=lambda case: case.name)
def test_memory_is_bounded_and_what_stands_around_is_read(tmp_path: Path, case: Case):
    path = tmp_path / case.name
    case.write(path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(case.most_records)],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=60,
        check=True,
    )
    read, refusal, growth = json.loads(done.stdout)
    assert read == case.read
    assert case.refusal in refusal
    assert bool(refusal) == bool(case.refusal)
    assert growth < case.limit * MIB
