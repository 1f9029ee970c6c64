"""The micro-batches of one optimizer step: their loss and their targets together.

In come summed losses and counts of targets, out go the number to divide by, and all numbers that
must be finite, where they were computed. What is trained is not known here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amazon_desc.training.exchange import gathered_tensors


class MicroBatch(NamedTuple):
    """What the optimizer step that it belongs to has to know of it."""

    loss_sum: Tensor
    num_targets: int
    sizes: list[int]
    """the rows of the micro-batch that each process has had at the same time"""


class Accumulation:
    """The micro-batches since the last optimizer step.

    Losses 6 and 10 over 2 and 6 targets, and a gradient of norm 3:

        num_targets() = 8    numbers(norm) = [6, 10, 3]
    """

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []
        self.num_elsewhere = 0
        """targets of the step that other processes have"""

    def add(self, loss_sum: Tensor, num_targets: int, sizes: list[int]) -> None:
        self.micro_batches.append(MicroBatch(loss_sum.detach(), num_targets, sizes))

    @property
    def sizes(self) -> list[int]:
        """The rows of each micro-batch of all processes, in the order of the rows."""
        return [size for batch in self.micro_batches for size in batch.sizes]

    @property
    def num_here(self) -> int:
        """The targets that this process has of the step."""
        return sum(batch.num_targets for batch in self.micro_batches)

    def num_targets(self) -> int:
        """Returns the step's targets; 1 where there is none, to divide by."""
        return max(1, self.num_here + self.num_elsewhere)

    def numbers(self, gradient_norm: Tensor) -> Tensor:
        """Returns the summed loss of each micro-batch of all processes, in the order of the rows,
        and the norm of the gradient after them."""
        losses = torch.stack([batch.loss_sum for batch in self.micro_batches])
        in_order = torch.stack(gathered_tensors(losses), dim=1).flatten()
        return torch.cat([in_order, gradient_norm.reshape(1).to(losses)])
