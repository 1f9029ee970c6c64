"""CSV and TSV -> records as (place, {column: value}), or a Fault for each that cannot be read.

A quote that nobody closed takes the lines after it into its text. Of CSV, where lines in quotes are
text, what looks like it is noted for the report; TSV is read without quoting, so that a quote is a
character like any, unless the file clearly quotes.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from amazon_desc.data.reading.sources import (
    BOM,
    BUFFER_BYTES,
    LINE_BYTES,
    LINE_TOO_LONG,
    NOT_UTF8,
    Fault,
    LongRecords,
    RawRecord,
    Source,
    split_lines,
)
from amazon_desc.support.errors import DataError

QUOTE_NOT_CLOSED = "quote not closed"

# Stands for a carriage return while the csv module reads, which ends a line at one outside of
# quotes. A record with a NUL of its own is a Fault.
_RETURN = b"\0"

# Descriptions have lines of their own; more of them than this may be other products.
MANY_LINES = 20

_QUOTE = re.compile(r'(?:^|(?<=\t))"', re.MULTILINE)
_QUOTED = re.compile(r'"((?:[^"]|"")*+)"(?=[\t\r\n]|\Z)')


def delimited_rows(
    source: Source, columns: Sequence[str] | None, long_records: LongRecords
) -> Iterator[RawRecord | Fault]:
    """Yields every record of a CSV or TSV file, whose first line names its columns.

    Of `columns` there may be only one of a name; None: of all that have one, as those that Excel
    adds at the end have not.
    """
    delimiter = "\t" if source.suffix == ".tsv" else ","
    is_quoted = delimiter == "," or clearly_quotes(source.stream.peek(BUFFER_BYTES))
    header: list[str] | None = None
    for lines, row in _records(source, delimiter, is_quoted):
        place = f"{source.name}, line {lines[0][0]}"
        if header is None:
            if isinstance(row, str):
                raise DataError(f"{place}: the line that names the columns cannot be read: {row}.")
            header = row if "".join(row).strip() else None
            refuse_twins(source.name, row, list(filter(None, row)) if columns is None else columns)
        elif isinstance(row, str):
            yield Fault(place, row)
        elif len(row) > len(header):
            yield Fault(place, "more fields than columns")
        else:
            if len(lines) > 1 and _may_hold_others(lines, delimiter, len(header)):
                long_records.add(place, len(lines))
            yield RawRecord(place, dict(zip(header, row, strict=False)))


def refuse_twins(name: str, header: Sequence[str], columns: Sequence[str]) -> None:
    """Refuses a file with two columns of a name that is asked for."""
    for column, number in Counter(header).items():
        if number > 1 and column in columns:
            raise DataError(
                f"{name}: wanted one column {column!r}, found {number}. Which one is meant cannot "
                f"be told: give the others another name."
            )


def clearly_quotes(start: bytes) -> bool:
    """Says whether a TSV file that starts like this puts texts in quotes, as CSV does.

    It does if its header is in quotes; if more fields are quoted and have to be than begin with a
    quote that only stands there; or, as Excel does it, if commas stand in quoted fields alone.

        title<TAB>content                   title<TAB>content
        Mug<TAB>"A ""great"" mug"           Mug<TAB>"Great" said Mary.
        -> True                             -> False
    """
    text = start.removeprefix(BOM).decode(errors="replace")
    header = text.partition("\n")[0].rstrip("\r").split("\t")
    if all(len(name) > 1 and _QUOTED.fullmatch(name) for name in header):
        return True
    num_needed, num_loose, has_commas, place = 0, 0, False, 0
    rest: list[str] = []
    while quote := _QUOTE.search(text, place):
        rest.append(text[place : quote.start()])
        quoted = _QUOTED.match(text, quote.start())
        if quoted is None or _holds_rows(quoted[1], len(header)):
            num_loose += 1
            place = quote.end()
            continue
        place = quoted.end()
        num_needed += any(sign in quoted[1] for sign in ('""', "\t", "\n"))
        has_commas |= "," in quoted[1]
    rest.append(text[place:])
    has_commas &= not any("," in part for part in rest)
    return num_needed > num_loose or (has_commas and num_loose == 0)


def _holds_rows(text: str, num_columns: int) -> bool:
    return any(line.count("\t") >= num_columns - 1 for line in text.split("\n")[1:])


def _may_hold_others(
    lines: Sequence[tuple[int, bytes | None]], delimiter: str, num_columns: int
) -> bool:
    """Says whether a record's lines after the first are many, or look like records themselves.

    A text of two or three lines may look like that too, so of two columns a single line says
    nothing.
    """
    if len(lines) > MANY_LINES:
        return True
    mark = delimiter.encode()
    are_rows = all(line and line.count(mark) == num_columns - 1 for _, line in lines[1:])
    return are_rows and num_columns > 1 and num_columns + len(lines) > 4


class _Lines:
    """Decoded lines for the csv module; those of the current record, and what was wrong in them."""

    def __init__(self, source: Source):
        self._lines = split_lines(source)
        self._again: deque[tuple[int, bytes | None]] = deque()
        self.record: list[tuple[int, bytes | None]] = []
        self.flaw = ""
        self.has_return = False

    def __iter__(self) -> Iterator[str]:
        record, again, num_bytes = self.record, self._again, 0
        while numbered := again.popleft() if again else next(self._lines, None):
            num_bytes = num_bytes if record else 0
            record.append(numbered)
            line = numbered[1]
            if line is None or num_bytes + len(line) > LINE_BYTES:
                raise csv.Error(LINE_TOO_LONG)
            num_bytes += len(line)
            if b"\0" in line:
                self.flaw = "NUL character"
            if b"\r" in line:
                self.has_return = True
                line = line.rstrip(b"\r").replace(b"\r", _RETURN)
            try:
                yield line.decode() + "\n"
            except UnicodeDecodeError:
                self.flaw = NOT_UTF8
                yield line.decode(errors="replace") + "\n"

    def give_up(self) -> str:
        """Says why the record cannot be used; its lines but the first are read once more.

        A quote that is not closed takes the good lines after it into its record.
        """
        self._again.extendleft(reversed(self.record[1:]))
        if len(self.record) > 1:
            return QUOTE_NOT_CLOSED
        return LINE_TOO_LONG if self.record[0][1] is None else self.flaw or "not valid CSV"


def _records(
    source: Source, delimiter: str, is_quoted: bool
) -> Iterator[tuple[list[tuple[int, bytes | None]], list[str] | str]]:
    """Yields (numbered lines, fields or the reason why there are none)."""
    lines = _Lines(source)
    quoting = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        lines.record.clear()
        lines.flaw = ""
        # The limit belongs to the whole process: others find it as they left it.
        limit = csv.field_size_limit(LINE_BYTES)
        try:
            row = next(reader, None)
            flaw = lines.flaw
        except csv.Error:
            row, flaw = [], lines.give_up()
            reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        if lines.has_return:
            lines.has_return = False
            row = [text.replace("\0", "\r") for text in row]
        if not is_quoted:
            row = list(map(_unquoted, row))
        if row or flaw:
            yield lines.record, flaw or row


def _unquoted(text: str) -> str:
    """A field in quotes with doubled ones in it is quoted, whatever the other fields are."""
    if text[:1] == '"' and '""' in text and (quoted := _QUOTED.fullmatch(text)):
        return quoted[1].replace('""', '"')
    return text
