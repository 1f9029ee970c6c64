"""Batches: the numbers of the docstrings, and what holds for every row and prompt."""

import random

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from amazon_desc.data.corpus.packing import Row
from amazon_desc.data.loading import batches
from amazon_desc.data.loading.batches import collate_rows

WORKED: Row = {
    "input_ids": [1, 7, 8, 4, 2, 1, 5, 2],
    "lengths": [5, 3],
    "prompt_lengths": [3, 1],
}


def random_row(draw: random.Random, row_tokens: int) -> Row:
    lengths = []
    while sum(lengths) < row_tokens - 10:
        lengths.append(draw.randint(2, min(20, row_tokens - sum(lengths))))
    return {
        "input_ids": [draw.randint(1, 99) for _ in range(sum(lengths))],
        "lengths": lengths,
        "prompt_lengths": [draw.randint(1, length) for length in lengths],
    }


def test_the_worked_example_of_a_row():
    batch = collate_rows([WORKED], row_tokens=10, pad_id=0, loss_on="completion")
    assert batch.input_ids.tolist() == [[1, 7, 8, 4, 2, 1, 5, 2, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 0]]
    assert batch.is_target.int().tolist() == [[0, 0, 0, 1, 1, 0, 1, 1, 0, 0]]
    assert batch.num_tokens == 8


def test_the_places_in_front_of_targets_count_through_all_rows():
    """Two rows of 8 tokens with examples of 3 and 2, and of 8 tokens."""
    rows: list[Row] = [
        {"input_ids": [1] * 5, "lengths": [3, 2], "prompt_lengths": [1, 1]},
        {"input_ids": [1] * 8, "lengths": [8], "prompt_lengths": [7]},
    ]
    batch = collate_rows(rows, row_tokens=8, pad_id=0, loss_on="completion")
    assert batch.before_targets.tolist() == [0, 1, 3, 14]


def test_with_loss_on_all_every_token_but_an_examples_first_is_a_target():
    batch = collate_rows([WORKED], row_tokens=10, pad_id=0, loss_on="all")
    assert batch.is_target.int().tolist() == [[0, 1, 1, 1, 1, 0, 1, 1, 0, 0]]


def test_rows_of_different_fill_share_per_batch():
    short: Row = {"input_ids": [1, 9, 2], "lengths": [3], "prompt_lengths": [2]}
    full: Row = {"input_ids": [1, 4, 2, 1, 2], "lengths": [3, 2], "prompt_lengths": [1, 1]}
    batch = collate_rows([short, full], row_tokens=5, pad_id=77, loss_on="completion")
    assert batch.input_ids.tolist() == [[1, 9, 2, 77, 77], [1, 4, 2, 1, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 0, 1]]
    assert batch.is_target.int().tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 0, 1]]
    assert batch.num_tokens == 8


def test_the_types_are_those_the_model_takes():
    batch = collate_rows([WORKED], row_tokens=10, pad_id=0, loss_on="completion")
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.int64
    assert batch.is_target.dtype == torch.bool


@pytest.mark.parametrize("seed", range(20))
def test_targets_are_exactly_the_tokens_behind_each_prompt(seed: int):
    draw = random.Random(seed)
    rows = [random_row(draw, 64) for _ in range(3)]
    batch = collate_rows(rows, row_tokens=64, pad_id=0, loss_on="completion")
    for index, row in enumerate(rows):
        wanted: list[tuple[int, int, bool]] = []
        ids = iter(row["input_ids"])
        for length, prompt in zip(row["lengths"], row["prompt_lengths"], strict=True):
            wanted += [(next(ids), place, place >= prompt) for place in range(length)]
        wanted += [(0, 0, False)] * (64 - len(wanted))
        columns = (batch.input_ids, batch.position_ids, batch.is_target)
        assert list(zip(*(c[index].tolist() for c in columns), strict=True)) == wanted
    assert batch.num_tokens == sum(len(row["input_ids"]) for row in rows)


@pytest.mark.gpu
def test_a_batch_goes_to_the_card_without_the_host_waiting():
    batch, cuda = (
        collate_rows([WORKED], 10, pad_id=0, loss_on="completion"),
        torch.device("cuda", 0),
    )
    batch.to(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = batch.to(cuda)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for found, wanted in zip(moved[:-1], batch[:-1], strict=True):
        assert found.is_cuda
        assert torch.equal(found.cpu(), wanted)
    assert moved.num_tokens == batch.num_tokens


def test_lightning_moves_a_batch_by_its_own_method():
    batch = collate_rows([WORKED], row_tokens=10, pad_id=0, loss_on="completion")
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, batches.RowBatch)
    assert {tensor.device.type for tensor in moved[:-1]} == {"meta"}
    assert moved.num_tokens == 8


def test_what_targets_have_is_added_up_for_each_example():
    """Two rows: examples of 2 targets and 1, and one of 3, in the order of the rows."""
    rows = [
        {"input_ids": [1, 7, 8, 2, 1, 5], "lengths": [4, 2], "prompt_lengths": [2, 1]},
        {"input_ids": [1, 4, 4, 2], "lengths": [4], "prompt_lengths": [1]},
    ]
    batch = collate_rows(rows, 8, 0, "completion")  # pyright: ignore[reportArgumentType]
    values = torch.tensor([1.5, 2.0, 4.0, 0.25, 0.25, 0.5])
    found = batch.sums_of_examples(values)
    assert (found.tolist(), found.dtype) == ([3.5, 4.0, 1.0], torch.float64)
    assert batch.sums_of_examples(torch.ones(6, dtype=torch.bool)).tolist() == [2.0, 1.0, 3.0]
