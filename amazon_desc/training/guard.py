"""Nothing that is not finite reaches a weight or a checkpoint, and what it came from is named.

In come the optimizer steps of a fit, out goes NotFiniteError. On a GPU the host does not wait for a
step's numbers: the optimizer heeds them there, and the error comes a step or two later, but before
anything is kept of the weights. Elsewhere it comes at once.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.support.errors import NotFiniteError
from amazon_desc.training.accumulation import Accumulation
from amazon_desc.training.finite import OptimizerStep, OptimizerSteps, leaves_steps_out, on_the_host

ROW_TOKENS_SHOWN = 40


class Guard:
    """Watches the steps of one fit.

    Args:
        scaler: the loss scaler of float16, or None
    """

    def __init__(self, data: DescriptionData, scaler: Any) -> None:
        self.data, self.scaler = data, scaler
        self.steps = OptimizerSteps()

    def begin(
        self, optimizer: Optimizer, accumulation: Accumulation, norm: Tensor, number: int
    ) -> OptimizerStep:
        """Checks an optimizer step, or has the optimizer heed its numbers; called right before it.

        Args:
            norm: of the step's gradient
            number: of the step, from 1

        Raises:
            NotFiniteError: of this step or one before; the weights are as they were before that.
        """
        numbers, sizes = accumulation.numbers(norm), accumulation.sizes
        is_later = (
            numbers.device.type == "cuda" and self.scaler is None and leaves_steps_out(optimizer)
        )
        if is_later:
            optimizer.found_inf = self.steps.flag_after(numbers)  # pyright: ignore
        first_row = self.data.num_trained_rows - sum(sizes)
        step = OptimizerStep(
            number, first_row, sizes, accumulation.num_targets(), *on_the_host(numbers)
        )
        self.steps.add(step)
        for seen in self.steps.arrived() if is_later else self.steps.all():
            self.refuse_not_finite(seen)
        return step

    def wait(self) -> None:
        """Returns when the numbers of all steps are known: before anything is kept of them.

        Raises:
            NotFiniteError: of the first that is not finite.
        """
        for step in self.steps.all():
            self.refuse_not_finite(step)

    def refuse_not_finite(self, step: OptimizerStep) -> None:
        """Stops at an optimizer step that would have spoilt the weights, and names its rows.

        In float16 an infinite gradient is no fault: the scaler leaves that step out, and halves its
        scale. Only one that is still infinite at the scale 1 is.
        """
        for what, numbers in step.not_finite().items():
            if what == "gradient" and self.scaler is not None and self.scaler.get_scale() > 1:
                return
            rows = rows_in_training(self.data, step.first_row, step.sizes)
            named = [row_as_text(self.data, row) for number in numbers for row in rows[number]]
            raise NotFiniteError(
                f"the {what} of optimizer step {step.number} is NaN or infinite. That step was not "
                f"made, and the checkpoints are from before it. Its rows of the prepared data: "
                f"{'; '.join(named)}. Look at them, or lower --model.optimizer.init_args.lr and "
                f"start anew in another --trainer.default_root_dir."
            )


def rows_in_training(data: DescriptionData, first_row: int, sizes: list[int]) -> list[list[int]]:
    """Returns the numbers of the rows of successive micro-batches.

    Rows in the order 5, 2, 7, 1, 4:

        first_row = 1, sizes = [2, 1]  ->  [[2, 7], [1]]

    Args:
        first_row: rows that were trained on before them
        sizes: rows of each micro-batch
    """
    order = data.order(len(data.opened.rows()), first_row).rows()  # of all processes
    return [list(islice(order, size)) for size in sizes]


def row_as_text(data: DescriptionData, number: int) -> str:
    """Returns a row's number and how it begins, printable."""
    ids = list(data.opened.rows()[number]["input_ids"][:ROW_TOKENS_SHOWN])
    return f"row {number} (begins {str(data.tokenizer.decode(ids))!r})"
