"""What this machine offers a training step: memory, and whether the fused path can run on it.

In come a device and the precision of products, out go bytes, and what is in the way. What is done
with them is decided in plan.py.
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import torch

from amazon_desc.model.cost.memory import SHARE_OF_CARD

OLDEST_CAPABILITY = (8, 0)  # of cards with bf16, and the shared memory that the kernels take
# A machine without a card gains nothing from larger micro-batches, and has others to serve.
MOST_TOKENS_WITHOUT_CARD = 8192
SHARE_OF_MACHINE = 0.5


class Machine(NamedTuple):
    """What a step may take, and compute on."""

    free: int
    """bytes, before a base is loaded"""
    share: float = SHARE_OF_CARD
    """of them that may be taken"""
    most_tokens: int | None = None
    """of a micro-batch; None: memory alone decides"""
    obstacle: str | None = None
    """what about it is in the way of the fused path"""

    @property
    def room(self) -> float:
        return self.share * self.free

    @property
    def has_card(self) -> bool:
        return self.most_tokens is None


def machine_of(device: torch.device, dtype: torch.dtype, loaded: int = 0) -> Machine:
    """Returns what a card has, or, without one, this machine.

    Args:
        dtype: of the products
        loaded: bytes that a base takes already, which will be counted
    """
    obstacle = device_obstacle(device, dtype)
    if device.type == "cuda":
        return Machine(free_card_memory(device) + loaded, obstacle=obstacle)
    free = free_machine_memory() + loaded
    return Machine(free, SHARE_OF_MACHINE, MOST_TOKENS_WITHOUT_CARD, obstacle)


def free_card_memory(device: torch.device) -> int:
    """Returns the bytes that tensors can still take, of a part of a card if torch has only that."""
    free, total = torch.cuda.mem_get_info(device)
    taken = torch.cuda.memory_allocated(device)
    # what torch holds and no tensor takes is free too
    free += torch.cuda.memory_reserved(device) - taken
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free, int(share * total) - taken)


def free_machine_memory() -> int:
    """Returns the bytes that programs can still take, as psutil counts them."""
    import psutil

    return int(psutil.virtual_memory().available)


def dtype_of(precision: Any) -> torch.dtype:
    """Returns in what products are computed, by the name of the trainer's precision."""
    if str(precision).startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if str(precision).startswith("16") else torch.float32


def device_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns what about this machine is in the way of the fused path, or None."""
    if device.type != "cuda":
        return f"the device is {device.type}, not cuda"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is too old for them"
    if dtype == torch.float32:
        return "they compute in bf16 or fp16, not in float32"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None
