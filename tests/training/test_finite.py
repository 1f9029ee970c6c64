"""What is not finite is found at its own step, and no step behind it is made, without waiting."""

from collections.abc import Callable

import pytest
import torch

from amazon_desc.training.finite import OptimizerStep, OptimizerSteps, leaves_steps_out, on_the_host

NAN, INF = float("nan"), float("inf")


class Delayed:
    """A copy that is done when it is told to be; notes how often it was waited for."""

    def __init__(self) -> None:
        self.is_done, self.num_waits = False, 0

    def query(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        self.is_done = True
        self.num_waits += 1


def step_of(*losses: float, norm: float = 1.0, number: int = 1, targets: int = 1) -> OptimizerStep:
    numbers = torch.tensor([*losses, norm])
    return OptimizerStep(number, 0, [1] * len(losses), targets, numbers, arrival=None)


def delayed_steps(num: int) -> tuple[OptimizerSteps, list[Delayed]]:
    steps, arrivals = OptimizerSteps(), [Delayed() for _ in range(num)]
    for number, arrival in enumerate(arrivals, start=1):
        step = step_of(1.0, number=number)
        step.arrival = arrival
        steps.add(step)
    return steps, arrivals


# Of one step


def test_the_worked_example():
    step = step_of(6.0, 10.0, norm=3.0, targets=8)
    assert (step.mean_loss(), step.gradient_norm(), step.not_finite()) == (16 / 8, 3, {})
    assert step_of(6.0, NAN, norm=NAN).not_finite() == {"loss": [1]}


def test_the_mean_is_over_targets_and_not_over_micro_batches():
    assert step_of(10.0, 0.0, targets=100).mean_loss().item() == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("norm", [1.0, NAN, INF])
def test_a_loss_that_is_not_finite_names_its_micro_batches(bad: float, norm: float):
    assert step_of(bad, 1.0, bad, norm=norm).not_finite() == {"loss": [0, 2]}


@pytest.mark.parametrize("norm", [NAN, INF])
def test_a_gradient_alone_is_that_of_all_micro_batches(norm: float):
    assert step_of(1.0, 2.0, 3.0, norm=norm).not_finite() == {"gradient": [0, 1, 2]}


def test_losses_that_are_large_but_finite_are_no_fault():
    """Their sum is infinite in float32, so a check of the sum would stop the run."""
    step = step_of(3e38, 3e38, norm=3e38)
    assert step.not_finite() == {}
    assert OptimizerSteps().flag_after(step.numbers) == 0


# Of steps whose numbers come later


def test_a_step_is_looked_at_when_it_is_here_and_not_waited_for():
    steps, arrivals = delayed_steps(3)
    assert list(steps.arrived()) == []
    arrivals[0].is_done = arrivals[1].is_done = True
    assert [step.number for step in steps.arrived()] == [1, 2]
    assert list(steps.arrived()) == []
    assert [arrival.num_waits for arrival in arrivals] == [0, 0, 0]


def test_a_step_is_never_looked_at_before_those_before_it():
    """The first that is bad is the one to name; those behind it were computed with its weights."""
    steps, arrivals = delayed_steps(3)
    arrivals[1].is_done = arrivals[2].is_done = True
    assert list(steps.arrived()) == []
    arrivals[0].is_done = True
    assert [step.number for step in steps.arrived()] == [1, 2, 3]


def test_all_that_are_left_are_waited_for():
    steps, arrivals = delayed_steps(3)
    arrivals[0].is_done = True
    assert [step.number for step in steps.arrived()] == [1]
    assert [step.number for step in steps.all()] == [2, 3]
    assert list(steps.all()) == []
    assert [arrival.num_waits for arrival in arrivals] == [0, 1, 1]


def test_numbers_on_the_host_are_here_at_once():
    numbers, arrival = on_the_host(torch.tensor([1.0, 2.0]))
    assert (numbers.tolist(), arrival) == ([1, 2], None)
    assert step_of(1.0).is_here()


# The flag, and the optimizers that heed it


@pytest.mark.parametrize("bad", [(NAN, 1.0), (1.0, INF), (-INF, NAN)])
def test_the_flag_stays_up_for_all_steps_behind(bad: tuple[float, float]):
    steps = OptimizerSteps()
    numbers = [(1.0, 2.0), bad, (1.0, 2.0), (3.0, 4.0)]
    flags = [steps.flag_after(torch.tensor(pair)) for pair in numbers]
    assert [flag.item() for flag in flags] == [0, 1, 1, 1]
    assert {(flag.dtype, flag.shape) for flag in flags} == {(torch.float32, torch.Size([]))}


def adamw(parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter], lr=0.1, fused=True)


def adam(parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.Adam([parameter], lr=0.1, amsgrad=True, fused=True)


def sgd(parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=True)


@pytest.mark.parametrize("make", [adamw, adam, sgd])
def test_an_optimizer_leaves_out_the_steps_behind_the_flag(
    make: Callable[[torch.nn.Parameter], torch.optim.Optimizer],
):
    """Weights, moments and counts of steps are those of the last good step, to the last bit."""
    parameter, steps = torch.nn.Parameter(torch.arange(5.0)), OptimizerSteps()
    optimizer = make(parameter)
    assert leaves_steps_out(optimizer)
    kept: list[torch.Tensor] = []
    for number in range(5):
        is_bad = number == 2
        gradient = torch.full((5,), NAN if is_bad else 1.0 + number)
        parameter.grad = gradient
        numbers = torch.stack([torch.tensor(1.0), gradient.norm()])
        optimizer.found_inf = steps.flag_after(numbers)  # pyright: ignore
        optimizer.step()
        state = [v for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor)]
        found = [parameter.detach(), *state]
        if number < 2:
            kept = [tensor.clone() for tensor in found]
            assert not torch.equal(kept[0], torch.arange(5.0))
        else:
            assert len(kept) > 1
            assert all(torch.equal(*pair) for pair in zip(found, kept, strict=True))


def test_an_optimizer_that_would_not_heed_the_flag_is_known():
    parameter = torch.nn.Parameter(torch.ones(1))
    for fused in (None, False):
        assert not leaves_steps_out(torch.optim.AdamW([parameter], fused=fused))
    assert not leaves_steps_out(torch.optim.RMSprop([parameter]))
    groups = [{"params": [parameter]}, {"params": [torch.nn.Parameter(torch.ones(1))]}]
    mixed = torch.optim.AdamW(groups, fused=True)
    mixed.param_groups[1]["fused"] = False
    assert not leaves_steps_out(mixed)
