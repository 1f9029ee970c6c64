"""Triton's kernels, compiled side by side instead of one after the other as each is first met.

In a rehearsal kernels are not launched: their calls are noted, and compiled at its end. Most of the
time that takes is spent outside of Python: in LLVM, ptxas and a C compiler. What a rehearsed
function returns or writes is of no use.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor


class Calls:
    """The different calls of kernels in a rehearsal, by kernel."""

    def __init__(self) -> None:
        self.of: dict[Any, set[tuple[Any, ...]]] = {}

    def note(self, compiler: Any, *arguments: Any, **options: Any) -> None:
        """Notes of what types a call's tensors are, and its other arguments."""
        types = tuple(x.dtype if isinstance(x, Tensor) else x for x in arguments)
        self.of.setdefault(compiler, set()).add((types, tuple(options.items())))


class Kernel:
    """What `triton.jit` makes; `kernel[grid](...)` launches it, unless this is a rehearsal."""

    rehearsal: Calls | None = None  # of all kernels

    def __init__(self, compiler: Any) -> None:
        self.compiler = compiler

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        if Kernel.rehearsal is not None:
            return partial(Kernel.rehearsal.note, self.compiler)
        return self.compiler[grid]


@contextmanager
def compiled_together(device: torch.device) -> Iterator[None]:
    """Has kernels that are called within it not launched but, at its end, compiled for `device`."""
    Kernel.rehearsal = calls = Calls()
    try:
        yield
    finally:
        Kernel.rehearsal = None
    with ThreadPoolExecutor(max(1, len(calls.of))) as threads:
        list(threads.map(partial(compile_calls, device), calls.of.items()))


def compile_calls(device: torch.device, calls: tuple[Any, set[tuple[Any, ...]]]) -> None:
    """Compiles one kernel for all its calls: Triton's own notes of it are not made for threads."""
    compiler, signatures = calls
    with torch.cuda.device(device):
        for arguments, options in signatures:
            compiled = compiler.warmup(*arguments, grid=(1,), **dict(options))
            compiled.run  # noqa: B018 (has it loaded, and what launches it made)
