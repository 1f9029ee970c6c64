"""The random states that a checkpoint keeps come back: the next draws are the same."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from amazon_desc.training.random_states import moved, random_states, restore_random_states

CPU = torch.device("cpu")


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
    states = as_a_checkpoint_keeps_it(random_states(CPU))
    expected = [draw() for _ in range(300)]  # beyond a block of 624 numbers
    assert expected[0] != expected[1]
    restore_random_states(states, CPU)
    assert [draw() for _ in range(300)] == expected


def test_half_of_a_pair_of_normal_numbers_is_kept():
    """Python and NumPy make two at a time and keep one for the next call."""
    random.gauss(0, 1)
    np.random.randn()
    states = as_a_checkpoint_keeps_it(random_states(CPU))
    expected = (random.gauss(0, 1), float(np.random.randn()))
    for seed in (random.seed, np.random.seed):
        seed(99)
    restore_random_states(states, CPU)
    assert (random.gauss(0, 1), float(np.random.randn())) == expected


def test_states_can_be_restored_again_and_again():
    states = random_states(CPU)
    expected = draw_all()
    for _ in range(2):
        restore_random_states(states, CPU)
        assert draw_all() == expected


def test_taking_the_states_draws_nothing():
    expected = draw_all()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random_states(CPU)
    assert draw_all() == expected


# Cards


class Cards:
    """Stands in for the generators of a machine's cards: the state of each is a number."""

    def __init__(self, *states: int) -> None:
        self.states = [torch.tensor([state]) for state in states]

    def use(self, patch: pytest.MonkeyPatch) -> None:
        def number(device: Any) -> int:
            return torch.device(device).index or 0

        def set_state(state: torch.Tensor, device: Any) -> None:
            self.states[number(device)] = state

        patch.setattr(torch.cuda, "is_available", lambda: bool(self.states))
        patch.setattr(torch.cuda, "get_rng_state", lambda device: self.states[number(device)])
        patch.setattr(torch.cuda, "set_rng_state", set_state)

    def numbers(self) -> list[int]:
        return [int(state) for state in self.states]


@pytest.mark.parametrize(
    ("trained_on", "cards", "now", "after"),
    [
        ("cuda:1", (7, 8), "cuda:1", [7, 21]),
        ("cuda:1", (7,), "cuda:0", [21]),  # fewer cards
        ("cuda:1", (7, 8, 9), "cuda:2", [7, 8, 21]),  # another of more
        ("cuda:1", (), "cpu", []),
        ("cuda:1", (7,), "cpu", [7]),
        ("cpu", (7, 8), "cuda:1", [7, 8]),
    ],
)
def test_the_card_that_trains_draws_on_as_the_one_did_that_trained(
    trained_on: str,
    cards: tuple[int, ...],
    now: str,
    after: list[int],
    monkeypatch: pytest.MonkeyPatch,
):
    Cards(20, 21, 22).use(monkeypatch)
    states = as_a_checkpoint_keeps_it(random_states(torch.device(trained_on)))
    assert [int(state) for state in states["cuda"]] == ([] if trained_on == "cpu" else [21])
    draw_torch()
    machine = Cards(*cards)
    machine.use(monkeypatch)
    restore_random_states(states, torch.device(now))
    assert machine.numbers() == after
    kind, before = now.split(":")[0], trained_on.split(":")[0]
    assert moved(states, torch.device(now)) == (None if kind == before else before)


@pytest.mark.parametrize(
    ("cards", "now", "after"),
    [
        ((7, 8, 9), "cuda:1", [7, 21, 9]),  # the same machine
        ((7,), "cuda:0", [20]),
        ((7, 8, 9, 10), "cuda:3", [7, 8, 9, 20]),  # more than were kept
        ((), "cpu", []),
    ],
)
def test_a_checkpoint_of_before_with_all_cards_of_its_machine_stays_readable(
    cards: tuple[int, ...], now: str, after: list[int], monkeypatch: pytest.MonkeyPatch
):
    states = random_states(CPU)
    del states["device"]
    states["cuda"] = Cards(20, 21, 22).states
    machine = Cards(*cards)
    machine.use(monkeypatch)
    restore_random_states(as_a_checkpoint_keeps_it(states), torch.device(now))
    assert machine.numbers() == after
    assert moved(states, torch.device(now)) is None
