"""How much of a card training uses: what the card can do, and what a token asks of it.

In come a device and a model, out go flop a second and flop a token. The card is measured, not
looked up: its name alone does not tell what its clocks and its power allow.
"""

from __future__ import annotations

import math
import time
from statistics import median
from typing import Any

import torch
from torch import nn

# A product of square matrices this large keeps every card busy, and takes less than 1 GiB.
SIDE = 8192
SECONDS = 0.25


def matmul_limit(device: torch.device, dtype: torch.dtype) -> float | None:
    """Returns the flop/s of a large product of random numbers in `dtype` on a CUDA device.

    It takes less than a second and gives its memory back. No random state changes. None: there is
    too little memory to measure.
    """
    try:
        return timed_products(device, dtype)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        torch.cuda.empty_cache()


def timed_products(device: torch.device, dtype: torch.dtype) -> float:
    generator = torch.Generator(device).manual_seed(0)  # zeros would need less power than weights
    a, b, product = (
        torch.randn(SIDE, SIDE, generator=generator, device=device, dtype=dtype) for _ in range(3)
    )
    torch.mm(a, b, out=product)  # loads the kernel
    torch.cuda.synchronize(device)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    milliseconds: list[float] = []
    stream = torch.cuda.current_stream(device)
    until = time.perf_counter() + SECONDS
    while not milliseconds or time.perf_counter() < until:
        began.record(stream)
        torch.mm(a, b, out=product)
        ended.record(stream)
        ended.synchronize()
        milliseconds.append(began.elapsed_time(ended))
    return 2 * SIDE**3 / (median(milliseconds) / 1e3)


def flops_per_token(model: nn.Module) -> int:
    """Returns the flop that training LoRA on a frozen base takes for a token.

    4 for each weight of the linear layers, head included: 2 forward, and 2 for the gradient of
    what went in; frozen weights have none of their own. Attention and LoRA are left out.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return 4 * sum(num_weights(linear) for linear in linears if not linear.weight.requires_grad)


def num_weights(linear: nn.Linear) -> int:
    """Returns how many weights a layer has; those in 4 bits lie two in a byte."""
    weight: Any = linear.weight
    state = getattr(weight, "quant_state", None)
    return math.prod(weight.shape if state is None else state.shape)
