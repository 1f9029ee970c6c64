"""The micro-batches of an optimizer step: one mean over all targets, and who is to blame."""

import pytest
import torch

from amazon_desc.model.window import Window

NAN, INF = float("nan"), float("inf")


def window_of(*losses: float, targets: tuple[int, ...] = (), rows: tuple[int, ...] = ()) -> Window:
    window = Window()
    for number, loss in enumerate(losses):
        num_targets = torch.tensor(targets[number] if targets else 1)
        window.add(torch.tensor(loss), num_targets, rows[number] if rows else 1)
    return window


def test_the_worked_example():
    window = window_of(6.0, 10.0, targets=(2, 6))
    assert window.mean_loss().item() == 16 / 8
    assert window.not_finite(torch.tensor(3.0)) == {}
    spoilt = window_of(6.0, NAN, targets=(2, 6))
    assert spoilt.not_finite(torch.tensor(NAN)) == {"loss": [1]}


def test_the_mean_is_over_targets_and_not_over_micro_batches():
    window = window_of(10.0, 0.0, targets=(1, 99))
    assert window.mean_loss().item() == pytest.approx(0.1)
    assert window.num_targets().item() == 100


def test_a_step_without_a_target_divides_by_one():
    window = window_of(0.0, 0.0, targets=(0, 0))
    assert window.num_targets().item() == 1
    assert window.mean_loss().item() == 0


def test_the_rows_of_each_micro_batch_are_known():
    assert window_of(1.0, 1.0, 1.0, rows=(4, 4, 1)).sizes == [4, 4, 1]
    assert Window().sizes == []


def test_a_window_holds_no_graph():
    """Held for a step, the losses would keep the activations of all its micro-batches."""
    weight = torch.tensor(2.0, requires_grad=True)
    window = Window()
    window.add(weight * 3, torch.tensor(2), 1)
    assert not window.mean_loss().requires_grad
    assert window.mean_loss().item() == 3


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("norm", [1.0, NAN, INF])
def test_a_loss_that_is_not_finite_names_its_micro_batches(bad: float, norm: float):
    assert window_of(bad, 1.0, bad).not_finite(torch.tensor(norm)) == {"loss": [0, 2]}


@pytest.mark.parametrize("norm", [NAN, INF])
def test_a_gradient_alone_is_that_of_all_micro_batches(norm: float):
    assert window_of(1.0, 2.0, 3.0).not_finite(torch.tensor(norm)) == {"gradient": [0, 1, 2]}


def test_losses_that_are_large_but_finite_are_no_fault():
    """Their sum is infinite in float32, so a check of the sum would stop the run."""
    assert window_of(3e38, 3e38).not_finite(torch.tensor(3e38)) == {}


def test_a_norm_of_another_type_is_taken():
    assert window_of(1.0).not_finite(torch.tensor(2.0, dtype=torch.float64)) == {}
    assert window_of(1.0).not_finite(torch.tensor([INF], dtype=torch.bfloat16)) == {"gradient": [0]}
