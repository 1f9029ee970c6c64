"""The rows of a bad step are named as they were trained on."""

from types import SimpleNamespace
from typing import Any

from amazon_desc.training.guard import row_as_text, rows_in_training

ORDER = [5, 2, 7, 1, 4]


def stand_in() -> Any:
    """Data of 8 rows of 50 ids, trained on in the order above; an id is decoded as itself."""

    def order(num_rows: int, first_row: int) -> Any:
        assert num_rows == 8
        return SimpleNamespace(rows=lambda: iter(ORDER[first_row:]))

    rows = [{"input_ids": [100 * number + place for place in range(50)]} for number in range(8)]
    return SimpleNamespace(
        order=order,
        opened=SimpleNamespace(rows=lambda: rows),
        tokenizer=SimpleNamespace(decode=lambda ids: f"{ids[0]} to\n{ids[-1]}"),
    )


def test_the_worked_example():
    assert rows_in_training(stand_in(), 1, [2, 1]) == [[2, 7], [1]]


def test_rows_are_those_after_the_ones_trained_on():
    assert rows_in_training(stand_in(), 0, [2, 2, 1]) == [[5, 2], [7, 1], [4]]
    assert rows_in_training(stand_in(), 4, [1]) == [[4]]


def test_a_row_is_named_with_its_first_tokens_on_one_line():
    assert row_as_text(stand_in(), 3) == r"row 3 (begins '300 to\n339')"
