"""A LightningModule's optimizer steps: averaged over their targets, guarded, clipped and logged.

In come micro-batches that were accumulated, with their gradients; out go gradients to step
with and the numbers of the steps that are logged. On a GPU only those wait for the device, and
what keeps the weights. The state of training is here too: rows trained on, random states, the end;
callbacks only report it. What is trained, and how, is known in module.py.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.training import exchange, gradients
from amazon_desc.training.accumulation import Accumulation
from amazon_desc.training.finite import OptimizerStep
from amazon_desc.training.guard import Guard
from amazon_desc.training.lightning_internals import (
    count_micro_batches_anew,
    is_step_logged,
    leaves_unscaling_to,
)
from amazon_desc.training.random_states import random_states, restore_random_states


class SteppingModule(L.LightningModule):
    """Expects of its training step that it calls `trained_on`, and a loss over `row_tokens`."""

    def __init__(self) -> None:
        super().__init__()
        self.accumulation = Accumulation()
        self.guard: Guard | None = None  # of a fit
        self.votes = exchange.Votes()
        self.step: OptimizerStep | None = None  # the newest
        self.settings_of_step: dict[str, float] = {}
        self.restored: dict[str, Any] | None = None  # random states of the resumed checkpoint

    @property
    def data(self) -> DescriptionData:
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(data, DescriptionData)
        return data

    @property
    def scaler(self) -> Any:
        """The loss scaler of float16, or None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def gradients(self, optimizer: Optimizer) -> list[Tensor]:
        """Returns all that the optimizer will step with."""
        return gradients.gradients_of(optimizer)

    def on_train_start(self) -> None:
        self.accumulation, self.guard = Accumulation(), Guard(self.data, self.scaler)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.restored is not None:
            restore_random_states(
                self.restored, self.device
            )  # whatever was drawn while all was loaded
            self.restored = None
        if self.trainer.is_last_batch:
            self.trainer.should_stop = True  # Lightning validates before it obeys

    def trained_on(self, loss_sum: Tensor, num_targets: int) -> None:
        """Adds a micro-batch to its optimizer step, and counts its rows and the other processes'.

        Right after its forward pass: dropout and the checkpoint of this step, which callbacks save
        before any later hook of a module, have to find the count without it and with it.
        """
        self.accumulation.add(loss_sum, num_targets, self.data.count_round())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turns the accumulated gradients of all processes into that of the mean over the step's
        targets."""
        found, step = self.gradients(optimizer), self.accumulation
        counts = self.votes.take(step.num_here)
        step.num_elsewhere = sum(num for (num,) in counts) - step.num_here
        exchange.sum_in_place(found)  # before anybody asks whether it is finite
        if self.scaler is not None and leaves_unscaling_to(optimizer):
            self.scaler.unscale_(optimizer)
        constant = self.trainer.accumulate_grad_batches * self.data.row_tokens
        gradients.multiply(found, constant / step.num_targets())

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Refuses what is not finite, and clips as asked.

        Raises:
            NotFiniteError: loss or gradient is NaN or infinite; the weights are still as they were.
        """
        found = self.gradients(optimizer)
        norm, number = gradients.norm_of(found), self.trainer.global_step + 1
        assert self.guard is not None, "on_train_start makes it"
        self.step = self.guard.begin(optimizer, self.accumulation, norm, number)
        self.accumulation = Accumulation()
        learning_rate = optimizer.param_groups[0]["lr"]
        # Lightning's own epoch stays 0
        self.settings_of_step = {"train/learning_rate": learning_rate, "epoch": self.data.epoch}
        gradients.clip(found, norm, gradient_clip_val, gradient_clip_algorithm)

    def numbers_of_step(self) -> dict[str, float | Tensor]:
        """Returns what is logged of the newest step; waits for it."""
        assert self.step is not None, "there was a step"
        self.wait_for_steps()
        return {
            "train/loss": self.step.mean_loss(),
            "train/gradient_norm": self.step.gradient_norm(),
            **self.settings_of_step,
        }

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs the step, if it is one of those that are."""
        if is_step_logged(self.trainer):
            for name, value in self.numbers_of_step().items():
                self.log(name, value, prog_bar=name == "train/loss")

    def log(self, name: str, value: Any, **options: Any) -> None:  # pyright: ignore
        """Keeps plain numbers off the device, where Lightning would put them and wait for them."""
        on_the_host = value if isinstance(value, Tensor) else torch.tensor(float(value))
        super().log(name, on_the_host, **options)

    def wait_for_steps(self) -> None:
        """Returns when all steps are known to be finite: before anything is kept of them.

        Raises:
            NotFiniteError: one is not.
        """
        if self.guard is not None:
            self.guard.wait()

    def on_validation_start(self) -> None:
        self.wait_for_steps()

    def on_train_end(self) -> None:
        self.wait_for_steps()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.wait_for_steps()
        checkpoint["random_states"] = random_states(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restored = checkpoint["random_states"]
        # Lightning calls this before the data module reads its own part.
        num_rows = checkpoint[type(self.data).__qualname__]["num_trained_rows"]
        at_a_time = self.data.batch_size * self.data.share.world_size
        count_micro_batches_anew(checkpoint, num_rows, at_a_time)
