"""Weights -> safetensors in shards and their index, as transformers reads them.

In come parts, each with a function that makes its tensor, out go files of which one at a time is in
memory. Names and values are decided by those who make the parts.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from amazon_desc.support.errors import NotFiniteError, UserError
from amazon_desc.support.files import write_text
from amazon_desc.support.layouts import SAFETENSORS_INDEX
from amazon_desc.training.finite import is_finite

# What is in memory beside the model while it is written: Colab's machine has 12 GB in all.
SHARD_BYTES = 2 * 10**9


class Part(NamedTuple):
    """A tensor of a file that is not made yet."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    """gives it in any precision; it is cast when it is written"""

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_shards(folder: Path, parts: Sequence[Part], most: int | None = None) -> None:
    """Writes parts in their order, with an index where they take more than one file.

    Raises:
        UserError: a number is not finite, or too large for its precision.
        OSError: the disk refuses.
    """
    groups = list(shards_of(parts, most or SHARD_BYTES))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = "model.safetensors"
        if len(groups) > 1:
            name = f"model-{number:05}-of-{len(groups):05}.safetensors"
        write_shard(folder / name, group)
        weight_map |= dict.fromkeys((part.name for part in group), name)
    if len(groups) > 1:
        total = sum(part.num_bytes for part in parts)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / SAFETENSORS_INDEX, json.dumps(index, indent=2) + "\n")


def shards_of(parts: Sequence[Part], most: int) -> Iterator[list[Part]]:
    """Yields parts in groups of at most so many bytes; one that is larger has a group of its own.

    of 4, 3, 5, 9, 1 bytes, most = 8  ->  [4, 3], [5], [9], [1]
    """
    group: list[Part] = []
    for part in parts:
        if group and sum(p.num_bytes for p in group) + part.num_bytes > most:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def write_shard(file: Path, parts: Sequence[Part]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {part.name: made(part) for part in parts}
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # all that can go wrong here is the disk
        raise OSError(errno.EIO, str(error), str(file)) from error


def made(part: Part) -> Tensor:
    """Returns a part as it is written: a tensor of its own, whole, in its precision."""
    tensor = part.make()
    assert tuple(tensor.shape) == part.shape, part.name
    cast = tensor.to(part.dtype).contiguous()
    if not is_finite(cast):
        if is_finite(tensor):
            raise UserError(
                f"{part.name}: wanted numbers that {str(part.dtype).removeprefix('torch.')} can "
                f"hold, found one of {tensor.abs().max():.4g}. Set --dtype bfloat16."
            )
        raise NotFiniteError(
            f"{part.name} is not finite: such weights write nothing. Train again with a lower "
            f"--model.optimizer.init_args.lr."
        )
    return cast
