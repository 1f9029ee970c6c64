"""The learning rate warms up from the first step and ends where it should."""

from itertools import pairwise

import pytest
import torch

from amazon_desc.training.schedule import Schedule, learning_rates, length_of_warmup, share_of_peak

FALLING: list[Schedule] = ["cosine", "linear"]
EVERY: list[Schedule] = [*FALLING, "constant"]

WORKED: dict[Schedule, list[float]] = {
    "cosine": [0.5, 1.0, 1.0, 0.97, 0.883, 0.753, 0.6, 0.447, 0.317, 0.23],
    "linear": [0.5, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    "constant": [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
}


def shares(schedule: Schedule, num_steps: int, num_warmup: int, final: float) -> list[float]:
    return [share_of_peak(n, schedule, num_steps, num_warmup, final) for n in range(num_steps)]


@pytest.mark.parametrize("schedule", EVERY)
def test_the_worked_example(schedule: Schedule) -> None:
    assert [round(share, 3) for share in shares(schedule, 10, 2, 0.2)] == WORKED[schedule]


@pytest.mark.parametrize("schedule", EVERY)
def test_the_first_step_learns_with_and_without_warm_up(schedule: Schedule) -> None:
    assert shares(schedule, 4, 0, 0.0)[0] == 1.0
    assert shares(schedule, 100, 10, 0.0)[0] == 0.1


@pytest.mark.parametrize("schedule", EVERY)
def test_a_run_that_is_all_warm_up_never_divides_by_nothing(schedule: Schedule) -> None:
    assert shares(schedule, 4, 4, 0.1) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("schedule", FALLING)
def test_steps_beyond_the_end_stay_at_the_final_share(schedule: Schedule) -> None:
    assert share_of_peak(50, schedule, 10, 1, 0.25) == 0.25


def test_a_linear_rate_falls_by_the_same_at_each_step() -> None:
    found = shares("linear", 12, 4, 0.2)[4:]
    assert [a - b for a, b in pairwise(found)] == pytest.approx([0.1] * 7)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1000, 0.03, None), 30),
        ((1000, 0.03, 100), 100),
        ((60, 0.03, 100), 100),
        ((10, 0.2, 0), 0),
        ((4, 0.99, None), 4),
    ],
)
def test_steps_of_warm_up_win_over_their_share(
    arguments: tuple[int, float, int | None], expected: int
) -> None:
    assert length_of_warmup(*arguments) == expected


def test_a_run_that_is_shorter_than_its_warm_up_ends_while_the_rate_rises() -> None:
    assert shares("linear", 60, 100, 0.1)[-1] == 0.6


# Beside transformers


def rates(make) -> list[float]:
    """Returns the rates of 100 steps at a peak of 1, as an optimizer has them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(100):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def transformers_rates(schedule: Schedule, num_warmup: int) -> list[float]:
    from transformers import get_scheduler

    name = f"{schedule}_with_warmup" if schedule == "constant" else schedule
    return rates(lambda optimizer: get_scheduler(name, optimizer, num_warmup, 100))


@pytest.mark.parametrize("schedule", EVERY)
def test_behind_the_warm_up_the_rates_are_those_of_transformers(schedule: Schedule) -> None:
    theirs = transformers_rates(schedule, 8)
    ours = rates(lambda optimizer: learning_rates(optimizer, schedule, 100, 8, 0.0))
    assert ours[8:] == pytest.approx(theirs[8:], abs=1e-12)
    assert ours[8] == 1.0
    assert ours[-1] == pytest.approx({"linear": 1 / 92, "constant": 1.0}.get(schedule, 2.9e-4), 0.1)


@pytest.mark.parametrize("schedule", EVERY)
def test_in_the_warm_up_ours_are_a_step_ahead_of_theirs(schedule: Schedule) -> None:
    theirs = transformers_rates(schedule, 8)
    ours = rates(lambda optimizer: learning_rates(optimizer, schedule, 100, 8, 0.0))
    assert theirs[0] == 0.0
    assert ours[0] == 1 / 8
    assert ours[:8] == theirs[1:9]


@pytest.mark.parametrize("schedule", EVERY)
def test_without_a_warm_up_the_rates_are_those_of_transformers(schedule: Schedule) -> None:
    ours = rates(lambda optimizer: learning_rates(optimizer, schedule, 100, 0, 0.0))
    assert ours == pytest.approx(transformers_rates(schedule, 0), abs=1e-12)
