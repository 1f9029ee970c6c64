"""A path -> decompressed bytes in UTF-8, and the lines in them.

Knows archives and line ends; what packs a file and what encodes it is told by packing.py and
encodings.py. Everything streams and a line's length is capped, so memory stays bounded. A file that
is missing, empty or damaged raises DataError. What stands in a line is not known here: formats.py
reads it.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from amazon_desc.data.reading.files.encodings import BOM, Recoded, reading_of
from amazon_desc.data.reading.files.kinds import (
    OLD_SHEETS,
    PACKABLE,
    SHORTEST_PACKED,
    START_BYTES,
    is_binary,
    is_called_packed,
    refuse_foreign,
    table_of,
    text_suffix,
)
from amazon_desc.data.reading.files.packing import (
    BUFFER_BYTES,
    packing_of,
    unpacked,
    without_packing,
)
from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

LINE_BYTES = 1 << 20
# What is raised for damaged bytes; UnicodeDecodeError for the names in an archive.
_DAMAGE = (EOFError, OSError, RuntimeError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile)

# What is read of the data set's .zip.
TRAIN_MEMBER, TEST_MEMBER = "trn.json.gz", "tst.json.gz"

MOST_ENCODINGS = 3  # remarks on them

LINE_TOO_LONG = "line too long"
NOT_UTF8 = "not valid UTF-8"


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

    num_encodings: int = 0
    """remarks on how text is encoded: of many files only the first ones are worth one"""

    def say_of_encoding(self, remark: str) -> None:
        if remark not in self.remarks and self.num_encodings < MOST_ENCODINGS:
            self.remarks.append(remark)
            self.num_encodings += 1


class Source(NamedTuple):
    """Decompressed bytes, with the name that places are told by and the format's suffix."""

    name: str
    suffix: str
    stream: io.BufferedReader


def check_file(path: Path, supported: Sequence[str]) -> None:
    """Raises DataError unless `path` is a file with something in it that can be read.

    Its name has one of the supported suffixes, or what it holds shows what it is.
    """
    wanted = (
        f"Wanted one of {', '.join(supported)}; of these text may be packed, as in .json.gz, "
        f".csv.bz2, .tsv.xz or .jsonl.zst."
    )
    if path.is_dir():
        raise DataError(f"{path.absolute()} is a folder, not a file. {wanted}")
    if not path.exists():
        raise DataError(
            f"{path.absolute()} does not exist. Check the path; a relative one starts at "
            f"{Path.cwd()}."
        )
    if not without_packing(path.name).endswith(tuple(supported)):
        start = start_of(path)
        refuse_foreign(str(path), start)
        is_known = table_of(path.name, start) or packing_of(start)
        if not is_known and text_suffix(path.name, start) not in supported:
            advice = "Save it as .xlsx or .csv. " if path.suffix.lower() in OLD_SHEETS else ""
            raise DataError(
                f"{path}: the suffix {path.suffix!r} is not supported. {advice}{wanted}"
            )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). Copy or download it again.")


def start_of(path: Path) -> bytes:
    """Returns how a file begins; nothing of one that cannot be read, which its reader tells."""
    try:
        with path.open("rb") as file:
            return file.read(START_BYTES)
    except OSError:
        return b""


@contextmanager
def open_source(
    path: Path,
    member: str = TRAIN_MEMBER,
    meter: Meter | None = None,
    encoding: str | None = None,
) -> Iterator[Source]:
    """Opens a text file as UTF-8 and unpacks it; damage found later, while reading, names the file.

    Of a .zip the member whose name ends in `member` is read.

    Args:
        encoding: where it is known beforehand; None: what the bytes show
    """
    meter = meter or Meter()
    try:
        with path.open("rb") as file:
            start = file.peek(START_BYTES)[:START_BYTES]
            refuse_foreign(str(path), start)
            if table_of(path.name, start) != ".zip":
                size = max(path.stat().st_size, 1)
                meter.share = lambda: file.tell() / size
                yield _text(path, path.name, path.name, file, meter, encoding)
            else:
                with zipfile.ZipFile(file) as archive:
                    info = _choose_member(path, archive, member)
                    _check_packing(path, info)
                    begin, size = info.header_offset, max(info.compress_size, 1)
                    meter.share = lambda: min((file.tell() - begin) / size, 1.0)
                    with archive.open(info) as packed:
                        name = f"{path.name} ({PurePosixPath(info.filename).name})"
                        yield _text(path, name, info.filename, packed, meter, encoding)
            meter.share = lambda: 1.0
    except _DAMAGE as error:
        raise DataError(
            f"{path} is damaged, cut short or cannot be read: {error}. Copy or download it again."
        ) from error


def _text(
    path: Path, name: str, called: str, file: Any, meter: Meter, encoding: str | None
) -> Source:
    """The text in an open file; `name` is what places are told by, `called` what it is named."""
    start = file.peek(START_BYTES)[:START_BYTES]
    packing = packing_of(start)
    is_cut = len(start) < SHORTEST_PACKED or is_binary(start)
    if packing is None and is_called_packed(called) and is_cut:
        raise OSError(f"its name says that it is packed, and it begins with {start[:2]!r}")
    ahead = _Ahead(unpacked(file, packing))
    refuse_foreign(str(path), ahead.head)
    if packing and (table_of("", ahead.head) or packing_of(ahead.head)):
        raise DataError(
            f"{path}: wanted text in it, found a packed file of another kind. Unpack it and name "
            f"what comes out."
        )
    suffix = text_suffix(called, ahead.head)
    if suffix is None:
        raise DataError(
            f"{path}: its name does not say what it holds, and its beginning is no JSON. Call it "
            f"{without_packing(path.name)}.csv{packing or ''} if it is CSV."
        )
    reading = reading_of(printable(name), ahead.head, encoding)
    if reading.remark:
        meter.say_of_encoding(reading.remark)
    raw = Recoded(ahead, reading) if reading.is_recoded else ahead
    return Source(printable(name), suffix, io.BufferedReader(raw, BUFFER_BYTES))


class _Ahead(io.RawIOBase):
    """A stream whose beginning is known before it is read; what is wrong there is told in turn."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: Exception | None = None
        self.head = b""
        try:
            while len(self.head) < BUFFER_BYTES:
                part = file.read(BUFFER_BYTES - len(self.head))
                if not part:
                    break
                self.head += part
        except _DAMAGE as error:
            self._error = error
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._place < len(self.head):
            part = self.head[self._place : self._place + len(buffer)]
            self._place += len(part)
        elif self._error is not None:
            raise self._error
        else:
            part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def _choose_member(path: Path, archive: zipfile.ZipFile, wanted: str) -> zipfile.ZipInfo:
    """The one that ends in `wanted` if there is exactly one, else the only one in a known format.

    wanted = trn.json.gz: LF-Amazon-1.3M/{lbl,trn,tst}.json.gz -> LF-Amazon-1.3M/trn.json.gz
    """
    names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    if "xl/workbook.xml" in names:
        raise DataError(f"{path} is an Excel workbook. Name it .xlsx, or save it as CSV in UTF-8.")
    usable = [name for name in names if without_packing(name).endswith(PACKABLE)]
    named = [name for name in usable if name.endswith(wanted)]
    for choice in (named, usable):
        if len(choice) == 1:
            return archive.getinfo(choice[0])
    raise DataError(
        f"{path}: wanted one member that ends in {wanted}, or a single one that ends in "
        f"{', '.join(PACKABLE)} (or these packed); found {', '.join(names[:20]) or 'none'}. "
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
    if source.stream.peek(BUFFER_BYTES).startswith(BOM):
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
