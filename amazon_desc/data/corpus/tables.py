"""The tables of a corpus on the disk: written as a stream, read without being loaded.

    examples.arrow     the examples of train, in the files' order: input_ids, num_prompt_tokens
    rows.arrow         the packed rows: the numbers of their examples
    validation.arrow   one example a record: title, description, input_ids, num_prompt_tokens
    test.arrow         the same

An example that no row names was not chosen. A table is an Arrow stream, mapped into memory when it
is read: what is not looked at is not loaded. What is chosen and how it is packed is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from amazon_desc.data.corpus.packing import Row

if TYPE_CHECKING:
    from datasets import Dataset

EXAMPLES_PER_BATCH = 10_000
RECORDS_PER_BATCH = 1_000

ROWS = pa.schema({"examples": pa.list_(pa.int32())})


def examples_schema(token_type: str) -> pa.Schema:
    return pa.schema(
        {"input_ids": pa.list_(getattr(pa, token_type)()), "num_prompt_tokens": pa.int32()}
    )


def held_out_schema(token_type: str) -> pa.Schema:
    texts = pa.schema({"title": pa.string(), "description": pa.string()})
    return pa.unify_schemas([texts, examples_schema(token_type)])


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatchStreamWriter]:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        yield writer


class ExampleWriter:
    """Writes examples as they come, many at a time."""

    def __init__(self, writer: pa.RecordBatchStreamWriter, schema: pa.Schema) -> None:
        self.writer, self.schema = writer, schema
        self.ids: list[np.ndarray] = []
        self.lengths: list[np.ndarray] = []
        self.prompt_lengths: list[np.ndarray] = []

    def add(self, ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray) -> None:
        """Takes examples: all their ids one after the other, and how many belong to each."""
        self.ids.append(ids)
        self.lengths.append(lengths)
        self.prompt_lengths.append(prompt_lengths)
        if sum(map(len, self.lengths)) >= EXAMPLES_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        if not self.lengths:
            return
        lengths = np.concatenate(self.lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = pa.ListArray.from_arrays(offsets, np.concatenate(self.ids))
        columns = [ids, pa.array(np.concatenate(self.prompt_lengths))]
        self.writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self.schema))
        self.ids, self.lengths, self.prompt_lengths = [], [], []


def write_rows(path: Path, rows: Sequence[Sequence[int]]) -> None:
    """Writes the numbers of the examples of each packed row."""
    with writing(path, ROWS) as writer:
        for start in range(0, len(rows), RECORDS_PER_BATCH):
            batch = pa.array(rows[start : start + RECORDS_PER_BATCH], ROWS.field("examples").type)
            writer.write_batch(pa.RecordBatch.from_arrays([batch], schema=ROWS))


def write_chosen(table: Path, numbers: np.ndarray, path: Path) -> None:
    """Writes the records of a table with these numbers, in their order, to another."""
    records = open_table(table).with_format("arrow")
    schema = records.features.arrow_schema.remove_metadata()
    with writing(path, schema) as writer:
        for start in range(0, len(numbers), RECORDS_PER_BATCH):
            part: Any = records[numbers[start : start + RECORDS_PER_BATCH]]
            writer.write_table(part.replace_schema_metadata())


def open_table(path: Path) -> Dataset:
    """Returns a table, mapped into memory."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


class PackedRows:
    """The packed rows of a corpus, each put together from its examples when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.rows = open_table(folder / "rows.arrow").with_format("arrow")
        self.examples = open_table(folder / "examples.arrow").with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    def numbers(self) -> np.ndarray:
        """Returns the numbers of all examples that a row holds, in ascending order."""
        return np.unique(column(self.rows[:], "examples").flatten().to_numpy())

    def __getitem__(self, index: int) -> Row:
        numbers = column(self.rows[index], "examples").flatten().to_numpy()
        examples = self.examples[numbers]
        ids = column(examples, "input_ids")
        return {
            "input_ids": ids.flatten().to_numpy(),
            "lengths": ids.value_lengths().to_numpy(),
            "prompt_lengths": column(examples, "num_prompt_tokens").to_numpy(),
        }


def column(table: pa.Table, name: str) -> Any:
    return table[name].combine_chunks()
