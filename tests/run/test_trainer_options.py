"""What follows from options: passes, rows, micro-batches, or a refusal that says what to give."""

from typing import Any

import pytest

from amazon_desc.run.options.trainer_options import (
    listed,
    max_rows,
    num_accumulated,
    num_epochs,
    val_check_interval,
)
from amazon_desc.support.errors import UserError


def test_passes_over_the_data_are_those_asked_for():
    assert [num_epochs(1), num_epochs(7)] == [1, 7]


@pytest.mark.parametrize("max_epochs", [None, 0, -1])
def test_a_run_without_an_end_is_refused(max_epochs: int | None):
    """To Lightning, None is a thousand epochs and -1 is for ever."""
    wanted = rf"--trainer\.max_epochs {max_epochs}: wanted .* at least 1\. Give .* for example 1\."
    with pytest.raises(UserError, match=wanted):
        num_epochs(max_epochs)


def test_steps_take_their_rows():
    assert max_rows(10, rows_per_step=8) == 80
    assert max_rows(1, rows_per_step=1) == 1


def test_micro_batches_of_another_size_make_the_same_steps():
    assert [num_accumulated(12, size) * size for size in (1, 2, 3, 4, 6, 12)] == [12] * 6


def test_what_is_scored_at_a_time_may_be_more_than_a_step():
    assert num_accumulated(1, 8) == 1


def test_no_limit_of_steps_is_no_limit_of_rows():
    assert max_rows(-1, rows_per_step=8) is None


@pytest.mark.parametrize("max_steps", [0, -2])
def test_a_run_without_a_step_is_refused(max_steps: int):
    with pytest.raises(
        UserError, match=rf"--trainer\.max_steps {max_steps}: .* or -1 for no limit"
    ):
        max_rows(max_steps, 1)


def test_validations_are_counted_in_optimizer_steps():
    assert val_check_interval(5, accumulated=8) == 40
    assert val_check_interval(5, accumulated=1) == 5


@pytest.mark.parametrize("interval", [0.25, 1.0, "00:01:00:00", None, True])
def test_what_is_no_number_of_steps_stays(interval: Any):
    stayed = val_check_interval(interval, accumulated=8)
    assert (stayed, type(stayed)) == (interval, type(interval))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, []), ("one", ["one"]), (["a", "b"], ["a", "b"]), (("a",), ["a"]), ([], []), (0, [0])],
)
def test_one_none_or_several_become_a_list(value: Any, expected: list[Any]):
    assert listed(value) == expected


def test_the_list_is_a_new_one():
    """The run's own callbacks are added to it, which must not end up in the options."""
    given = ["a"]
    listed(given).append("b")
    assert given == ["a"]
