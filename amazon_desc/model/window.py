"""The micro-batches of one optimizer step: their loss together, and whether all of it is finite.

In come summed losses and counts of targets, out go the mean over the step's targets, and which
micro-batches are to blame where something is NaN or infinite. What is trained is not known here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MicroBatch(NamedTuple):
    """What the optimizer step that it belongs to has to know of it."""

    loss_sum: Tensor
    num_targets: Tensor
    num_rows: int


class Window:
    """The micro-batches since the last optimizer step.

    Losses 6 and 10 over 2 and 6 targets:

        mean_loss() = 16 / 8    not_finite(norm) = {}
        with a loss of NaN for the second: not_finite(norm) = {"loss": [1]}
    """

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []

    def add(self, loss_sum: Tensor, num_targets: Tensor, num_rows: int) -> None:
        self.micro_batches.append(MicroBatch(loss_sum.detach(), num_targets, num_rows))

    @property
    def sizes(self) -> list[int]:
        """The rows of each micro-batch."""
        return [batch.num_rows for batch in self.micro_batches]

    def num_targets(self) -> Tensor:
        """Returns the step's targets; 1 where there is none, to divide by."""
        return torch.stack([batch.num_targets for batch in self.micro_batches]).sum().clamp(min=1)

    def mean_loss(self) -> Tensor:
        """Returns the loss in nats a target."""
        losses = torch.stack([batch.loss_sum for batch in self.micro_batches])
        return losses.sum() / self.num_targets()

    def not_finite(self, gradient_norm: Tensor) -> dict[str, list[int]]:
        """Returns what is not finite, and the numbers of the micro-batches to blame.

        A gradient is that of all of them. The device is waited for once.
        """
        losses = torch.stack([batch.loss_sum for batch in self.micro_batches])
        if torch.isfinite(torch.cat([losses, gradient_norm.reshape(1).to(losses)])).all():
            return {}
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        return {"loss": bad} if bad else {"gradient": list(range(len(losses)))}
