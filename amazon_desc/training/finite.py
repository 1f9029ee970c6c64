"""Whether the numbers of a training step are finite, asked without waiting for the device.

In come the losses and the gradient norm of each optimizer step, where they were computed. Out go
the same on the host, a step or two later and in their order, and a flag on the device: with it an
optimizer leaves out a step whose numbers are not finite, and all that were begun before the host
knew of it. What is then said to whom is the caller's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer


class Arrival(Protocol):
    """What tells whether a copy to the host is done; a torch.cuda.Event does."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


@dataclass
class OptimizerStep:
    """An optimizer step, and its numbers, which may still be on their way to the host.

    Losses 6 and 10 over 8 targets, and a gradient of norm 3:

        numbers = [6, 10, 3]      mean_loss() = 16 / 8    not_finite() = {}
        numbers = [6, NaN, NaN]   not_finite() = {"loss": [1]}

    Args:
        number: of the step, from 1
        first_row: rows that were trained on before it
        sizes: the rows of each of its micro-batches
        num_targets: of all of them, at least 1
        numbers: (micro-batches + 1) what Accumulation.numbers gave, on the host
        arrival: None where the numbers are there already
    """

    number: int
    first_row: int
    sizes: list[int]
    num_targets: int
    numbers: Tensor
    arrival: Arrival | None

    def is_here(self) -> bool:
        return self.arrival is None or self.arrival.query()

    def wait(self) -> None:
        if self.arrival is not None:
            self.arrival.synchronize()

    # Of a step that is here

    def mean_loss(self) -> Tensor:
        """Returns the loss in nats a target."""
        return self.numbers[:-1].sum() / self.num_targets

    def gradient_norm(self) -> Tensor:
        return self.numbers[-1]

    def not_finite(self) -> dict[str, list[int]]:
        """Returns what is not finite, and the numbers of the micro-batches to blame.

        A gradient is that of all of them.
        """
        *is_loss_finite, is_gradient_finite = torch.isfinite(self.numbers).tolist()
        bad = [index for index, is_finite in enumerate(is_loss_finite) if not is_finite]
        if bad:
            return {"loss": bad}
        return {} if is_gradient_finite else {"gradient": list(range(len(is_loss_finite)))}


class OptimizerSteps:
    """The steps that nobody has looked at yet, and the flag that is raised for one of them."""

    def __init__(self) -> None:
        self.unseen: deque[OptimizerStep] = deque()
        self.flag: Tensor | None = None

    def flag_after(self, numbers: Tensor) -> Tensor:
        """Returns 1 if a number of this step, or of one before it, is not finite, else 0.

        It stays on the device of the numbers, and is of the type that optimizers take.
        """
        is_bad = (~torch.isfinite(numbers)).any().float()
        self.flag = is_bad if self.flag is None else torch.maximum(self.flag, is_bad)
        return self.flag

    def add(self, step: OptimizerStep) -> None:
        self.unseen.append(step)

    def arrived(self) -> Iterator[OptimizerStep]:
        """Yields the steps whose numbers are here, the oldest first, each once."""
        while self.unseen and self.unseen[0].is_here():
            yield self.unseen.popleft()

    def all(self) -> Iterator[OptimizerStep]:
        """Yields all that are left, the oldest first, and waits for each."""
        while self.unseen:
            self.unseen[0].wait()
            yield self.unseen.popleft()


def is_finite(tensor: Tensor) -> bool:
    """Says whether no number is NaN or infinite, in one pass: the extremes of NaN are NaN."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def on_the_host(numbers: Tensor) -> tuple[Tensor, Arrival | None]:
    """Begins to copy numbers to the host; returns where they will be, and what tells when."""
    if numbers.device.type != "cuda":
        return numbers.cpu(), None
    copied = numbers.to("cpu", non_blocking=True)  # into pinned memory
    event = torch.cuda.Event()
    event.record()
    return copied, event


def leaves_steps_out(optimizer: Optimizer) -> bool:
    """Says whether it makes no step where its attribute `found_inf` is 1 on the device.

    Those of torch do, in the form that a GradScaler hands the flag to.
    """
    is_known = isinstance(optimizer, (Adam, SGD)) and optimizer.param_groups
    return bool(is_known) and all(group.get("fused") for group in optimizer.param_groups)
