"""The gradients of an optimizer are changed all at once, and where they are."""

import pytest
import torch
from torch.optim import Optimizer

from amazon_desc.training import gradients
from amazon_desc.training.gradients import gradients_of


@pytest.fixture
def optimizer() -> Optimizer:
    """Gradients [3, 4] and [12] in two groups, norm 13; a parameter between them has none."""
    first, without, second = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 3, 1))
    first.grad, second.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    return torch.optim.SGD([{"params": [first, without]}, {"params": [second]}], lr=1.0)


def clip(optimizer: Optimizer, largest: float | None, algorithm: str | None) -> None:
    found = gradients_of(optimizer)
    gradients.clip(found, gradients.norm_of(found), largest, algorithm)


def values(optimizer: Optimizer) -> list[list[float]]:
    return [gradient.tolist() for gradient in gradients_of(optimizer)]


def test_they_are_multiplied_and_set_to_zero_where_they_are(optimizer: Optimizer):
    """The fused path adds to these very tensors."""
    places = [gradient.data_ptr() for gradient in gradients_of(optimizer)]
    gradients.multiply(gradients_of(optimizer), 0.5)
    assert values(optimizer) == [[1.5, 2.0], [6.0]]
    gradients.zero(gradients_of(optimizer))
    assert values(optimizer) == [[0.0, 0.0], [0.0]]
    assert [gradient.data_ptr() for gradient in gradients_of(optimizer)] == places


def test_an_optimizer_without_a_gradient_has_none_to_zero():
    gradients.zero(gradients_of(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)))


@pytest.mark.parametrize("algorithm", ["norm", None])
def test_the_norm_is_that_of_all_together_and_is_clipped_in_one(
    optimizer: Optimizer, algorithm: str | None
):
    assert gradients.norm_of(gradients_of(optimizer)).item() == 13
    clip(optimizer, 1.3, algorithm)
    assert values(optimizer) == [pytest.approx([0.3, 0.4]), pytest.approx([1.2])]


def test_a_norm_below_the_limit_stays(optimizer: Optimizer):
    clip(optimizer, 14.0, "norm")
    assert values(optimizer) == [[3.0, 4.0], [12.0]]


def test_each_number_is_clipped_by_its_value(optimizer: Optimizer):
    clip(optimizer, 3.5, "value")
    assert values(optimizer) == [[3.0, 3.5], [3.5]]


@pytest.mark.parametrize("largest", [None, 0, 0.0])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_without_a_limit_nothing_is_clipped(
    optimizer: Optimizer, largest: float | None, algorithm: str
):
    clip(optimizer, largest, algorithm)
    assert values(optimizer) == [[3.0, 4.0], [12.0]]


@pytest.mark.parametrize("largest", [0.1, 2.0, 50.0])
def test_they_are_clipped_as_torch_does(largest: float):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (100, 7)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    mine = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    gradients.clip(mine, gradients.norm_of(mine), largest, "norm")
    torch.nn.utils.clip_grad_norm_(parameters, largest)
    for parameter, found in zip(parameters, mine, strict=True):
        assert torch.equal(found, parameter.grad)  # pyright: ignore[reportArgumentType]
