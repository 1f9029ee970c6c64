"""Tables: what is written is read again, in any number of batches, and only what is looked at."""

import pickle
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from amazon_desc.data.corpus import tables
from amazon_desc.data.corpus.packing import Row
from amazon_desc.data.corpus.tables import (
    ExampleWriter,
    PackedRows,
    examples_schema,
    held_out_schema,
    open_table,
    write_chosen,
    write_rows,
    writing,
)

EXAMPLES = [[1, 7, 8], [1, 5, 6, 9, 9, 2], [1, 7, 8, 2], [1, 2], [65_535], [0, 3]]
PROMPT_LENGTHS = [2, 3, 1, 1, 1, 0]
ROWS = [[1, 3], [2, 0], [4], [5, 4, 3, 2, 1, 0]]


def add(writer: ExampleWriter, token_type: str, start: int, end: int) -> None:
    """Adds EXAMPLES[start:end] in one piece."""
    examples = EXAMPLES[start:end]
    writer.add(
        np.array([token for example in examples for token in example], token_type),
        np.array([len(example) for example in examples], "i4"),
        np.array(PROMPT_LENGTHS[start:end], "i4"),
    )


def write_examples(
    folder: Path, token_type: str = "uint16", parts: Sequence[int] = (0, 2, 2, 3, 6)
) -> None:
    """Writes EXAMPLES; `parts`: where each piece begins, one of them empty."""
    schema = examples_schema(token_type)
    with writing(folder / "examples.arrow", schema) as writer:
        examples = ExampleWriter(writer, schema)
        for start, end in pairwise(parts):
            add(examples, token_type, start, end)
        examples.flush()


def num_batches(path: Path) -> int:
    with pa.memory_map(str(path)) as file:
        return sum(1 for _ in pa.ipc.open_stream(file))


def plain(row: Row) -> dict[str, list[int]]:
    return {name: np.asarray(values).tolist() for name, values in row.items()}


def first_row(row: list[Row]) -> Row:
    """What a DataLoader does with a batch of one."""
    return row[0]


@pytest.mark.parametrize(("at_once", "batches"), [(10_000, 1), (3, 2), (1, 3)])
@pytest.mark.parametrize("token_type", ["uint16", "int32"])
def test_examples_and_rows_are_read_as_they_were_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token_type: str,
    at_once: int,
    batches: int,
):
    monkeypatch.setattr(tables, "EXAMPLES_PER_BATCH", at_once)
    monkeypatch.setattr(tables, "RECORDS_PER_BATCH", at_once)
    write_examples(tmp_path, token_type)
    write_rows(tmp_path / "rows.arrow", ROWS)
    assert num_batches(tmp_path / "examples.arrow") == batches
    assert num_batches(tmp_path / "rows.arrow") == {10_000: 1, 3: 2, 1: 4}[at_once]

    examples = open_table(tmp_path / "examples.arrow")
    assert examples["input_ids"][:] == EXAMPLES
    assert examples["num_prompt_tokens"][:] == PROMPT_LENGTHS
    rows = PackedRows(tmp_path)
    assert len(rows) == 4
    assert [plain(rows[index]) for index in range(4)] == [
        {"input_ids": [1, 5, 6, 9, 9, 2, 1, 2], "lengths": [6, 2], "prompt_lengths": [3, 1]},
        {"input_ids": [1, 7, 8, 2, 1, 7, 8], "lengths": [4, 3], "prompt_lengths": [1, 2]},
        {"input_ids": [65_535], "lengths": [1], "prompt_lengths": [1]},
        {
            "input_ids": [0, 3, 65_535, 1, 2, 1, 7, 8, 2, 1, 5, 6, 9, 9, 2, 1, 7, 8],
            "lengths": [2, 1, 2, 4, 6, 3],
            "prompt_lengths": [0, 1, 1, 1, 3, 2],
        },
    ]
    assert rows[0]["input_ids"].dtype == token_type  # pyright: ignore


def test_ids_keep_the_type_they_were_made_with():
    assert examples_schema("uint16").field("input_ids").type == pa.list_(pa.uint16())
    assert examples_schema("int32").field("input_ids").type == pa.list_(pa.int32())
    assert held_out_schema("int32").names == [
        "title",
        "description",
        "input_ids",
        "num_prompt_tokens",
    ]


def test_a_batch_is_written_as_soon_as_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is waiting is held in memory, so it must not grow with the files."""
    monkeypatch.setattr(tables, "EXAMPLES_PER_BATCH", 3)
    schema = examples_schema("uint16")
    with writing(tmp_path / "examples.arrow", schema) as writer:
        examples = ExampleWriter(writer, schema)
        waiting = []
        for start in range(6):
            add(examples, "uint16", start, start + 1)
            waiting.append(len(examples.lengths))
        assert waiting == [1, 2, 0, 1, 2, 0]
        examples.flush()  # nothing is waiting, nothing is written
    assert num_batches(tmp_path / "examples.arrow") == 2


def test_empty_tables_are_tables(tmp_path: Path):
    write_examples(tmp_path, parts=(0, 0))
    write_rows(tmp_path / "rows.arrow", [])
    assert len(open_table(tmp_path / "examples.arrow")) == 0
    assert len(PackedRows(tmp_path)) == 0
    schema = examples_schema("uint16")
    with writing(tmp_path / "none.arrow", schema) as writer:
        ExampleWriter(writer, schema).flush()
    assert num_batches(tmp_path / "none.arrow") == 0
    assert len(open_table(tmp_path / "none.arrow")) == 0
    assert open_table(tmp_path / "none.arrow").column_names == ["input_ids", "num_prompt_tokens"]


def test_a_row_outside_is_refused(tmp_path: Path):
    write_examples(tmp_path)
    write_rows(tmp_path / "rows.arrow", ROWS)
    with pytest.raises(IndexError):
        PackedRows(tmp_path)[4]


RECORDS = [
    {"title": f"Mug {n}", "description": f"É {n}.", "input_ids": [n] * n, "num_prompt_tokens": n}
    for n in range(7)
]


@pytest.mark.parametrize("at_once", [2, 1_000])
@pytest.mark.parametrize("numbers", [[6, 0, 3, 2, 5], [4], [], [0, 1, 2, 3, 4, 5, 6], [1, 2, 3]])
def test_chosen_records_are_written_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int], at_once: int
):
    monkeypatch.setattr(tables, "RECORDS_PER_BATCH", at_once)
    schema = held_out_schema("uint16")
    with writing(tmp_path / "all.arrow", schema) as writer:
        for start in (0, 3):
            part = RECORDS[start : start + 3 + start]
            writer.write_batch(pa.RecordBatch.from_pylist(part, schema))
    write_chosen(tmp_path / "all.arrow", np.array(numbers, "i8"), tmp_path / "some.arrow")
    assert open_table(tmp_path / "some.arrow").to_list() == [RECORDS[number] for number in numbers]
    with pa.memory_map(str(tmp_path / "some.arrow")) as file:
        assert pa.ipc.open_stream(file).schema.equals(schema, check_metadata=True)


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    """A corpus is named by what it is made of, so it must not depend on how it was asked for."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_examples(tmp_path / name, parts=(0, 6) if name == "first" else (0, 1, 4, 6))
        write_rows(tmp_path / name / "rows.arrow", ROWS)
    for table in ("examples.arrow", "rows.arrow"):
        first, second = ((tmp_path / name / table).read_bytes() for name in ("first", "second"))
        assert first == second
        assert len(first) > 300


def test_packed_rows_go_to_another_process(tmp_path: Path):
    """DataLoader's workers get them pickled where processes are not forked."""
    write_examples(tmp_path)
    write_rows(tmp_path / "rows.arrow", ROWS)
    rows = PackedRows(tmp_path)
    copy = pickle.loads(pickle.dumps(rows))
    assert [plain(copy[index]) for index in range(4)] == [plain(rows[index]) for index in range(4)]
    loader = DataLoader(rows, batch_size=1, num_workers=1, collate_fn=first_row)
    assert [plain(row) for row in loader] == [plain(rows[index]) for index in range(4)]


def test_the_pickle_holds_no_data(tmp_path: Path):
    big_table(tmp_path)
    assert len(pickle.dumps(PackedRows(tmp_path))) < 20_000


def big_table(folder: Path, num_examples: int = 20_000, length: int = 200) -> None:
    """Writes 8 MB of examples, each of one number, two in a row."""
    schema = examples_schema("uint16")
    lengths = np.full(num_examples, length, "i4")
    with writing(folder / "examples.arrow", schema) as writer:
        examples = ExampleWriter(writer, schema)
        ids = np.repeat(np.arange(num_examples) % 1_000, length).astype("uint16")
        examples.add(ids, lengths, lengths // 2)
        examples.flush()
    numbers = np.arange(num_examples).reshape(-1, 2)
    write_rows(folder / "rows.arrow", numbers.tolist())


def test_a_table_is_mapped_and_not_loaded(tmp_path: Path):
    big_table(tmp_path)
    assert (tmp_path / "examples.arrow").stat().st_size > 8_000_000
    before = pa.total_allocated_bytes()
    rows = PackedRows(tmp_path)
    read = [rows[index] for index in (0, 9_999, 5_000)]
    assert pa.total_allocated_bytes() - before < 100_000
    assert [np.unique(row["input_ids"]).tolist() for row in read] == [[0, 1], [998, 999], [0, 1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.arrow", "rows.arrow"]


def test_a_row_can_become_a_tensor(tmp_path: Path):
    write_examples(tmp_path)
    write_rows(tmp_path / "rows.arrow", ROWS)
    ids = np.asarray(PackedRows(tmp_path)[1]["input_ids"]).astype("int64")
    assert torch.equal(torch.from_numpy(ids), torch.tensor([1, 7, 8, 2, 1, 7, 8]))
