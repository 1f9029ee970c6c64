"""A file of products -> a Product or a Fault for every record, in order; of titles, a TitleRecord.

What is wrong with a product is a Fault with its place, and the caller decides whether to go on; of
a file of titles it is the reason that a TitleRecord has none to write for, as every record has to
be told of. What is wrong with the whole file raises DataError: missing, empty, damaged, or other
columns than the ones asked for. How files are opened is in sources.py, how records stand in them in
formats.py; no text is changed here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from amazon_desc.data.reading.columns import candidates, outer
from amazon_desc.data.reading.files.kinds import SUPPORTED
from amazon_desc.data.reading.files.packing import without_packing
from amazon_desc.data.reading.files.sources import (
    LINE_TOO_LONG,
    NOT_UTF8,
    TRAIN_MEMBER,
    Fault,
    Meter,
    RawRecord,
    check_file,
    open_source,
    split_lines,
)
from amazon_desc.data.reading.first_records import Found, columns_to_keep, find_columns
from amazon_desc.data.reading.formats import AS_THEY_TELL, Form, read_records
from amazon_desc.data.reading.kept import Kept, kept_text
from amazon_desc.data.reading.values import Where, description_text, single_text, value_at
from amazon_desc.support.errors import DataError

__all__ = ["Fault", "Product", "TitleRecord", "read_products", "read_title_records"]

# Reasons use our words, not the file's column names: they are counted across files.
TITLE_EMPTY, TITLE_MISSING = "title is empty", "title is missing"
TITLE_NO_TEXT, DESCRIPTION_NO_TEXT = "title is not text", "description is not text"


@dataclass(frozen=True, slots=True)
class Product:
    """A title and the description that was written for it; either may be empty."""

    title: str
    description: str
    place: str = field(default="", compare=False)  # where it was read: "trn.json.gz, line 812"


class TitleRecord(NamedTuple):
    """A record of a file of titles, whatever is in it."""

    title: str
    """as it was read; an empty text where none could be"""
    reason: str
    """why there is nothing to write for; an empty text where there is"""
    kept: str | None
    """its kept columns as a JSON object; None: none are, or it could not be read"""
    place: str


def read_products(
    path: Path,
    title_column: str = "title",
    description_column: str = "content",
    member: str = TRAIN_MEMBER,
    meter: Meter | None = None,
    form: Form = AS_THEY_TELL,
) -> Iterator[Product | Fault]:
    """Yields one Product or Fault for every record of a file, in the file's order.

    Reads .json (an object a line, or one array), .jsonl, .csv and .tsv, all also as .gz; .parquet;
    .xlsx and .ods; and of the data set's .zip, in place, its `member`. A text that is empty, null
    or not there is "", which cleaning refuses by name. Numbers become text, and of a list each
    value a line.

        {"title": "Mog's Kittens", "content": "A cat."}    -> Product("Mog's Kittens", "A cat.")
        {"title": "Mog's Kittens", "content": null}        -> Product("Mog's Kittens", "")
        {"title": 1984, "content": ["A man.", "A screen"]} -> Product("1984", "A man.\\nA screen")
        {"title": "Mog's Kittens", "content": {}}          -> Fault(.., "description is not text")
        {"title": "Mog's Kit                               -> Fault(.., "not valid JSON")

    Args:
        description_column: one, or several with commas between them, whose texts are joined by
            line; like the title's it may lead into objects, as in `product.description`

    Raises:
        DataError: at once for a file that is missing, empty or of an unknown format; at the first
            record for columns that are missing or there twice; where the reader meets it for
            damage.
    """
    path = Path(path)
    check_file(path, SUPPORTED)
    meter = meter or Meter()
    read = partial(read_records, member=member, form=form)
    found = _found_columns(path, {"title": title_column, "description": description_column}, read)
    meter.remarks += found.remarks
    rows = read(path, found.columns, meter=meter, others=found.outer)
    return map(_product_of(found), rows)


def read_title_records(
    path: Path,
    title_column: str = "title",
    kept: Kept = "none",
    meter: Meter | None = None,
    form: Form = AS_THEY_TELL,
) -> Iterator[TitleRecord]:
    """Yields one TitleRecord for every record of a file, in the file's order.

    Reads what read_products reads, and .txt with a title on every line, where a blank line is a
    record too; elsewhere blank lines stand between records, as the formats have it.

        "Mog's Kittens\\n\\n" -> TitleRecord("Mog's Kittens", "", None, "titles.txt, line 1"),
                               TitleRecord("", "title is empty", None, "titles.txt, line 2")
        {"title": [], "sku": 7}, `all` -> TitleRecord("", "title is not text", '{"sku":7}', ..)

    Raises:
        DataError: as read_products, also for a kept column that is missing. A file in which nothing
            but blank or unreadable records stand is none, unless its lines should be JSON and none
            of the first is.
    """
    path = Path(path)
    check_file(path, (".txt", *SUPPORTED))
    names = [] if isinstance(kept, str) else list(kept)
    if without_packing(path.name).endswith(".txt"):
        if names:
            raise DataError(
                f"{path}: wanted {columns_to_keep(names)}; a .txt file holds titles alone. Use "
                f"--data.keep_columns none, or write the titles with their columns as .csv or "
                f".jsonl."
            )
        return _text_records(path, meter, form)
    meter = meter or Meter()
    read = partial(read_records, form=form)
    found = _found_columns(path, {"title": title_column}, read, names)
    meter.remarks += found.remarks
    others = None if kept == "all" else [*names, *found.outer]
    rows = read(path, found.columns, meter=meter, others=others)
    return map(partial(_title_record, found.wheres["title"][0], kept), rows)


def _title_record(title_at: Where, kept: Kept, row: RawRecord | Fault) -> TitleRecord:
    first, *inner = title_at
    if isinstance(row, Fault):
        return TitleRecord("", row.reason, None, row.place)
    try:
        columns = kept_text(row.values, kept, None if inner else first)
    except RecursionError:
        return TitleRecord("", "columns are nested too deep", None, row.place)
    value = value_at(row.values, title_at)
    title = single_text(value)
    if title is None:
        return TitleRecord("", TITLE_NO_TEXT, columns, row.place)
    if title.strip():  # as nearly all are
        return TitleRecord(title, "", columns, row.place)
    is_missing = value is None and first not in row.values
    return TitleRecord(title, TITLE_MISSING if is_missing else TITLE_EMPTY, columns, row.place)


def _text_records(path: Path, meter: Meter | None, form: Form) -> Iterator[TitleRecord]:
    number = 0
    with open_source(path, meter=meter, encoding=form.encoding) as source:
        for number, line in split_lines(source):
            yield _text_record(f"{source.name}, line {number}", line)
    if number == 0:
        raise DataError(f"{path} is empty: wanted a title on every line, found none.")


def _text_record(place: str, line: bytes | None) -> TitleRecord:
    if line is None:
        return TitleRecord("", LINE_TOO_LONG, None, place)
    try:
        title = line.decode()
    except UnicodeDecodeError:
        return TitleRecord("", NOT_UTF8, None, place)
    return TitleRecord(title, "" if title.strip() else TITLE_EMPTY, None, place)


def _product_of(found: Found) -> Callable[[RawRecord | Fault], Product | Fault]:
    """Returns what makes a Product of each record; the places of its texts are the same in all."""
    title_at, description_at = found.wheres["title"][0], found.wheres["description"]

    def any_product(row: RawRecord | Fault) -> Product | Fault:
        if isinstance(row, Fault):
            return row
        title = single_text(value_at(row.values, title_at))
        if title is None:
            return Fault(row.place, TITLE_NO_TEXT)
        description = description_text(row.values, description_at)
        if description is None:
            return Fault(row.place, DESCRIPTION_NO_TEXT)
        return Product(title, description, row.place)

    if len(found.columns) != 2 or found.outer:
        return any_product
    title_column, description_column = found.columns

    def product(row: RawRecord | Fault) -> Product | Fault:
        if isinstance(row, Fault):
            return row
        values = row.values
        title, description = values.get(title_column), values.get(description_column)
        if isinstance(title, str) and isinstance(description, str):  # as nearly all are
            return Product(title, description, row.place)
        return any_product(row)

    return product


def _found_columns(
    path: Path,
    asked: dict[str, str],
    read: Callable[..., Iterator[RawRecord | Fault]],
    kept: Sequence[str] = (),
) -> Found:
    """Reads the start of the file for its columns; it is opened anew for its records.

    So no record is held until the columns are known: of one line a million values may come.
    """
    names = list(asked.values())
    others = [*kept, *outer(names)]
    rows = read(path, candidates(names), meter=Meter(), others=others)
    return find_columns(path, rows, asked, kept)
