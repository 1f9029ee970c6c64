"""One process a device: how many there are, and whether an optimizer step divides by them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from amazon_desc.run.options.devices import (
    Processes,
    cards_named,
    num_devices,
    processes_of,
    refuse_uneven_rows,
    working_apart,
)
from amazon_desc.support.errors import UserError
from amazon_desc.support.ranks import Place

ALONE = Place()
SECOND_OF_FOUR = Place(1, 4, 1, 2, "torchrun")


def trainer(devices: Any = 1, num_nodes: int = 1, accelerator: str = "cpu") -> Any:
    return SimpleNamespace(devices=devices, num_nodes=num_nodes, accelerator=accelerator)


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
        refuse_uneven_rows(rows_per_step, 512, batch_size)
    assert str(refused.value) == (
        f"--data.batch_size {batch_size}: wanted a divisor of the rows of an optimizer step, which "
        f"are --data.rows_per_step {rows_per_step}. Set --data.batch_size to auto or {sizes}, or "
        f"--data.rows_per_step to {steps}."
    )


@pytest.mark.parametrize(("rows_per_step", "batch_size"), [(12, 4), (1, 1), (5, 5), (7, "auto")])
def test_whole_micro_batches_are_taken(rows_per_step: int, batch_size: Any):
    refuse_uneven_rows(rows_per_step, 512, batch_size)


@pytest.mark.parametrize(
    ("rows_per_step", "row_tokens", "world_size", "remedy"),
    [
        (8, 512, 3, "Set --data.rows_per_step to 6 or 9; or train on 2."),
        (
            1,
            2048,
            2,
            "Set --data.rows_per_step to 2, or, for as many tokens a step as now, "
            "--data.rows_per_step to 2 and --data.row_tokens to 1024; or train on 1.",
        ),
        (6, 512, 4, "--data.rows_per_step to 24 and --data.row_tokens to 128; or train on 3."),
    ],
)
def test_a_step_that_processes_do_not_divide_is_refused_with_the_nearest(
    rows_per_step: int, row_tokens: int, world_size: int, remedy: str
):
    with pytest.raises(UserError) as refused:
        refuse_uneven_rows(rows_per_step, row_tokens, "auto", world_size)
    assert str(refused.value).startswith(
        f"--data.rows_per_step {rows_per_step}: wanted a multiple of the processes, which are "
        f"{world_size}, "
    )
    assert str(refused.value).endswith(remedy)


def test_micro_batches_divide_the_rows_of_a_process():
    refuse_uneven_rows(8, 512, 2, world_size=4)
    with pytest.raises(
        UserError, match=r"8 over 4 processes\. Set --data\.batch_size to auto or 2, "
    ):
        refuse_uneven_rows(8, 512, 4, world_size=4)


def test_there_are_as_many_processes_as_options_say():
    assert processes_of(trainer(), ALONE) == Processes(1, 1)
    assert processes_of(trainer(2, 3), ALONE) == Processes(2, 3)
    assert Processes(2, 3).world_size == 6


@pytest.mark.parametrize("asked", [trainer(), trainer(2, 2)])
def test_who_started_them_says_how_many_there_are(asked: Any):
    assert processes_of(asked, SECOND_OF_FOUR) == Processes(2, 2)


def test_options_that_say_something_else_are_refused():
    with pytest.raises(UserError) as refused:
        processes_of(trainer(4), SECOND_OF_FOUR)
    assert "torchrun has started 2 processes on each of 2 machines. Leave both away" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("devices", "num"), [(1, 1), ("2", 2), (3, 3), ("0,1", 2), ([2, 3], 2), ("auto", 1), (-1, 1)]
)
def test_devices_are_counted_as_they_are_written(devices: Any, num: int):
    assert num_devices(trainer(devices)) == num


def test_all_cards_of_a_machine_are_those_it_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert num_devices(trainer("auto", accelerator="auto")) == 4
    assert num_devices(trainer("-1", accelerator="gpu")) == 4
    assert num_devices(trainer(2, accelerator="gpu")) == 2
    with pytest.raises(UserError, match="wanted no more cards than this machine has, which are 4"):
        num_devices(trainer(8, accelerator="gpu"))


def test_cards_are_named_by_their_numbers():
    assert (cards_named("2,3"), cards_named([2, 3]), cards_named("2"), cards_named(2)) == (
        [2, 3],
        [2, 3],
        [],
        [],
    )


# Each for itself


@pytest.mark.parametrize(
    ("accelerator", "devices", "wanted"),
    [("auto", 4, [1]), ("gpu", [6, 7], [7]), ("cuda", "4,5", [5]), ("cpu", 4, 1)],
)
def test_a_process_that_works_apart_has_its_own_card(
    accelerator: str, devices: Any, wanted: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("amazon_desc.run.options.devices.here", lambda: SECOND_OF_FOUR)
    options = SimpleNamespace(accelerator=accelerator, devices=devices, enable_progress_bar=None)
    given = working_apart(options, SECOND_OF_FOUR)
    assert (given["devices"], given["num_nodes"], given["strategy"]) == (wanted, 1, "auto")
    assert not given["enable_progress_bar"], "the first one shows how far all are"
    assert working_apart(options, ALONE)["enable_progress_bar"]
