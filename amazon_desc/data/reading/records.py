"""A file of products -> a Product or a Fault for every record, in order; of titles, a TitleRecord.

What is wrong with a product is a Fault with its place, and the caller decides whether to go on; of
a file of titles it is the reason that a TitleRecord has none to write for, as every record has to
be told of. What is wrong with the whole file raises DataError: missing, empty, damaged, or other
columns than the ones asked for. How files are opened is in sources.py, how records stand in them in
formats.py; no text is changed here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.data.reading.formats import AS_THEY_TELL, Form, read_records
from amazon_desc.data.reading.kept import Kept, kept_text
from amazon_desc.data.reading.sources import (
    LINE_TOO_LONG,
    NOT_UTF8,
    SUPPORTED,
    TRAIN_MEMBER,
    Fault,
    Meter,
    RawRecord,
    check_file,
    open_source,
    split_lines,
)
from amazon_desc.support.errors import DataError

__all__ = ["Fault", "Product", "TitleRecord", "read_products", "read_title_records"]

TITLE_EMPTY = "title is empty"

# Records looked at before a column counts as missing from the whole file, and how many columns of
# each are remembered for the refusal.
_LOOK_AHEAD = 100
_NUM_NAMES = 100


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
    and of the data set's .zip, in place, its `member`. An empty or null text is "", which cleaning
    refuses by name.

        {"title": "Mog's Kittens", "content": "A cat."}  -> Product("Mog's Kittens", "A cat.")
        {"title": "Mog's Kittens", "content": null}      -> Product("Mog's Kittens", "")
        {"title": "Mog's Kittens", "content": ["A cat"]} -> Fault(.., "description is not text")
        {"title": "Mog's Kit                             -> Fault(.., "not valid JSON")

    Raises:
        DataError: at once for a file that is missing, empty or of an unknown format; at the first
            record for columns that are missing or there twice; where the reader meets it for
            damage.
    """
    path = Path(path)
    check_file(path, SUPPORTED)
    options = {"title": title_column, "description": description_column}
    rows = read_records(path, list(options.values()), member, meter, form=form)
    return _checked(path, rows, options, _product)


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
        {"title": 5, "sku": 7}, `all` -> TitleRecord("", "title is not text", '{"sku":7}', ..)

    Raises:
        DataError: as read_products, also for a kept column that is missing. A file in which nothing
            but blank or unreadable records stand is none, unless its lines should be JSON and none
            of the first is.
    """
    path = Path(path)
    check_file(path, (".txt", *SUPPORTED))
    names = [] if isinstance(kept, str) else list(kept)
    if path.suffix.lower() == ".txt":
        if names:
            raise DataError(
                f"{path}: wanted {_columns_to_keep(names)}; a .txt file holds titles alone. Use "
                f"--data.keep_columns none, or write the titles with their columns as .csv or "
                f".jsonl."
            )
        return _text_records(path, meter)
    others = None if kept == "all" else names
    rows = read_records(path, [title_column], meter=meter, others=others, form=form)

    def record(row: RawRecord | Fault, _: dict[str, str]) -> TitleRecord:
        if isinstance(row, Fault):
            return TitleRecord("", row.reason, None, row.place)
        try:
            columns = kept_text(row.values, kept, title_column)
        except RecursionError:
            return TitleRecord("", "columns are nested too deep", None, row.place)
        title = row.values.get(title_column)
        if isinstance(title, str):  # as nearly all are
            return TitleRecord(title, "" if title.strip() else TITLE_EMPTY, columns, row.place)
        title = _text(row, title_column, "title")
        reason = title.reason if isinstance(title, Fault) else TITLE_EMPTY
        return TitleRecord("", reason, columns, row.place)

    return _checked(path, rows, {"title": title_column}, record, names)


def _text_records(path: Path, meter: Meter | None) -> Iterator[TitleRecord]:
    number = 0
    with open_source(path, meter=meter) as source:
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


def _product(row: RawRecord | Fault, options: dict[str, str]) -> Product | Fault:
    if isinstance(row, Fault):
        return row
    values = row.values
    title, description = values.get(options["title"]), values.get(options["description"])
    if isinstance(title, str) and isinstance(description, str):  # as nearly all are
        return Product(title, description, row.place)
    title = _text(row, options["title"], "title")
    if isinstance(title, Fault):
        return title
    description = _text(row, options["description"], "description")
    if isinstance(description, Fault):
        return description
    return Product(title, description, row.place)


def _text(row: RawRecord, column: str, word: str) -> str | Fault:
    """Reasons use our words, not the file's column names: they are counted across files."""
    if column not in row.values:
        return Fault(row.place, f"{word} is missing")
    value = row.values[column]
    if value is None:
        return ""
    return value if isinstance(value, str) else Fault(row.place, f"{word} is not text")


def _checked(
    path: Path,
    rows: Iterator[RawRecord | Fault],
    options: dict[str, str],
    make: Callable[..., Any],
    kept: Sequence[str] = (),
) -> Iterator[Any]:
    """What `make` makes of every record, once the first ones have shown that it has the columns.

    Until then no record is held, only what is made of it: of one line a million values may come.
    """
    first: list[Any] = []
    columns: dict[str, bool] | None = None  # whether any record has something in it
    missing = {*options.values(), *kept}
    for row in islice(rows, _LOOK_AHEAD):
        first.append(make(row, options))
        if isinstance(row, RawRecord):
            missing = missing - row.values.keys()
            columns = columns or {}
            for name in islice(row.values, _NUM_NAMES):
                columns[name] = columns.get(name, False) or bool(row.values[name])
        if not missing:
            break
    if not first:
        raise DataError(f"{path} is empty: it holds no record. Copy or download it again.")
    if missing and columns is not None:
        _refuse_columns(path, columns, missing, options, kept)
    return chain(first, (make(row, options) for row in rows))


def _refuse_columns(
    path: Path,
    columns: dict[str, bool],
    names: set[str],
    options: dict[str, str],
    kept: Sequence[str],
) -> None:
    missing = {word: name for word, name in options.items() if name in names}
    wanted = " and ".join(f"a column {name!r} with the {word}" for word, name in missing.items())
    found = ", ".join(str(column)[:40] for column in list(columns)[:20]) or "none"
    if not missing:
        wanted = _columns_to_keep([name for name in kept if name in names])
        remedy = "Use --data.keep_columns with names of these (as in sku,price), all or none."
    elif {"instruction", "output"} <= set(columns):
        remedy = _alpaca_remedy(columns, options)
    else:
        flags = " and ".join(f"--data.{word}_column" for word in missing)
        remedy = f"Name yours with {flags}."
    raise DataError(f"{path}: wanted {wanted}; the columns seen are {found}. {remedy}")


def _columns_to_keep(names: Sequence[str]) -> str:
    return " and ".join(f"a column {name!r}" for name in names) + " to keep"


def _alpaca_remedy(columns: dict[str, bool], options: dict[str, str]) -> str:
    """Alpaca rows keep the title in `input`, or in `instruction` where no row has an input."""
    title = "input" if columns.get("input") else "instruction"
    names = {"title": title, "description": "output"}
    advice = " ".join(f"--data.{word}_column {names[word]}" for word in options)
    return f"These look like Alpaca rows (instruction, input, output): use {advice}."
