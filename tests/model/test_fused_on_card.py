"""On a card: CUDA graphs, kernels compiled together, and less memory, for the same numbers."""

from typing import Any

import numpy as np
import pytest
import torch

from amazon_desc.model import kernels
from amazon_desc.model.kernels.compiling import Kernel
from tests.model.fused import (
    NUM_LAYERS,
    base,
    batches,
    clear,
    close,
    fused_of,
    gradients,
    with_lora,
)

pytestmark = [pytest.mark.gpu, pytest.mark.triton]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("kind", "dropout"), [("llama", 0.0), ("llama", 0.1), ("qwen 2", 0.0)])
def test_captured_steps_are_the_eager_ones_also_of_other_shapes_in_between(
    kind: str, dropout: float
):
    model = with_lora(base(kind), dropout)
    eager, captured = fused_of(model), fused_of(model, captures=True)
    order = [*batches(6), *batches(2, num_rows=2), *batches(4)]
    found: dict[str, list[Any]] = {"eager": [], "captured": []}
    for name, fused in (("eager", eager), ("captured", captured)):
        clear(model)
        for number, batch in enumerate(order):
            if number == 9:  # as scores in between have it
                is_captured, held = bool(fused.graphs), torch.cuda.memory_allocated()
                fused.release()
                assert not fused.graphs
                assert (torch.cuda.memory_allocated() < held) == is_captured
            if number % 2 == 0:  # gradients of two micro-batches are added up
                model.zero_grad(set_to_none=False)
                fused.begin()
            loss, _ = fused.loss(batch, number)
            loss.backward()
            found[name].append((float(loss), gradients(model)))
    assert captured.graphs
    norms = [float(gradient.norm()) for gradient in gradients(model).values()]
    assert float(captured.gradients.norm()) == pytest.approx(np.linalg.norm(norms))
    captured.gradients.mul_(0)  # they all lie in it
    assert not any(gradient.any() for gradient in gradients(model).values())
    clear(model)  # whoever takes gradients away has the graphs made again
    captured.begin()
    assert not captured.graphs
    captured.loss(order[-1], len(order) - 1)[0].backward()
    assert captured.graphs
    for (loss, grads), (other_loss, other_grads) in zip(*found.values(), strict=True):
        assert loss == other_loss
        assert all(torch.equal(grads[name], other_grads[name]) for name in grads)
        assert len(grads) == len(other_grads) == NUM_LAYERS * 7 * 2


@pytest.mark.parametrize("kind", ["llama", "qwen 3", "gemma 3"])
def test_all_kernels_of_a_step_are_compiled_together_before_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
):
    import triton

    for module in vars(kernels).values():
        for kernel in (
            x for x in getattr(module, "__dict__", {}).values() if isinstance(x, Kernel)
        ):
            kernel.compiler.device_caches.clear()
    compiled: dict[bool, set[str]] = {True: set(), False: set()}

    def note(*_: Any, fn: Any, is_manual_warmup: bool, **__: Any) -> None:
        compiled[is_manual_warmup].add(fn.name.rpartition(".")[2])

    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", note)
    model = with_lora(base(kind), 0.1)
    fused = fused_of(model)
    fused.begin()
    fused.loss(batches(1)[0], 0)[0].backward()
    assert compiled[False] == {"_copy"}  # before a batch is there
    assert {"_forward", "_backward", "_key_gradients", "_cross_entropy"} < compiled[True]


@pytest.mark.parametrize("kind", ["gemma 3", "llama with biases"])
@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("recompute", ["none", "parts", "mlp", "layers"])
def test_less_memory_gives_the_same_numbers(
    kind: str,
    is_dense: bool,
    recompute: str,
    monkeypatch: pytest.MonkeyPatch,
):
    from amazon_desc.model.kernels import from_peft as collecting

    model = with_lora(base(kind), 0.1)
    plenty = fused_of(model)
    collect = collecting.collect

    def less(*arguments: Any) -> Any:
        return collect(*arguments[:-2], is_dense, recompute)  # pyright: ignore

    monkeypatch.setattr(collecting, "collect", less)
    little = fused_of(model)
    assert little.decoder.recompute == recompute
    (batch,) = batches(1)
    losses, grads = [], []
    for fused in (plenty, little):
        clear(model)
        fused.begin()
        loss, _ = fused.loss(batch, 0)
        loss.backward()
        losses.append(float(loss))
        grads.append(gradients(model))
    assert losses[0] == losses[1]
    for name, grad in grads[0].items():
        close(grads[1][name], grad, 0.01)
