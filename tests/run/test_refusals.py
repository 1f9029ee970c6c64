"""The rows of an optimizer step and of a micro-batch go together, or it is said which would."""

from typing import Any

import pytest

from amazon_desc.run.options.refusals import (
    refuse_accumulation,
    refuse_monitor,
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
