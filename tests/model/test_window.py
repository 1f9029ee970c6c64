"""The micro-batches of an optimizer step: one mean over all targets."""

import pytest
import torch

from amazon_desc.model.window import Window


def window_of(*losses: float, targets: tuple[int, ...] = (), rows: tuple[int, ...] = ()) -> Window:
    window = Window()
    for number, loss in enumerate(losses):
        num_targets = targets[number] if targets else 1
        window.add(torch.tensor(loss), num_targets, rows[number] if rows else 1)
    return window


def test_the_worked_example():
    window = window_of(6.0, 10.0, targets=(2, 6))
    assert window.num_targets() == 8
    assert window.numbers(torch.tensor(3.0)).tolist() == [6, 10, 3]


def test_the_divisor_is_known_without_asking_a_device():
    assert type(window_of(10.0, 0.0, targets=(1, 99)).num_targets()) is int


def test_a_step_without_a_target_divides_by_one():
    assert window_of(0.0, 0.0, targets=(0, 0)).num_targets() == 1


def test_the_rows_of_each_micro_batch_are_known():
    assert window_of(1.0, 1.0, 1.0, rows=(4, 4, 1)).sizes == [4, 4, 1]
    assert Window().sizes == []


def test_a_window_holds_no_graph():
    """Held for a step, the losses would keep the activations of all its micro-batches."""
    weight = torch.tensor(2.0, requires_grad=True)
    window = Window()
    window.add(weight * 3, 2, 1)
    numbers = window.numbers(torch.tensor(1.0))
    assert not numbers.requires_grad
    assert numbers.tolist() == [6, 1]


@pytest.mark.parametrize("norm", [torch.tensor(2.0, dtype=torch.float64), torch.tensor([2.0])])
def test_a_norm_of_another_type_or_shape_is_taken(norm: torch.Tensor):
    numbers = window_of(1.0).numbers(norm)
    assert (numbers.tolist(), numbers.dtype) == ([1, 2], torch.float32)
