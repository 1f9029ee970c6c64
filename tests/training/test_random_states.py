"""The random states that a checkpoint keeps come back: the next draws are the same."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from amazon_desc.training.random_states import random_states, restore_random_states


def draw_python() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(random.randrange(10**12))]


def draw_numpy() -> list[float]:
    return [*np.random.rand(3).tolist(), float(np.random.randn())]


def draw_torch() -> list[float]:
    return [*torch.rand(3).tolist(), *torch.randn(3).tolist(), *torch.randperm(9).tolist()]


def draw_all() -> list[list[float]]:
    return [draw_python(), draw_numpy(), draw_torch()]


def as_a_checkpoint_keeps_it(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


@pytest.mark.parametrize("draw", [draw_python, draw_numpy, draw_torch])
def test_the_next_draws_are_the_same(draw: Callable[[], list[float]]):
    draw()
    states = as_a_checkpoint_keeps_it(random_states())
    expected = [draw() for _ in range(300)]  # beyond a block of 624 numbers
    assert expected[0] != expected[1]
    restore_random_states(states)
    assert [draw() for _ in range(300)] == expected


def test_half_of_a_pair_of_normal_numbers_is_kept():
    """Python and NumPy make two at a time and keep one for the next call."""
    random.gauss(0, 1)
    np.random.randn()
    states = as_a_checkpoint_keeps_it(random_states())
    expected = (random.gauss(0, 1), float(np.random.randn()))
    for seed in (random.seed, np.random.seed):
        seed(99)
    restore_random_states(states)
    assert (random.gauss(0, 1), float(np.random.randn())) == expected


def test_states_can_be_restored_again_and_again():
    states = random_states()
    expected = draw_all()
    for _ in range(2):
        restore_random_states(states)
        assert draw_all() == expected


def test_taking_the_states_draws_nothing():
    expected = draw_all()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random_states()
    assert draw_all() == expected
