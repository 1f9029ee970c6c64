"""The states of all random generators, as a checkpoint keeps them: tensors and plain values.

Out go those of Python, numpy, torch and the card that trains, in they come again, and the next
draws are the same: on the card that trains then, whichever it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Returns the states of all generators that training draws from, as tensors and plain values.

    Args:
        device: that trains; of a machine's other cards nothing is kept
    """
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        "device": device.type,
    }


@contextmanager
def drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    """Has torch draw from a seed inside the block, and go on after it as if nothing had been drawn.

    Args:
        device: that draws, beside the host
    """
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        yield


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Sets all generators to what `random_states` returned.

    Args:
        device: that trains now
    """
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"]:
        torch.cuda.set_rng_state(state_of_card(states["cuda"], device), device)


def state_of_card(states: list[Any], device: torch.device) -> Any:
    """Returns the state of the card that trained, of the one that is kept, or of all.

    Checkpoints once had those of all cards of their machine, by number, and did not say which of
    them had trained: that of the same number, or, where there are not so many, of the first.
    """
    number = device.index or 0
    return states[number if number < len(states) else 0]


def moved(states: dict[str, Any], device: torch.device) -> str | None:
    """Returns the type of device that trained until now, if it is another; None: it is not.

    Checkpoints once did not say so.
    """
    before = states.get("device", device.type)
    return None if before == device.type else before
