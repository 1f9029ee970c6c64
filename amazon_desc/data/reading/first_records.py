"""The first records of a file -> which of its columns hold title and description, or a refusal.

In come the columns that the options name, out go those of the file: with other case or spaces,
several that are joined, one inside of another, or, where nobody named any, the only likely ones.
What is missing from all of the first records is missing from the file. Only names are held here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.data.reading.columns import (
    DEFAULTS,
    candidates,
    likely,
    matching,
    option,
    parts_of,
)
from amazon_desc.data.reading.files.sources import Fault, RawRecord
from amazon_desc.data.reading.values import Where, joined_text, kind_of
from amazon_desc.support.errors import DataError

# Records looked at before a column counts as missing from the whole file, and how many columns of
# each are remembered for the refusal.
_LOOK_AHEAD = 100
_NUM_NAMES = 1_000
_NUM_INNER = 20  # of each object


class Found(NamedTuple):
    """Where a file has what is asked for, and a sentence on it if that is not plain."""

    wheres: dict[str, list[Where]]
    """for title and description, each as asked for; of several the texts are joined"""
    remarks: list[str]

    @property
    def columns(self) -> list[str]:
        """those that hold a text themselves"""
        return [where[0] for wheres in self.wheres.values() for where in wheres if len(where) == 1]

    @property
    def outer(self) -> list[str]:
        """those that hold columns of their own"""
        return [where[0] for wheres in self.wheres.values() for where in wheres if len(where) > 1]


@dataclass
class _Column:
    """What was seen in a column: anything, a text or what becomes one, or what that was not."""

    has_values: bool = False
    has_texts: bool = False
    other: str = ""


@dataclass
class _Seen:
    num_records: int = 0
    num_read: int = 0
    columns: dict[str, _Column] = field(default_factory=dict)
    nested: dict[Where, _Column] = field(default_factory=dict)
    inner: dict[str, None] = field(default_factory=dict)
    """names that lead to one in an object: product.text"""
    lists: set[Where] = field(default_factory=set)
    """where a path ends at a list of objects"""


def find_columns(
    path: Path,
    rows: Iterable[RawRecord | Fault],
    asked: dict[str, str],
    kept: Sequence[str] = (),
) -> Found:
    """Returns where the columns are, by the first record that has them all, or the first hundred.

        {"title": "title", "description": "content"}, columns title, content
            -> {"title": [("title",)], "description": [("content",)]}
        {"title": "name", "description": "text, product.notes"}, columns Name, text, product
            -> {"title": [("Name",)], "description": [("text",), ("product", "notes")]}

    Args:
        asked: the options' columns, for `title` and, of products, for `description`
        kept: columns that have to be there, too
    Raises:
        DataError: a column is missing, may be one of several, or holds no text at all.
    """
    seen = _look(rows, asked, kept)
    if not seen.num_records:
        raise DataError(f"{path} is empty: it holds no record. Copy or download it again.")
    if not seen.num_read:  # nothing tells, so each is taken for what it says
        lists = {w: parts_of(name) if w == "description" else [name] for w, name in asked.items()}
        return Found({word: [(name,) for name in names] for word, names in lists.items()}, [])
    wheres: dict[str, list[Where]] = {}
    for word, column in asked.items():
        if (found := _resolved(path, seen, word, column)) is not None:
            wheres[word] = found
    taken = _taken(seen, asked, wheres)
    wheres |= {word: [(column,)] for word, column in taken.items()}
    missing = {word: column for word, column in asked.items() if word not in wheres}
    absent = [name for name in kept if name not in seen.columns]
    if missing or absent:
        _refuse_columns(path, seen, missing, asked, absent)
    for word, places in wheres.items():
        _refuse_no_text(path, seen, word, places)
    return Found({word: wheres[word] for word in asked}, _remarks(path, asked, wheres))


def _look(rows: Iterable[RawRecord | Fault], asked: dict[str, str], kept: Sequence[str]) -> _Seen:
    seen = _Seen()
    names = {*asked.values(), *kept}
    wanted = [*candidates(asked.values()), *kept]
    paths = [tuple(name.split(".")) for name in wanted if "." in name]
    for row in islice(rows, _LOOK_AHEAD):
        seen.num_records += 1
        if not isinstance(row, RawRecord):
            continue
        seen.num_read += 1
        _add(seen, row.values, wanted, paths)
        if names <= seen.columns.keys() and all(
            seen.columns[name].has_texts for name in asked.values()
        ):
            break
    return seen


def _add(seen: _Seen, values: dict[str, Any], wanted: list[str], paths: list[Where]) -> None:
    for name in {**dict.fromkeys(islice(values, _NUM_NAMES)), **dict.fromkeys(wanted)}:
        if name in values:
            _note(seen.columns.setdefault(name, _Column()), value := values[name])
            if isinstance(value, dict):
                seen.inner |= {f"{name}.{key}": None for key in islice(value, _NUM_INNER)}
    for where in paths:
        value: Any = values
        for depth, key in enumerate(where):
            if isinstance(value, list) and depth and any(isinstance(v, dict) for v in value):
                seen.lists.add(where)
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            _note(seen.nested.setdefault(where, _Column()), value)


def _note(column: _Column, value: Any) -> None:
    column.has_values |= bool(value)
    if value is None:
        return
    if joined_text(value) is None:
        column.other = column.other or kind_of(value)
    elif isinstance(value, list) and value:
        column.other = column.other or "a list of texts"
    else:
        column.has_texts = True


def _resolved(path: Path, seen: _Seen, word: str, column: str) -> list[Where] | None:
    """Returns where a column is, or all of a list of them; None: one of them is nowhere."""
    if (where := _where(path, seen, word, column)) is not None:
        return [where]
    if word == "title" or "," not in column:
        return None
    wheres = [_where(path, seen, word, part) for part in parts_of(column)]
    found = [where for where in dict.fromkeys(wheres) if where is not None]
    return found if found and None not in wheres else None


def _where(path: Path, seen: _Seen, word: str, column: str) -> Where | None:
    names = matching(column, seen.columns)
    if len(names) > 1:
        raise DataError(
            f"{path}: wanted one column {column!r} with the {word}, found "
            f"{' and '.join(map(repr, names))}. Write it just as one of them: "
            f"{' or '.join(option(word, name) for name in names)}."
        )
    if names:
        return (names[0],)
    where = tuple(column.split("."))
    if where in seen.lists:
        raise DataError(
            f"{path}: wanted the {word} in {column!r}, found a list of objects on the way to it. "
            "Which of them is meant cannot be told: write the text into a column of its own."
        )
    return where if where in seen.nested else None


def _taken(seen: _Seen, asked: dict[str, str], wheres: dict[str, list[Where]]) -> dict[str, str]:
    """Returns the likely columns where no other was asked for, if there is one for each word."""
    taken: dict[str, str] = {}
    for word in (word for word in asked if word not in wheres):
        names = likely(word, seen.columns)
        if asked[word] != DEFAULTS[word] or len(names) != 1 or _is_alpaca(seen.columns):
            return {}
        taken[word] = names[0]
    return taken


def _remarks(path: Path, asked: dict[str, str], wheres: dict[str, list[Where]]) -> list[str]:
    found = {word: [".".join(where) for where in places] for word, places in wheres.items()}
    odd = [word for word in asked if found[word] not in ([asked[word]], parts_of(asked[word]))]
    if not odd:
        return []
    told = " and ".join(f"the {word} is read from {','.join(found[word])!r}" for word in odd)
    return [f"{path.name}: {told} ({' '.join(option(word, found[word]) for word in odd)})"]


def _refuse_no_text(path: Path, seen: _Seen, word: str, places: list[Where]) -> None:
    for where in places:
        column = seen.columns[where[0]] if len(where) == 1 else seen.nested[where]
        name = ".".join(where)
        if column.has_texts or not column.other:
            continue
        if column.other == "a list of texts":
            if word == "description":
                continue
            remedy = "Write one text there, or choose another column"
        elif column.other.startswith("an object with "):
            first = column.other.removeprefix("an object with ").partition(",")[0]
            remedy = f"Name one of its parts, as in {option(word, f'{name}.{first}')}"
        else:
            remedy = "Choose another column, or write texts there"
        raise DataError(
            f"{path}: wanted text in the column {name!r} with the {word}, found {column.other}. "
            f"{remedy}."
        )


def _refuse_columns(
    path: Path,
    seen: _Seen,
    missing: dict[str, str],
    asked: dict[str, str],
    absent: Sequence[str],
) -> None:
    wanted = " and ".join(f"a column {name!r} with the {word}" for word, name in missing.items())
    columns = seen.columns
    found = ", ".join(str(column)[:40] for column in list(columns)[:20]) or "none"
    if not missing:
        wanted = columns_to_keep(absent)
        remedy = "Use --data.keep_columns with names of these (as in sku,price), all or none."
    elif _is_alpaca(columns):
        remedy = _alpaca_remedy(columns, asked)
    else:
        remedy = _likely_remedy(seen, missing)
    raise DataError(f"{path}: wanted {wanted}; the columns seen are {found}. {remedy}")


def columns_to_keep(names: Sequence[str]) -> str:
    return " and ".join(f"a column {name!r}" for name in names) + " to keep"


def _likely_remedy(seen: _Seen, missing: dict[str, str]) -> str:
    known = {
        word: likely(word, seen.columns)
        or [name for name in seen.inner if likely(word, [name.rpartition(".")[2]])]
        for word in missing
    }
    unknown = [f"--data.{word}_column" for word in missing if not known[word]]
    told = [
        f"the {word} is likely meant by {' or '.join(option(word, name) for name in names[:5])}"
        for word, names in known.items()
        if names
    ]
    told += [f"name yours with {' and '.join(unknown)}"] if unknown else []
    remedy = "; ".join(told)
    remedy = f"{remedy[0].upper()}{remedy[1:]}."
    if any(len(name.split()) > 5 for name in seen.columns):  # no name, but a text
        names = ",".join(missing.values())
        remedy += f" If that is a product already, write a line of names in front of it: {names}."
    return remedy


def _is_alpaca(columns: Iterable[str]) -> bool:
    return {"instruction", "output"} <= set(columns)


def _alpaca_remedy(columns: dict[str, _Column], asked: dict[str, str]) -> str:
    """Alpaca rows keep the title in `input`, or in `instruction` where no row has an input."""
    has_input = "input" in columns and columns["input"].has_values
    names = {"title": "input" if has_input else "instruction", "description": "output"}
    advice = " ".join(f"--data.{word}_column {names[word]}" for word in asked)
    return f"These look like Alpaca rows (instruction, input, output): use {advice}."
