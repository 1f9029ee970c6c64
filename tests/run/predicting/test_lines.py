"""Each record of the input has its line, in order, wherever a file was cut and went on."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from amazon_desc.data.loading.titles import TitleRow
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.predicting import lines as lines_module
from amazon_desc.run.predicting.lines import (
    SHORTENED,
    GrowingLines,
    Kept,
    Offsets,
    OtherLines,
    cut,
    kept_of,
)

NOTHING = Kept()


class Table(list[TitleRow]):
    def records(self, start: int = 0) -> Iterator[TitleRow]:
        return iter(self[start:])


def table_of(titles: list[str]) -> Table:
    """An empty title is skipped; each record has a column of its own."""
    return Table(
        TitleRow(row, title, "", titles.index(title), f'{{"sku": {row}}}')
        if title
        else TitleRow(row, title, "title is empty", row, f'{{"sku": {row}}}')
        for row, title in enumerate(titles)
    )


def predictions_of(table: Table) -> list[Prediction]:
    return [
        Prediction(of.title, Description(f"{of.title} for all,\nat home.", "stop", of.row))
        for of in table
        if of.is_written
    ]


def write(folder: Path, table: Table, some: int, kept: Kept = NOTHING) -> Path:
    """Writes what is missing, `some` predictions at a time."""
    partial, offsets = folder / "out.jsonl.partial", Offsets(folder / "offsets")
    if kept.num_lines:
        assert kept_of(partial, table, offsets) == kept
    growing = GrowingLines(partial, table, offsets, kept)
    coming = predictions_of(table)[kept.num_written :]
    growing.add([])
    for first in range(0, len(coming), some):
        growing.add(coming[first : first + some])
    assert growing.is_complete
    growing.close()
    return partial


TITLES = ["", "Mug", "Lamp", "Mug", "", "Mug", "Desk", "Lamp", ""]


@pytest.mark.parametrize("some", [1, 2, 99])
def test_each_record_has_its_line_in_order(some: int, tmp_path: Path):
    table = table_of(TITLES)
    records = [json.loads(line) for line in write(tmp_path, table, some).open("rb")]
    assert [record["row"] for record in records] == list(range(1, 10))
    assert [record["title"] for record in records] == TITLES
    assert [record["sku"] for record in records] == list(range(9))
    for title, record in zip(TITLES, records, strict=True):
        assert record["finish_reason"] == ("stop" if title else "skipped")
        assert record["description"] == (f"{title} for all,\nat home." if title else "")
        assert record["num_tokens"] == (TITLES.index(title) if title else 0)
        assert record.get("reason") == (None if title else "title is empty")


def test_records_without_a_title_alone_need_no_prediction(tmp_path: Path):
    lines = write(tmp_path, table_of([""] * 150), 1).read_text().splitlines()
    assert len(lines) == 150


@pytest.mark.parametrize("num_recent", [1, 4096])
def test_a_file_that_is_cut_at_any_byte_goes_on_to_the_same_bytes(
    num_recent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Texts that are repeated are read from what was written before."""
    monkeypatch.setattr(lines_module, "NUM_RECENT", num_recent)
    chance = random.Random(0)
    table = table_of([chance.choice(["", *(f"Mug {n}" for n in range(12))]) for _ in range(60)])
    partial = write(tmp_path, table, 3)
    whole = partial.read_bytes()
    for size in chance.sample(range(len(whole)), 60):
        partial.write_bytes(whole[:size])
        kept = kept_of(partial, table, Offsets(tmp_path / "offsets"))
        assert kept.num_lines == whole[:size].count(b"\n")
        cut(partial, kept)
        assert write(tmp_path, table, chance.randint(1, 5), kept).read_bytes() == whole


@pytest.mark.parametrize(
    ("num_lines", "first", "size", "kept"),
    [(5, 0, 2, 4), (4, 0, 2, 4), (7, 1, 4, 5), (3, 1, 4, 1), (3, 4, 4, 3), (6, 0, 100, 0)],
)
def test_titles_that_are_written_for_together_are_kept_together(
    num_lines: int, first: int, size: int, kept: int, tmp_path: Path
):
    table = table_of([f"Mug {number}" for number in range(10)])
    partial = write(tmp_path, table, 1)
    partial.write_bytes(b"".join(partial.read_bytes().splitlines(keepends=True)[:num_lines]))
    found = kept_of(partial, table, Offsets(tmp_path / "offsets"), first, size)
    assert (found.num_lines, found.num_written) == (kept, kept)


def test_lines_without_a_title_after_a_whole_group_and_the_last_group_are_kept(tmp_path: Path):
    table = table_of(["a", "b", "", "", "c"])
    partial = write(tmp_path, table, 1)
    offsets = Offsets(tmp_path / "offsets")
    assert kept_of(partial, table, offsets, 0, 2).num_lines == 5, "the last group is smaller"
    partial.write_bytes(b"".join(partial.read_bytes().splitlines(keepends=True)[:4]))
    assert kept_of(partial, table, offsets, 0, 2)[:2] == (4, 2)


def test_lines_of_other_titles_are_no_ones_to_go_on_after(tmp_path: Path):
    partial = write(tmp_path, table_of(["a", "b"]), 1)
    with pytest.raises(OtherLines, match="line 2"):
        kept_of(partial, table_of(["a", "c"]), Offsets(tmp_path / "offsets"))


def test_titles_that_are_added_to_the_input_go_on_after_a_finished_file(tmp_path: Path):
    before, after = table_of(["a", "b"]), table_of(["a", "b", "a", "", "c"])
    partial = write(tmp_path, before, 1)
    kept = kept_of(partial, after, Offsets(tmp_path / "offsets"))
    assert kept[:2] == (2, 2)
    longer = write(tmp_path, after, 1, kept).read_bytes()
    partial.unlink()
    assert write(tmp_path, after, 1).read_bytes() == longer


def test_a_title_whose_end_was_not_read_is_marked(tmp_path: Path):
    table = table_of(["a", "b", "a"])
    offsets = Offsets(tmp_path / "offsets")
    growing = GrowingLines(tmp_path / "out", table, offsets, NOTHING)
    first, second = predictions_of(table)
    records = growing.add([first._replace(is_shortened=True), second])
    growing.close()
    assert [record.get("reason") for record, _ in records] == [SHORTENED, None, SHORTENED]
