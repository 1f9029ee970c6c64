"""The learning rate over a run: a linear warm-up, then half a cosine.

In comes a step, out goes the share of the peak learning rate, or a schedule for an optimizer. How
many steps there are is the caller's to know.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def schedule(
    optimizer: Optimizer, num_steps: int, warmup_fraction: float, final_fraction: float
) -> LambdaLR:
    """Returns what gives an optimizer its learning rate, step by step."""

    def share_of_peak(step: int) -> float:
        return warmup_cosine(step, num_steps, warmup_fraction, final_fraction)

    return LambdaLR(optimizer, share_of_peak)


def warmup_cosine(
    step: int, num_steps: int, warmup_fraction: float, final_fraction: float
) -> float:
    """Returns the share of the peak rate at `step` (0-based) of a run of `num_steps`.

    The first step already learns. With 10 steps, a warm-up of 0.2 and a final share of 0.1:

        step     0    1    2    3 ...  9
        share  0.5  1.0  1.0  0.97     0.13

    Source: Loshchilov & Hutter 2017, "SGDR" (arXiv 1608.03983), without restarts.
    """
    num_warmup = round(num_steps * warmup_fraction)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return final_fraction + (1 - final_fraction) * cosine
