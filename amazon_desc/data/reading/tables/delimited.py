"""CSV and TSV -> records as (place, {column: value}), or a Fault for each that cannot be read.

How a file separates fields, quotes and names columns is found in dialects.py. A quote that nobody
closed takes the lines after it into its text. Of CSV, where lines in quotes are text, what looks
like it is noted for the report; in TSV a quote is a character like any, unless it clearly quotes.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from amazon_desc.data.reading.files.sources import (
    LINE_BYTES,
    LINE_TOO_LONG,
    NOT_UTF8,
    Fault,
    Meter,
    RawRecord,
    Source,
    split_lines,
)
from amazon_desc.data.reading.tables.cells import mends_of
from amazon_desc.data.reading.tables.dialects import QUOTED, Dialect, dialect_of, refuse_header_row
from amazon_desc.support.errors import DataError

QUOTE_NOT_CLOSED = "quote not closed"

# Stands for a carriage return while the csv module reads, which ends a line at one outside of
# quotes. A record with a NUL of its own is a Fault.
_RETURN = b"\0"

# Descriptions have lines of their own; more of them than this may be other products.
MANY_LINES = 20


def delimited_rows(
    source: Source,
    columns: Sequence[str],
    others: Sequence[str] | None,
    meter: Meter,
    separator: str | None = None,
    header_row: int | None = None,
) -> Iterator[RawRecord | Fault]:
    """Yields every record of a CSV or TSV file behind the line that names its columns.

    Args:
        columns: those that hold text, of each of which there may be only one
        others: as `columns`, for all that is to be carried on; None: all that have a name, as those
            that Excel adds at the end have not
        separator: what stands between the fields; None: what the first records show
        header_row: the line that names the columns, from 1; None: the first that can
    """
    dialect = dialect_of(source, columns, separator, header_row)
    mends, remarks = mends_of(source.name, dialect.header, dialect.sample, columns)
    meter.remarks += [*dialect.remarks, *remarks]
    header: list[str] | None = None
    for lines, row in _records(source, dialect):
        place = f"{source.name}, line {lines[0][0]}"
        if header is None:
            if isinstance(row, str):
                raise DataError(f"{place}: the line that names the columns cannot be read: {row}.")
            header = [*row, *[""] * dialect.num_blank] if "".join(row).strip() else None
            single = list(filter(None, row)) if others is None else [*columns, *others]
            refuse_twins(source.name, row, single)
        elif isinstance(row, str):
            yield Fault(place, row)
        elif len(row) > len(header):
            yield Fault(place, "more fields than columns")
        else:
            if len(lines) > 1 and _may_hold_others(lines, dialect.separator, len(header)):
                meter.long_records.add(place, len(lines))
            values: dict[str, object] = dict(zip(header, row, strict=False))
            for column, mend in mends.items():
                if column in values:
                    values[column] = mend(str(values[column]))
            yield RawRecord(place, values)
    if header is None and header_row is not None:
        refuse_header_row(source.name, header_row)


def refuse_twins(name: str, header: Sequence[str], columns: Sequence[str]) -> None:
    """Refuses a file with two columns of a name that is asked for."""
    for column, number in Counter(header).items():
        if number > 1 and column in columns:
            raise DataError(
                f"{name}: wanted one column {column!r}, found {number}. Which one is meant cannot "
                f"be told: give the others another name."
            )


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

    def __init__(self, source: Source, first: int):
        self._lines = (line for line in split_lines(source) if line[0] >= first)
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
    source: Source, dialect: Dialect
) -> Iterator[tuple[list[tuple[int, bytes | None]], list[str] | str]]:
    """Yields (numbered lines, fields or the reason why there are none)."""
    lines = _Lines(source, dialect.header_line)
    quoting = csv.QUOTE_MINIMAL if dialect.is_quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=dialect.separator, quoting=quoting, strict=True)
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
            reader = csv.reader(lines, delimiter=dialect.separator, quoting=quoting, strict=True)
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        if lines.has_return:
            lines.has_return = False
            row = [text.replace("\0", "\r") for text in row]
        if not dialect.is_quoted:
            row = list(map(_unquoted, row))
        if row or flaw:
            yield lines.record, flaw or row


def _unquoted(text: str) -> str:
    """A field in quotes with doubled ones in it is quoted, whatever the other fields are."""
    if text[:1] == '"' and '""' in text and (quoted := QUOTED.fullmatch(text)):
        return quoted[1].replace('""', '"')
    return text
