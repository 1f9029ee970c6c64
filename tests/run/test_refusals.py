"""The rows of an optimizer step and of a micro-batch go together, or it is said which would."""

from typing import Any

import pytest

from amazon_desc.run.options.refusals import (
    refuse_accumulation,
    refuse_monitor,
    refuse_uneven_rows,
)
from amazon_desc.support.errors import UserError


@pytest.mark.parametrize(
    ("accumulated", "batch_size", "rows"),
    [(8, 1, 8), (8, "auto", 8), (2, 4, 8), (3, 2, 6), (0, 2, 2), (-1, "auto", 1)],
)
def test_the_old_spelling_is_refused_with_the_new_one_and_its_number(
    accumulated: int, batch_size: Any, rows: int
):
    """Micro-batches times their rows, or, where those were open, rows."""
    with pytest.raises(UserError) as refused:
        refuse_accumulation(accumulated, batch_size)
    assert str(refused.value) == (
        f"--trainer.accumulate_grad_batches {accumulated}: wanted 1, since it follows from the "
        f"rows of an optimizer step, which have an option of their own. Set "
        f"--data.rows_per_step {rows}, and leave this one away."
    )


def test_what_every_config_of_before_holds_is_taken():
    refuse_accumulation(1, 4)
    refuse_accumulation(1, "auto")


@pytest.mark.parametrize(
    ("rows_per_step", "batch_size", "sizes", "steps"),
    [
        (8, 3, "2 or 4", "6 or 9"),  # the worked example
        (1, 4, "1", "4"),  # a config of before, where a micro-batch was a step
        (12, 5, "4 or 6", "10 or 15"),
        (7, 2, "1 or 7", "6 or 8"),
        (4, 6, "4", "6"),
    ],
)
def test_a_step_that_is_no_whole_number_of_micro_batches_is_refused_with_the_nearest(
    rows_per_step: int, batch_size: int, sizes: str, steps: str
):
    with pytest.raises(UserError) as refused:
        refuse_uneven_rows(rows_per_step, batch_size)
    assert str(refused.value) == (
        f"--data.batch_size {batch_size}: wanted a divisor of the rows of an optimizer step, which "
        f"are --data.rows_per_step {rows_per_step}. Set --data.batch_size to auto or {sizes}, or "
        f"--data.rows_per_step to {steps}."
    )


@pytest.mark.parametrize(("rows_per_step", "batch_size"), [(12, 4), (1, 1), (5, 5), (7, "auto")])
def test_whole_micro_batches_are_taken(rows_per_step: int, batch_size: Any):
    refuse_uneven_rows(rows_per_step, batch_size)


# The score whose best makes the adapter


@pytest.mark.parametrize("monitor", ["validation/loss", "validation/rougeL", "validation/loops"])
def test_a_score_of_which_it_is_known_what_is_better_is_taken(monitor: str):
    refuse_monitor(monitor, 16)
    refuse_monitor("validation/perplexity", 0)


@pytest.mark.parametrize("monitor", ["rougeL", "train/loss", "validation/length_ratio", "", "loss"])
def test_another_is_refused_with_those_that_there_are(monitor: str):
    with pytest.raises(UserError) as refused:
        refuse_monitor(monitor, 16)
    wanted = f"--checkpoint.monitor {monitor}: wanted one of validation/loss, "
    assert str(refused.value).startswith(wanted)
    assert "validation/rougeL, " in str(refused.value)
    assert "validation/copied" not in str(refused.value)


def test_a_score_of_texts_wants_texts():
    with pytest.raises(UserError, match=r"--data\.num_sampled 0 none are written\. Set"):
        refuse_monitor("validation/rougeL", 0)
