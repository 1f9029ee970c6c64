"""The learning rate over a run: it rises over the warm-up, then falls, or stays.

In comes a step, out goes the share of the peak learning rate, or what gives an optimizer its
learning rates. How many steps there are is the caller's to know.

After the warm-up the shares are those of transformers' schedules of these names. In the warm-up
ours are a step ahead: theirs begins with a step at 0, which learns nothing, here the first one
learns.
"""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["linear", "cosine", "constant"]


def learning_rates(
    optimizer: Optimizer,
    schedule: Schedule,
    num_steps: int,
    num_warmup: int,
    final_fraction: float,
) -> LambdaLR:
    """Returns what gives an optimizer its learning rate, step by step."""

    def share(step: int) -> float:
        return share_of_peak(step, schedule, num_steps, num_warmup, final_fraction)

    return LambdaLR(optimizer, share)


def length_of_warmup(num_steps: int, fraction: float, steps: int | None) -> int:
    """Returns over how many steps the rate rises: `steps`, or that fraction of a run.

        (1000, 0.03, None) -> 30      (1000, 0.03, 100) -> 100      (60, 0.03, 100) -> 100

    In the last one the run ends while the rate still rises, at 0.6 of its peak.
    """
    return round(num_steps * fraction) if steps is None else steps


def share_of_peak(
    step: int, schedule: Schedule, num_steps: int, num_warmup: int, final_fraction: float
) -> float:
    """Returns the share of the peak rate at `step` (0-based) of a run of `num_steps`.

    The first step already learns; a constant rate does not fall. With 10 steps, 2 of them warm-up,
    and a final share of 0.2:

        step         0      1      2      3      4      5      6      7      8      9
        cosine   0.500  1.000  1.000  0.970  0.883  0.753  0.600  0.447  0.317  0.230
        linear   0.500  1.000  1.000  0.900  0.800  0.700  0.600  0.500  0.400  0.300
        constant 0.500  1.000  1.000  1.000  1.000  1.000  1.000  1.000  1.000  1.000

    Source of the cosine: Loshchilov & Hutter 2017, "SGDR" (arXiv 1608.03983), without restarts.
    """
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    remaining = 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return final_fraction + (1 - final_fraction) * remaining
