"""In a rehearsal kernels are compiled side by side, once for each kind of call, not launched."""

from contextlib import nullcontext, suppress
from threading import Barrier, Lock
from typing import Any

import pytest
import torch

from amazon_desc.model.kernels.compiling import Kernel, compiled_together

CARD = torch.device("cuda", 0)


class Compiler:
    """Stands in for triton.jit's: notes what it is asked for."""

    def __init__(self, barrier: Barrier | None = None) -> None:
        self.launched: list[Any] = []
        self.compiled: list[Any] = []
        self.barrier, self.lock = barrier, Lock()
        self.num_loaded = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.launched.append((grid, arguments, options))

    def warmup(self, *arguments: Any, grid: tuple[int, ...], **options: Any) -> Any:
        assert self.lock.acquire(blocking=False), "two threads in one kernel"
        if self.barrier is not None:
            self.barrier.wait(timeout=30)  # broken, unless the others get here too
        self.compiled.append((arguments, options))
        self.lock.release()
        return self

    @property
    def run(self) -> None:
        self.num_loaded += 1


@pytest.fixture(autouse=True)
def any_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())


def test_outside_of_a_rehearsal_a_kernel_is_launched():
    compiler = Compiler()
    x = torch.ones(3)
    Kernel(compiler)[(4,)](x, 2, BLOCK=8)
    assert compiler.launched == [((4,), (x, 2), {"BLOCK": 8})]
    assert not compiler.compiled


def test_in_a_rehearsal_each_kind_of_call_is_compiled_and_none_launched():
    compiler = Compiler()
    kernel = Kernel(compiler)
    with compiled_together(CARD):
        for size in (3, 5):
            for dtype in (torch.float16, torch.float32):
                kernel[(size,)](torch.ones(size, dtype=dtype), 2, None, BLOCK=8)
        kernel[(3,)](torch.ones(3), 4, None, BLOCK=8)
        kernel[(3,)](torch.ones(3), 4, None, BLOCK=16)
        assert not compiler.compiled
    assert not compiler.launched
    assert sorted(compiler.compiled, key=str) == [
        ((torch.float16, 2, None), {"BLOCK": 8}),
        ((torch.float32, 2, None), {"BLOCK": 8}),
        ((torch.float32, 4, None), {"BLOCK": 16}),
        ((torch.float32, 4, None), {"BLOCK": 8}),
    ]
    assert compiler.num_loaded == 4
    kernel[(1,)](torch.ones(1), 2, None, BLOCK=8)
    assert len(compiler.launched) == 1


def test_kernels_are_compiled_side_by_side_but_one_of_them_in_one_thread():
    barrier = Barrier(3)
    compilers = [Compiler(barrier) for _ in range(3)]
    with compiled_together(CARD):
        for compiler in compilers:
            for number in range(2):
                Kernel(compiler)[(1,)](number)
    assert all(len(compiler.compiled) == 2 for compiler in compilers)


def test_what_cannot_be_compiled_is_said_and_a_rehearsal_that_fails_ends():
    class Broken(Compiler):
        def warmup(self, *arguments: Any, grid: tuple[int, ...], **options: Any) -> Any:
            raise RuntimeError("no such instruction")

    with pytest.raises(RuntimeError, match="no such instruction"), compiled_together(CARD):
        Kernel(Broken())[(1,)](1)
    compiler = Compiler()
    with suppress(ValueError), compiled_together(CARD):
        Kernel(compiler)[(1,)](1)
        int("one")
    assert not compiler.compiled
    Kernel(compiler)[(1,)](1)
    assert compiler.launched
