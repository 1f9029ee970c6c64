"""The forms of an output: JSON Lines, CSV or Parquet, by its name.

A file grows as JSON Lines, which can be resumed at any line. In come such lines, out goes the file
in its form, whole or not at all; and the other way round, when records were added to its input.
Memory does not grow with the file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from amazon_desc.run.predicting.records import OWN, Record
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.files import replacing_file, sync_folder

Form = Literal["jsonl", "csv", "parquet"]
FORMS: dict[str, Form] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}

# A spreadsheet takes what begins so for a formula, also in its wide letters, and may run it. One
# that is defused has a quote before it, and one that had quotes has one more.
FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*%?")

# Rows of a group of a Parquet file.
ROWS_PER_GROUP = 10_000


def form_of(output: Path) -> Form:
    """Returns the form that a file's name asks for.

    Raises:
        UserError: it asks for none.
    """
    form = FORMS.get(output.suffix.lower())
    if form is None:
        raise UserError(
            f"--data.output {output}: wanted a name that ends in {', '.join(FORMS)}, found "
            f"{output.suffix or 'no ending'}. Give it one of these endings."
        )
    return form


def write_form(lines: Path, output: Path) -> None:
    """Makes a whole file of lines the output, in the form that its name asks for.

    The lines are gone afterwards. An interrupted call leaves them, and may be made again.
    """
    form = form_of(output)
    if form == "jsonl":
        lines.replace(output)
        sync_folder(output.parent)
        return
    with replacing_file(output) as temporary:
        WRITERS[form](lines, temporary)
    lines.unlink()


def read_form(output: Path) -> Iterator[Record]:
    """Yields the records that a file was written from, with our columns alone.

    Raises:
        DataError: it is no such file, or not any more.
    """
    try:
        yield from READERS[form_of(output)](output)
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(
            f"{output} is not as it was written: {' '.join(str(error).split())}"
        ) from error


def records_in(lines: Path) -> Iterator[Record]:
    with lines.open("rb") as file:
        for line in file:
            yield json.loads(line)


# Columns


def types_of(lines: Path) -> dict[str, str]:
    """Returns the columns of all records, ours first, and the one type that each of them has.

    {"sku": 7, "size": null}, {"sku": 8, "size": [1]} -> sku: int, size: json
    """
    found: dict[str, set[str]] = {name: set() for name in OWN}
    for record in records_in(lines):
        for name, value in record.items():
            found.setdefault(name, set()).add(type_of(value))
    is_there = {name: kinds - {"null"} for name, kinds in found.items() if kinds or name in OWN[:6]}
    return {name: merged_type(kinds) for name, kinds in is_there.items()}


def type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "json"


def merged_type(kinds: set[str]) -> str:
    """Returns the type of a column whose values have these: {"int", "float"} -> float"""
    if not kinds:
        return "text"
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "json"


def cell_of(value: Any, kind: str) -> Any:
    """Returns a value as its column has it; of a column of several types, as JSON."""
    if kind == "json" and value is not None:
        return json.dumps(value, ensure_ascii=False)
    return value


# JSON Lines


def read_jsonl(output: Path) -> Iterator[Record]:
    for record in records_in(output):
        if not isinstance(record, dict):
            raise TypeError(f"wanted an object in each line, found {type(record).__name__}")
        yield {name: record[name] for name in OWN if name in record}


# CSV


def write_csv(lines: Path, output: Path) -> None:
    types = types_of(lines)
    with output.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(map(defused, types))
        for record in records_in(lines):
            table.writerow(shown(cell_of(record.get(name), kind)) for name, kind in types.items())


def shown(value: Any) -> str:
    """Returns a value as a cell: texts defused, nothing for null, numbers and truth as in JSON."""
    if value is None:
        return ""
    return defused(value) if isinstance(value, str) else json.dumps(value)


def defused(text: str) -> str:
    """Returns a text that no spreadsheet runs: "=1+1" -> "'=1+1", "- 5" -> "'- 5", "-5" -> "-5"."""
    is_formula = FORMULA.match(text) and not NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def as_it_was(text: str) -> str:
    """Undoes `defused`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def read_csv(output: Path) -> Iterator[Record]:
    """Yields our columns alone: the shop's are in its own file."""
    csv.field_size_limit(2**31 - 1)
    with output.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if missing := [name for name in OWN[:5] if name not in (table.fieldnames or ())]:
            raise LookupError(f"no column {missing[0]}")
        for cells in table:
            record: Record = {name: as_it_was(cells[name]) for name in OWN if cells.get(name)}
            for name in ("row", "num_tokens"):
                record[name] = int(record[name])
            for name in ("title", "description"):
                record.setdefault(name, "")
            if "candidates" in record:
                record["candidates"] = json.loads(record["candidates"])
            yield {name: record[name] for name in OWN if name in record}


# Parquet


def write_parquet(lines: Path, output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = types_of(lines)
    text = pa.struct(
        [("description", pa.string()), ("finish_reason", pa.string()), ("num_tokens", pa.int64())]
    )
    of_kind = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
    fields = {name: of_kind.get(kind, pa.string()) for name, kind in types.items()}
    if "candidates" in fields:
        types["candidates"], fields["candidates"] = "texts", pa.list_(text)
    schema, records = pa.schema(list(fields.items())), records_in(lines)
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        while some := list(islice(records, ROWS_PER_GROUP)):
            columns = {n: [cell_of(r.get(n), kind) for r in some] for n, kind in types.items()}
            writer.write_table(pa.table(columns, schema=schema))


def read_parquet(output: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(output) as file:
        columns: Sequence[str] = [name for name in OWN if name in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=columns):
            for record in batch.to_pylist():
                yield {name: value for name, value in record.items() if value is not None}


WRITERS = {"csv": write_csv, "parquet": write_parquet}
READERS = {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet}
