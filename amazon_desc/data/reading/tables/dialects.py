"""The start of a CSV or TSV file -> its dialect: what separates fields, which line names columns.

A separator is known by the header and the first records, which have as many fields by it: rows are
parsed, no characters counted. The header is the first line that has the columns that are asked for,
or likely ones; lines in front of it are an export's own. Whether TSV quotes is found here too.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from amazon_desc.data.reading.columns import num_told
from amazon_desc.data.reading.files.sources import BOM, BUFFER_BYTES, Source
from amazon_desc.support.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
# Stands in no text: with it a line is a field.
ONE_COLUMN = "\x1f"

HEADER_ROWS = 20  # how many may stand in front of the header, or be it
_SAMPLE_ROWS = 120
_FEW = 5  # less records say little of all
_AGREE = 0.9  # so many of the records have as many fields as the header

_SEPARATOR_LINE = re.compile(r'"?sep=([^" ])"?\s*', re.IGNORECASE)
_SPELLED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
_QUOTE = re.compile(r'(?:^|(?<=\t))"', re.MULTILINE)
QUOTED = re.compile(r'"((?:[^"]|"")*+)"(?=[\t\r\n]|\Z)')


class Dialect(NamedTuple):
    """How a file separates and quotes, where its header is, and the records that show it."""

    separator: str
    is_quoted: bool
    header_line: int
    """the number of the line that names the columns, from 1"""
    header: list[str]
    sample: list[list[str]]
    """the first records behind the header, as their fields"""
    num_blank: int
    """how many blank fields stand behind the header's, as of a separator at each line's end"""
    remarks: tuple[str, ...]
    """what was found that the file does not tell itself, a sentence each"""


class _Guess(NamedTuple):
    separator: str
    is_quoted: bool
    header: int  # its index in the rows
    rows: list[tuple[int, list[str]]]  # each with the number of its first line
    score: tuple

    @property
    def names(self) -> list[str]:
        return self.rows[self.header][1] if self.rows else []

    @property
    def records(self) -> list[list[str]]:
        return [row for _, row in self.rows[self.header + 1 :]]


def dialect_of(
    source: Source, columns: Sequence[str], separator: str | None, header_row: int | None
) -> Dialect:
    """Returns how a file is to be read, from what can be seen of it without reading on.

        titulo;descricao            -> separator ";", header_line 1
        Export of May               -> separator ",", header_line 3 for columns title, content
        <blank>
        title,content

    Args:
        columns: those asked for
        separator: the one between fields if it is known, or a word for it, as `tab`
        header_row: the number of the line that names the columns, if it is known
    Raises:
        DataError: no such separator; the first line has fewer fields than the others,
            and no line names a known column; most records are longer than the header.
    """
    start = source.stream.peek(BUFFER_BYTES).removeprefix(BOM)
    text = start.decode(errors="replace").replace("\r\n", "\n").replace("\r", " ")
    own, told, first = "\t" if source.suffix == ".tsv" else ",", separator is not None, 1
    choices = [_separator(separator)] if separator is not None else _ordered(own)
    if line := _SEPARATOR_LINE.fullmatch(text.partition("\n")[0]):
        first = 2
        choices, told = (choices, told) if told else ([line[1]], True)
    first = header_row or first
    guesses = [_guess(text, choice, first, columns, header_row is not None) for choice in choices]
    # Where none is better, the first is taken, which is the suffix's own.
    best = max(guesses, key=lambda guess: guess.score)
    remarks = []
    if not best.rows:
        return Dialect(best.separator, best.is_quoted, first, [], [], 0, ())
    if header_row is None and not num_told(columns, best.names):
        _refuse_preamble(source.name, best)
    elif not told and best is guesses[0] and _is_one_column(best):
        best = best._replace(separator=ONE_COLUMN, rows=_one_column(text, best), header=0)
        remarks.append(f"{source.name}: there is one column, and {own!r} is a part of its texts")
    if best.separator not in (own, ONE_COLUMN) and not told:
        mark = "tabs" if best.separator == "\t" else f'"{best.separator}"'
        remarks.append(f"{source.name}: fields are separated by {mark} (--data.separator)")
    number = best.rows[best.header][0]
    if header_row is not None and number > header_row:
        refuse_header_row(source.name, header_row)
    if number > first:
        remarks.append(f"{source.name}: line {number} names the columns (--data.header_row)")
    num_blank = _num_blank(source.name, best)
    return Dialect(
        best.separator, best.is_quoted, number, best.names, best.records, num_blank, tuple(remarks)
    )


def _separator(spelled: str) -> str:
    separator = _SPELLED.get(spelled.lower(), spelled)
    if len(separator) != 1 or separator in '"\n\r\0':
        raise DataError(
            f"--data.separator {spelled!r}: wanted one character, as ; or |, or the word tab. "
            "Leave it away, and it is found."
        )
    return separator


def _ordered(own: str) -> list[str]:
    return [own, *(mark for mark in SEPARATORS if mark != own)]


def _guess(
    text: str, separator: str, first: int, columns: Sequence[str], is_header_known: bool
) -> _Guess:
    is_quoted = separator != "\t" or clearly_quotes(text)
    rows = list(_rows(text, separator, is_quoted, first))
    header = 0 if is_header_known else header_of([row for _, row in rows], columns)
    names = rows[header][1] if rows else []
    records = rows[header + 1 :]
    num_agreeing = sum(len(row) == len(names) for _, row in records)
    agrees = len(names) > 1 and num_agreeing >= _AGREE * len(records)
    score = (num_told(columns, names), agrees)
    return _Guess(separator, is_quoted, header, rows, score)


def _rows(
    text: str, separator: str, is_quoted: bool, first: int
) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its line, fields) of each row that is not blank, up to a broken one."""
    lines = text.split("\n")[first - 1 :]
    if len(lines) > 3:
        lines.pop()  # an empty one, or a line of which the rest was not seen
    quoting = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
    reader = csv.reader(
        (f"{line}\n" for line in lines), delimiter=separator, quoting=quoting, strict=True
    )
    number, num_rows = first, 0
    while num_rows < _SAMPLE_ROWS:
        try:
            row = next(reader, None)
        except csv.Error:
            return
        if row is None:
            return
        if "".join(row).strip():
            yield number, row
            num_rows += 1
        number = first + reader.line_num


def header_of(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> int:
    """Returns the index of the row that names the columns: the first, or one behind a preamble.

    Each row in front of it has fewer fields that are filled, or the first names nothing known. Of
    two rows with likely names the second counts, as in Amazon's own files, where words for people
    stand over the names.
    """
    best, most = 0, num_told(columns, rows[0]) if rows else 0
    num_filled = [sum(bool(str(field).strip()) for field in row) for row in rows[:HEADER_ROWS]]
    for place in range(1, len(num_filled)):
        told, behind_labels = num_told(columns, rows[place]), best == place - 1 and most >= 2
        is_longer = all(number < num_filled[place] for number in num_filled[:place])
        names_more = told > most and (is_longer or (most == 0 and told > 1))
        are_names = behind_labels and told >= most and _are_names(rows[place], rows[best])
        if names_more or are_names:
            best, most = place, told
    return best


def _are_names(row: Sequence[str], labels: Sequence[str]) -> bool:
    """Says whether every field is a name as programs have it, for a label above: item_name."""
    names, texts = ([str(field).strip() for field in fields] for fields in (row, labels))
    is_named = list(map(bool, names)) == list(map(bool, texts))
    return is_named and all(re.fullmatch(r"[a-z0-9_#]*", name) for name in names)


def _one_column(text: str, guess: _Guess) -> list[tuple[int, list[str]]]:
    first = guess.rows[guess.header][0]
    return list(_rows(text, ONE_COLUMN, guess.is_quoted, first)) or guess.rows[guess.header :]


def _is_one_column(guess: _Guess) -> bool:
    return len(guess.names) == 1 and any(len(row) > 1 for row in guess.records)


def refuse_header_row(name: str, header_row: int) -> NoReturn:
    raise DataError(
        f"{name}: --data.header_row {header_row}: wanted a line that names the columns, found none "
        "there. Lines are counted from 1, blank ones too."
    )


def _refuse_preamble(name: str, guess: _Guess) -> None:
    """Refuses a first line that is a title or a note, with the line that may name the columns."""
    lengths = Counter(sum(bool(field.strip()) for field in row) for _, row in guess.rows)
    length, number = lengths.most_common(1)[0]
    first = sum(bool(field.strip()) for field in guess.rows[0][1])
    if number < 3 or first >= length:
        return
    line, row = next(
        (line, row)
        for line, row in guess.rows
        if sum(bool(field.strip()) for field in row) >= length
    )
    found = ", ".join(field.strip()[:40] for field in row[:20])
    raise DataError(
        f"{name}: wanted the names of the columns in line {guess.rows[0][0]}, found fewer fields "
        f"than in the lines after it. Line {line} may name them ({found}): use --data.header_row "
        f"{line}, and --data.title_column and --data.description_column."
    )


def _num_blank(name: str, guess: _Guess) -> int:
    """Returns how many blank fields most records have behind the header's; refuses filled ones."""
    num_names, num_records = len(guess.names), len(guess.records)
    longer = [row[num_names:] for row in guess.records if len(row) > num_names]
    if len(longer) <= num_records // 2:
        return 0
    if not any(field.strip() for fields in longer for field in fields):
        return max(map(len, longer))
    if num_records < _FEW:
        return 0
    mark = "a tab" if guess.separator == "\t" else f'"{guess.separator}"'
    raise DataError(
        f"{name}: wanted as many fields in a record as line {guess.rows[guess.header][0]} names "
        f"columns ({num_names}), found more in {len(longer)} of the first {num_records}. Put texts "
        f"that hold {mark} into quotes, or see whether --data.separator and --data.header_row fit."
    )


def clearly_quotes(text: str) -> bool:
    """Says whether a TSV file that starts like this puts texts in quotes, as CSV does.

    It does if its header is in quotes; if more fields are quoted and have to be than begin with a
    quote that only stands there; or, as Excel does it, if commas stand in quoted fields alone.

        title<TAB>content                   title<TAB>content
        Mug<TAB>"A ""great"" mug"           Mug<TAB>"Great" said Mary.
        -> True                             -> False
    """
    header = text.partition("\n")[0].rstrip("\r").split("\t")
    if all(len(name) > 1 and QUOTED.fullmatch(name) for name in header):
        return True
    num_needed, num_loose, has_commas, place = 0, 0, False, 0
    rest: list[str] = []
    while quote := _QUOTE.search(text, place):
        rest.append(text[place : quote.start()])
        quoted = QUOTED.match(text, quote.start())
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
