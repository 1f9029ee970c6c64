"""Titles of predict_cluster.py, file by file: what is in each, and its records dealt out in parts.

In come files of titles and which of their records have a text already, out go facts on each file,
and records to write for. What Ray Data hands over are rows of plain values and bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import orjson
from predict_cluster_files import on_disk

from amazon_desc.data.cleaning.cleaner import Cleaner, CleaningSettings
from amazon_desc.data.loading.building import EMPTY_AFTER_CLEANING, RecordsDigest
from amazon_desc.data.reading.kept import Kept
from amazon_desc.data.reading.records import read_title_records
from amazon_desc.run.predicting.forms import type_of
from amazon_desc.run.predicting.records import renamed
from amazon_desc.support.errors import UserError

RECORDS_AT_A_TIME = 1_024  # whose digest is taken together


@dataclass(frozen=True)
class Reading:
    """How titles are read."""

    title_column: str
    keep: Kept
    cleaning: CleaningSettings
    id_column: str | None
    needs_titles: bool
    """whether it has to be known which titles are the same"""
    needs_types: bool
    """whether the kept columns have to be of one type in all parts"""


class Title(NamedTuple):
    """A record of a file of titles."""

    title: str
    reason: str
    """why nothing is written for it; an empty text where something is"""
    kept: str | None
    cleaned: str
    place: str


def titles_of(address: str, reading: Reading) -> Iterator[Title]:
    """Yields all records of a file, as `predict` reads them.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    clean = Cleaner(replace(reading.cleaning, language=None)).text  # a title has no language
    with on_disk(address) as file:
        for record in read_title_records(file, reading.title_column, reading.keep):
            title, reason, kept, place = record
            cleaned = "" if reason else clean(title)
            if not reason and not cleaned.strip():
                reason = EMPTY_AFTER_CLEANING
            yield Title(title, reason, kept, cleaned, place)


# Looked through


class Survey(NamedTuple):
    """What is in a file."""

    num_records: int
    sha256: str
    """over its records, without columns that are not kept"""
    types: dict[str, list[str]]
    """the kinds of values of each kept column"""
    ids: np.ndarray
    """a digest of each record's id, 0 where it could not be read; none: they have no column"""
    titles: np.ndarray
    """a digest of each cleaned title, 0 where nothing is written; none: they are not needed"""


def survey(row: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """Returns what is in a file, for `surveyed`; what a user has to mend is its `problem`."""
    look = Look(reading)
    try:
        titles = titles_of(row["address"], reading)
        while some := list(islice(titles, RECORDS_AT_A_TIME)):
            look.add(some)
    except UserError as error:
        look.problem = str(error)
    num_records = look.digest.num_records
    sha256 = look.digest.all_known()[str(num_records)]
    facts = orjson.dumps([num_records, sha256, look.types])
    arrays = {name: np.array(getattr(look, name), "<u8").tobytes() for name in ("ids", "titles")}
    problem = look.problem and f"--titles {row['name']}: {look.problem}"
    return {"number": row["number"], "facts": facts, **arrays, "problem": problem}


def surveyed(row: dict[str, Any]) -> Survey:
    arrays = (np.frombuffer(row[name], "<u8") for name in ("ids", "titles"))
    return Survey(*orjson.loads(row["facts"]), *arrays)


class Look:
    """A look at the records of a file, some after the other."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.digest = reading, RecordsDigest(None)
        self.ids: list[int] = []
        self.titles: list[int] = []
        self.types: dict[str, list[str]] = {}
        self.problem = ""

    def add(self, some: Sequence[Title]) -> None:
        self.digest.add([(each.title, each.reason, each.kept) for each in some])
        if self.reading.needs_titles:
            self.titles += [0 if each.reason else digest_of(each.cleaned) for each in some]
        if self.reading.id_column is not None:
            self.ids += [self.id_of(each, self.reading.id_column) for each in some]
        if self.reading.needs_types:
            for each in some:
                self.add_types({} if each.kept is None else json.loads(each.kept))

    def id_of(self, each: Title, id_column: str) -> int:
        if each.kept is None:
            return 0
        text = id_text(each.kept, id_column)
        if not text and not self.problem:
            self.problem = (
                f"{each.place}: wanted an id in the column {id_column}, found none. Give each "
                f"record its own, or leave --id_column away: then they are told by their places."
            )
        return digest_of(text)

    def add_types(self, columns: dict[str, Any]) -> None:
        for name, value in renamed(columns).items():
            types = self.types.setdefault(name, [])
            if (kind := type_of(value)) not in types:
                types.append(kind)


def id_text(kept: str, id_column: str) -> str:
    """Returns the id among kept columns, as text: of 7 and of "7" it is "7"; of null it is ""."""
    value = json.loads(kept).get(id_column)
    return value or "" if isinstance(value, str | None) else json.dumps(value)


def digest_of(text: str) -> int:
    """Returns 64 bits that tell texts apart, never 0."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


# Of all files


def first_twice(ids: np.ndarray) -> tuple[int, int] | None:
    """Returns the places of two equal digests; None: none is there twice. 0 is no digest.

    [5, 0, 7, 0, 5] -> (0, 4)
    """
    ordered = ids[ids != 0]
    ordered.sort()
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return None
    first, second = np.flatnonzero(ids == twice[0])[:2]
    return int(first), int(second)


def first_alike(titles: np.ndarray) -> np.ndarray:
    """Returns of each title the place of the first one with the same digest.

    [5, 7, 5, 5] -> [0, 1, 0, 0]
    """
    _, first, which = np.unique(titles, return_index=True, return_inverse=True)
    return first[which].astype(np.int64)


# Dealt


class Dealt(NamedTuple):
    """A record to answer."""

    row: int
    """its number in all files, from 0"""
    drawn_as: int
    """the first record with the same title, whose number its text is drawn with"""
    title: str
    reason: str
    kept: str | None
    cleaned: str


def deal(row: dict[str, Any], reading: Reading, rows_per_part: int) -> Iterator[dict[str, Any]]:
    """Yields the records of a file that have no text yet, as many as a part holds at a time.

    Of records 0 to 9 with texts of 2 and 3, four in a part: 0 1, 4 5 6 7, 8 9

    A part is one value, so that it is handed over as it is, however blocks are shaped. Where the
    file is no more what was surveyed, the last row has a `problem`.
    """
    first, digest = row["first"], RecordsDigest(None)
    is_written = np.unpackbits(np.frombuffer(row["is_written"], np.uint8))[: row["num_records"]]
    drawn_as = np.frombuffer(row["drawn_as"], "<i8")
    titles, problem = titles_of(row["address"], reading), ""
    try:
        while some := list(islice(titles, rows_per_part)):
            numbers = range(digest.num_records, digest.num_records + len(some))
            digest.add([each[:3] for each in some])
            lacking = [
                (first + n, int(drawn_as[n]) if len(drawn_as) else first + n, *each[:4])  # a Dealt
                for n, each in zip(numbers, some, strict=True)
                if n < len(is_written) and not is_written[n]
            ]
            if lacking:
                yield {"records": orjson.dumps(lacking), "problem": ""}
    except UserError as error:
        problem = f" {error}"
    if problem or digest.all_known()[str(digest.num_records)] != row["sha256"]:
        yield {
            "records": b"",
            "problem": f"{row['address']} was changed while it was written for.{problem} Put it "
            f"back as it was and run the same command again, or name another --output.",
        }


def dealt(row: dict[str, Any]) -> list[Dealt]:
    return [Dealt(*record) for record in orjson.loads(row["records"])]
