"""What the processes of a command tell each other; one that is alone tells itself.

In come numbers, values and gradients of this process, out go those of all, in the order of their
ranks. What is on the host goes over gloo, beside the card's work, which is not waited for;
gradients go where they are. Every function is called by all processes, or by none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from amazon_desc.support.errors import UserError

T = TypeVar("T")

# Processes that end are noticed at once, and by whoever started them; one may work for long while
# the others wait.
PATIENCE = timedelta(days=7)


def num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@cache
def host_group() -> Any:
    """Returns the group of all processes for what lies on the host; the first call makes it."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """Has this process tell the others nothing more; they may go on without it."""
    host_group.cache_clear()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def gathered(value: T) -> list[T]:
    """Returns the value of each process: numbers, texts and arrays, and what is made of them."""
    if num_processes() == 1:
        return [value]
    found: list[Any] = [None] * num_processes()
    dist.all_gather_object(found, value, group=host_group())
    return found


def told(value: T) -> T:
    """Returns the value of the first process; what the others give is not looked at."""
    return gathered(value)[0]


def gathered_numbers(numbers: Sequence[int]) -> list[list[int]]:
    """Returns what gathered() does of whole numbers, as many in each process, in less time."""
    if num_processes() == 1:
        return [list(numbers)]
    found = [torch.zeros(len(numbers), dtype=torch.int64) for _ in range(num_processes())]
    dist.all_gather(found, torch.tensor(numbers, dtype=torch.int64), group=host_group())
    return [of.tolist() for of in found]


def wait_for_all() -> None:
    """Returns when all processes have called it, however long that takes."""
    if num_processes() > 1:
        dist.barrier(group=host_group())


def refuse_differences(facts: dict[str, Any]) -> None:
    """Refuses to compute together what processes do not have in common.

    Raises:
        UserError: in all of them; it names what differs first.
    """
    of_all = gathered(facts)
    for number, other in enumerate(of_all):
        for name, value in of_all[0].items():
            if other.get(name) != value:
                raise UserError(
                    f"{name}: process {number} has {other.get(name)}, process 0 has {value}, and "
                    f"all have to have the same. Give each machine the same command, and run "
                    f"folder, base and data on a disk that all of them see."
                )


# What lies on the card


def gathered_tensors(tensor: Tensor) -> list[Tensor]:
    """Returns the tensor of each process, where it lies; the card alone waits for the others."""
    if num_processes() == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(num_processes())]
    dist.all_gather(found, tensor.contiguous())
    return found


def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by their sums over all processes, as one piece of memory."""
    if num_processes() == 1 or not tensors:
        return
    if len(tensors) == 1:
        dist.all_reduce(tensors[0])
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


# What was dealt in turn


def interleaved(parts: Sequence[Sequence[T]]) -> list[T]:
    """Returns what was dealt to processes in turn, in the order before that.

    [["a", "c"], ["b"]] -> ["a", "b", "c"]
    """
    nothing: Any = object()
    rounds = zip_longest(*parts, fillvalue=nothing)
    return [item for of in rounds for item in of if item is not nothing]


class Votes:
    """What any of the processes wants of all, asked once in an optimizer step.

    A process alone is asked when its answer is needed.
    """

    def __init__(self) -> None:
        self.asked: dict[str, Callable[[], int]] = {}
        self.found: dict[str, int] = {}

    def take(self, *others: int) -> list[list[int]]:
        """Asks all processes; returns the other numbers of each, which go the same way."""
        names = sorted(self.asked)
        mine = [self.asked[name]() for name in names] if num_processes() > 1 else [0] * len(names)
        found = gathered_numbers([*others, *mine])
        columns = zip(*(of[len(others) :] for of in found), strict=True)
        self.found = {name: max(of) for name, of in zip(names, columns, strict=False)}
        return [of[: len(others)] for of in found]

    def agreed(self, name: str) -> int:
        """Returns the largest answer of all, as of the newest optimizer step."""
        return self.found.get(name, 0) if num_processes() > 1 else self.asked[name]()
