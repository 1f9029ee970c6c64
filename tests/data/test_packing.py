"""Packing: every example once, no row too long, and as full as best-fit decreasing makes them."""

import random
from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerBase

from amazon_desc.data.corpus.packing import pack, packed_rows
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.reading.records import Product


def random_lengths(seed: int) -> tuple[list[int], int]:
    """Returns lengths and a capacity; some draws have only long or only short examples."""
    draw = random.Random(seed)
    capacity = draw.choice([1, 2, 7, 64, 256, 2048])
    shortest = draw.randint(1, capacity)
    longest = draw.randint(shortest, capacity)
    return [draw.randint(shortest, longest) for _ in range(draw.randrange(200))], capacity


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[int]:
    """Returns how full each row is, by looking at every row for every example."""
    fills: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, fill in enumerate(fills) if fill + length <= capacity]
        if fitting:
            fills[max(fitting, key=lambda row: fills[row])] += length
        else:
            fills.append(length)
    return sorted(fills)


def fills_of(rows: list[list[int]], lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[example] for example in row) for row in rows]


def test_the_worked_example():
    assert pack([3, 6, 4, 2], 8) == [[1, 3], [2, 0]]


def test_an_example_goes_into_the_fullest_row_that_has_room():
    """Rows of 7 and 6 are open when the 3 comes: 7 is the fuller, and the 4 fills the other."""
    assert pack([7, 6, 4, 3], 10) == [[0, 3], [1, 2]]


def test_equal_lengths_go_in_by_their_number():
    assert pack([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_nothing_packs_to_nothing():
    assert pack([], 8) == []


def test_an_example_as_long_as_a_row_fills_it():
    assert pack([8, 8, 1], 8) == [[0], [1], [2]]


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="an example of 9 tokens does not fit a row of 8"):
        pack([3, 9], 8)


@pytest.mark.parametrize("seed", range(100))
def test_every_example_is_in_exactly_one_row_as_best_fit_decreasing_places_it(seed: int):
    lengths, capacity = random_lengths(seed)
    rows = pack(lengths, capacity)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert max(fills_of(rows, lengths), default=0) <= capacity
    assert sorted(fills_of(rows, lengths)) == best_fit_decreasing(lengths, capacity)
    assert pack(tuple(lengths), capacity) == rows


def test_a_row_holds_its_examples_ids_and_where_each_begins_and_ends():
    ids = [[1, 7, 8], [1, 5, 6, 9, 9, 2], [1, 7, 8, 2], [1, 2]]
    assert list(packed_rows(ids, [2, 3, 1, 1], 8)) == [
        {"input_ids": [1, 5, 6, 9, 9, 2, 1, 2], "lengths": [6, 2], "prompt_lengths": [3, 1]},
        {"input_ids": [1, 7, 8, 2, 1, 7, 8], "lengths": [4, 3], "prompt_lengths": [1, 2]},
    ]


@pytest.mark.slow
@pytest.mark.real
def test_rows_of_2048_tokens_are_99_percent_full_on_real_lengths(
    tinyllama: PreTrainedTokenizerBase, real_products: list[Product]
):
    encoder = Encoder(tinyllama, PromptSettings(chat=False), 256)
    lengths = [len(example.input_ids) for example in encoder.examples(real_products)]
    assert len(lengths) > 8_000
    assert max(lengths) == 256
    rows = pack(lengths, 2048)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert max(fills_of(rows, lengths)) <= 2048
    assert sum(lengths) / (2048 * len(rows)) >= 0.99
