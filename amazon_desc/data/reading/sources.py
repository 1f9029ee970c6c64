"""A path -> decompressed bytes, and the lines in them.

Knows compression, archives and line ends. Everything streams and a line's length is capped, so
memory stays bounded. A file that is missing, empty or damaged raises DataError. What stands in a
line is not known here: formats.py reads it.
"""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

LINE_BYTES = 1 << 20
BUFFER_BYTES = 1 << 18
BOM = b"\xef\xbb\xbf"
# What is raised for damaged bytes; UnicodeDecodeError for the names in an archive.
_DAMAGE = (EOFError, OSError, RuntimeError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile)
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

# What is read of the data set's .zip.
TRAIN_MEMBER, TEST_MEMBER = "trn.json.gz", "tst.json.gz"

LINE_TOO_LONG = "line too long"
NOT_UTF8 = "not valid UTF-8"

PACKABLE = (".json", ".jsonl", ".csv", ".tsv")
OLD_SHEETS = (".xls", ".xlsb")
SHEETS = (".xlsx", ".xlsm", ".ods")
SUPPORTED = (*PACKABLE, *(f"{suffix}.gz" for suffix in PACKABLE), ".parquet", ".zip", *SHEETS)


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that cannot be used: where it is, and a short reason that can be counted."""

    place: str  # "trn.json.gz, line 812"
    reason: str  # "not valid JSON"


class RawRecord(NamedTuple):
    """A record as it stands in its file: a column that the record lacks is no key."""

    place: str
    values: dict[str, object]


@dataclass
class LongRecords:
    """Counts records of a CSV or TSV file that may hold the records after them."""

    num: int = 0
    place: str = ""  # of the longest
    num_lines: int = 0  # of the longest

    def add(self, place: str, num_lines: int) -> None:
        self.num += 1
        if num_lines > self.num_lines:
            self.place, self.num_lines = place, num_lines

    def __str__(self) -> str:
        return f"{self.num:,}, the longest of {self.num_lines:,} lines at {self.place}"


@dataclass
class Meter:
    """Tells how far a file has been read, and what is odd in it; whoever reads it sets this."""

    share: Callable[[], float] = lambda: 0.0
    """what has been read of the file as it lies on the disk, 0 to 1"""
    long_records: LongRecords = field(default_factory=LongRecords)
    remarks: list[str] = field(default_factory=list)
    """how files were understood where they do not tell it themselves, each said once: "shop.csv:
    fields are separated by ';'" """


class Source(NamedTuple):
    """Decompressed bytes, with the name that places are told by and the format's suffix."""

    name: str
    suffix: str
    stream: io.BufferedReader


def check_file(path: Path, supported: Sequence[str]) -> None:
    """Raises DataError unless `path` is a file with something in it and a supported suffix."""
    wanted = f"Wanted one of {', '.join(supported)}."
    if path.is_dir():
        raise DataError(f"{path.absolute()} is a folder, not a file. {wanted}")
    if not path.exists():
        raise DataError(
            f"{path.absolute()} does not exist. Check the path; a relative one starts at "
            f"{Path.cwd()}."
        )
    if not path.name.lower().endswith(tuple(supported)):
        advice = "Save it as .xlsx or .csv. " if path.suffix.lower() in OLD_SHEETS else ""
        raise DataError(f"{path}: the suffix {path.suffix!r} is not supported. {advice}{wanted}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). Copy or download it again.")


@contextmanager
def open_source(
    path: Path, member: str = TRAIN_MEMBER, meter: Meter | None = None
) -> Iterator[Source]:
    """Opens a file and undoes .gz and .zip; damage found later, while reading, names the file.

    Of a .zip the member whose name ends in `member` is read.
    """
    meter = meter or Meter()
    try:
        with path.open("rb") as file:
            if path.suffix.lower() != ".zip":
                size = max(path.stat().st_size, 1)
                meter.share = lambda: file.tell() / size
                yield _unpacked(path.name, file)
            else:
                with zipfile.ZipFile(file) as archive:
                    info = _choose_member(path, archive, member)
                    _check_packing(path, info)
                    start, size = info.header_offset, max(info.compress_size, 1)
                    meter.share = lambda: min((file.tell() - start) / size, 1.0)
                    with archive.open(info) as packed:
                        name = PurePosixPath(info.filename).name
                        yield _unpacked(f"{path.name} ({name})", packed, info.filename)
            meter.share = lambda: 1.0
    except _DAMAGE as error:
        raise DataError(
            f"{path} is damaged, cut short or cannot be read: {error}. Copy or download it again."
        ) from error


def _unpacked(name: str, file, member: str | None = None) -> Source:
    lowered = (member or name).lower()
    if lowered.endswith(".gz"):
        file = gzip.GzipFile(fileobj=file, mode="rb")
    suffix = PurePosixPath(lowered.removesuffix(".gz")).suffix
    return Source(printable(name), suffix, io.BufferedReader(file, BUFFER_BYTES))


def _choose_member(path: Path, archive: zipfile.ZipFile, wanted: str) -> zipfile.ZipInfo:
    """The one that ends in `wanted` if there is exactly one, else the only one in a known format.

    wanted = trn.json.gz: LF-Amazon-1.3M/{lbl,trn,tst}.json.gz -> LF-Amazon-1.3M/trn.json.gz
    """
    names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    usable = [name for name in names if name.lower().endswith(SUPPORTED[: 2 * len(PACKABLE)])]
    named = [name for name in usable if name.endswith(wanted)]
    for choice in (named, usable):
        if len(choice) == 1:
            return archive.getinfo(choice[0])
    raise DataError(
        f"{path}: wanted one member that ends in {wanted}, or a single one that ends in "
        f"{', '.join(PACKABLE)} (or these with .gz); found {', '.join(names[:20]) or 'none'}. "
        "Unpack it and name the file you mean."
    )


def _check_packing(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuses what zipfile unpacks without a bound: a few bytes of it may give gigabytes."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{path}: wanted members packed with deflate, as zip does by itself; "
            f"{info.filename} is packed otherwise. Unpack it and name the file."
        )


def split_lines(source: Source) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number from 1, line without its end), or None for a line over LINE_BYTES.

    Only a line feed ends a line: a carriage return or U+2028 inside a title does not.
    """
    start = source.stream.peek(BUFFER_BYTES)
    if start.startswith(_UTF16_BOMS):
        raise DataError(f"{source.name} is UTF-16 text; save it as UTF-8.")
    if start.startswith(BOM):
        source.stream.read(len(BOM))
    number = 0
    while line := source.stream.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = source.stream.readline(LINE_BYTES)
            yield number, None
        else:
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")
