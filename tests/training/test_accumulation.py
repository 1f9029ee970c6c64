"""The micro-batches of an optimizer step: one mean over all targets."""

import pytest
import torch

from amazon_desc.training.accumulation import Accumulation


def accumulated(
    *losses: float, targets: tuple[int, ...] = (), rows: tuple[int, ...] = ()
) -> Accumulation:
    accumulation = Accumulation()
    for number, loss in enumerate(losses):
        num_targets = targets[number] if targets else 1
        accumulation.add(torch.tensor(loss), num_targets, [rows[number] if rows else 1])
    return accumulation


def test_the_worked_example():
    accumulation = accumulated(6.0, 10.0, targets=(2, 6))
    assert accumulation.num_targets() == 8
    assert accumulation.numbers(torch.tensor(3.0)).tolist() == [6, 10, 3]


def test_the_divisor_is_known_without_asking_a_device():
    assert type(accumulated(10.0, 0.0, targets=(1, 99)).num_targets()) is int


def test_a_step_without_a_target_divides_by_one():
    assert accumulated(0.0, 0.0, targets=(0, 0)).num_targets() == 1


def test_the_rows_of_each_micro_batch_are_known():
    assert accumulated(1.0, 1.0, 1.0, rows=(4, 4, 1)).sizes == [4, 4, 1]
    assert Accumulation().sizes == []


def test_an_accumulation_holds_no_graph():
    """Held for a step, the losses would keep the activations of all its micro-batches."""
    weight = torch.tensor(2.0, requires_grad=True)
    accumulation = Accumulation()
    accumulation.add(weight * 3, 2, [1])
    numbers = accumulation.numbers(torch.tensor(1.0))
    assert not numbers.requires_grad
    assert numbers.tolist() == [6, 1]


@pytest.mark.parametrize("norm", [torch.tensor(2.0, dtype=torch.float64), torch.tensor([2.0])])
def test_a_norm_of_another_type_or_shape_is_taken(norm: torch.Tensor):
    numbers = accumulated(1.0).numbers(norm)
    assert (numbers.tolist(), numbers.dtype) == ([1, 2], torch.float32)
