"""The fused path gives the plain path's loss and gradients, in every family.

In bf16 and fp16 it may be no further from a float64 reference than 1.2 times what the plain path is
itself. In float32, where Triton interprets the kernels, the two differ by rounding only.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model import kernels
from amazon_desc.model.backbone import keep_quantized_layout
from amazon_desc.model.execution import execute, machine_with
from amazon_desc.model.families import FAMILIES
from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.loss import target_loss
from amazon_desc.model.plan import plan, task_of
from amazon_desc.model.recomputation import Recompute
from tests.model.fused import (
    DEVICE,
    HALF,
    HAS_CARD,
    KINDS,
    LONGEST,
    NUM_LAYERS,
    PRECISION,
    ROW_TOKENS,
    base,
    batches,
    clear,
    close,
    gradients,
    moved,
    on_card,
    share_masks,
    with_lora,
)

pytestmark = [
    pytest.mark.triton,
    # Rows of a tile that hold no token are computed, and not stored.
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning"),
]

ALLOWED = 1.2 if HAS_CARD else 2.0  # of few numbers, sums of roundings differ more


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def step_of(
    model: Any, dtype: torch.dtype, is_dense: bool = True, recompute: Recompute = "none"
) -> Any:
    """Returns the fused step of a model on any device, without CUDA graphs."""
    from amazon_desc.model.families import logit_cap_of
    from amazon_desc.model.kernels.from_peft import collect
    from amazon_desc.model.kernels.step import FusedStep

    base: Any = model.get_base_model()
    seed = torch.zeros((), dtype=torch.int64, device=DEVICE)
    decoder = collect(model, dtype, seed, LONGEST, is_dense, recompute)
    head = base.get_output_embeddings().weight.detach()
    return FusedStep(decoder, head, logit_cap_of(base.config), seed, captures=False)


def in_4_bits(model: Any) -> Any:
    """Returns a base whose layers are NF4 with double quantisation, as load_backbone() has them."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in list(model.model.modules()):
        for name, linear in list(module.named_children()):
            if not isinstance(linear, torch.nn.Linear):
                continue
            has_bias, dtype = linear.bias is not None, linear.weight.dtype
            sizes = (linear.in_features, linear.out_features)
            packed = Linear4bit(*sizes, has_bias, dtype, True, "nf4")
            packed.weight = Params4bit(linear.weight.data.cpu(), False, quant_type="nf4")
            packed.bias = linear.bias
            setattr(module, name, packed.to(DEVICE))
    keep_quantized_layout(model)
    return model.requires_grad_(False)


def test_every_family_is_held_against_the_plain_path():
    assert {model_type for model_type, _ in KINDS.values()} == set(FAMILIES)


@pytest.mark.skipif(HAS_CARD, reason="tensor cores have no float32")
@pytest.mark.parametrize(
    ("kind", "dropout", "is_dense", "recompute"),
    [
        ("llama with biases", 0.0, True, "none"),
        ("mistral", 0.0, True, "none"),
        ("qwen 2", 0.0, True, "none"),
        ("qwen 3", 0.0, True, "none"),
        ("capped gemma 3", 0.0, True, "none"),
        ("llama", 0.1, False, "none"),
        ("qwen 2", 0.1, False, "mlp"),
        ("qwen 3", 0.1, False, "layers"),
        ("gemma 3", 0.1, False, "parts"),
    ],
)
def test_in_float32_loss_and_gradients_are_those_of_the_plain_path(
    kind: str, dropout: float, is_dense: bool, recompute: Recompute
):
    """Not dense, the base is in 4 bits too."""
    model = base(kind, torch.float32)
    model = with_lora(model if is_dense else in_4_bits(model), dropout)
    fused = step_of(model, torch.float32, is_dense, recompute)
    if dropout:
        share_masks(model, fused)
    (batch,) = batches(1, row_tokens=12 if dropout else ROW_TOKENS)
    fused.begin()
    found, num_found = fused.loss(batch, 7)
    found.backward()
    of_fused = gradients(model)
    clear(model)
    wanted, num_targets = target_loss(model, batch)
    wanted.backward()
    of_plain = gradients(model)
    assert num_found == num_targets > 5
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    assert len(of_fused) == len(of_plain) == NUM_LAYERS * 7 * 2
    for name, right in of_plain.items():
        close(of_fused[name], right, 1e-4)


def of_both_paths(model: Any, fused: Any, batch: RowBatch) -> tuple[dict[str, Tensor], ...]:
    """Returns the gradients of the plain path and of the fused one."""
    with torch.autocast(DEVICE.type, PRECISION, enabled=HAS_CARD):
        plain, _ = target_loss(model, batch)
    plain.backward()
    of_plain = gradients(model)
    clear(model)
    fused.begin()
    fused.loss(batch, 0)[0].backward()
    return of_plain, gradients(model)


@pytest.fixture
def fused_of() -> Callable[..., Any]:
    def fused_of(model: Any, captures: bool = False) -> Any:
        if not HAS_CARD:
            return step_of(model, model.get_input_embeddings().weight.dtype)
        task = task_of(model, PRECISION, ROW_TOKENS, "nf4", "fused")
        chosen = plan(task, machine_with(task, DEVICE), 1)
        fused = execute(chosen, model, LONGEST)
        assert fused is not None
        fused.captures = captures
        return fused

    return fused_of


@pytest.mark.parametrize(
    ("kind", "dropout"),
    [
        ("llama", 0.0),
        on_card("llama", 0.1),
        *(on_card(kind, share) for kind in KINDS if kind != "llama" for share in (0.0, 0.1)),
    ],
)
def test_loss_and_gradients_are_as_near_to_float64_as_the_plain_ones(
    kind: str, dropout: float, fused_of: Callable[..., Any]
):
    model = with_lora(base(kind, HALF), dropout)
    fused = fused_of(model)
    reference = copy.deepcopy(model).double()
    if dropout:
        share_masks(model, fused)
        twins = zip(model.modules(), reference.modules(), strict=True)
        for mine, other in twins:
            if hasattr(mine, "lora_A"):
                other.lora_dropout["default"].forward = mine.lora_dropout["default"].forward
    for number, batch in enumerate(batches(8 if HAS_CARD else 1)):
        fused.seed.fill_(number)
        clear(reference)
        wanted, _ = target_loss(reference, batch)
        wanted.backward()
        clear(model)
        with torch.autocast(DEVICE.type, HALF):
            plain, num_targets = target_loss(model, batch)
        plain.backward()
        of_plain = gradients(model)
        clear(model)
        fused.begin()
        found, num_found = fused.loss(batch, number)
        found.backward()
        of_fused, of_reference = gradients(model), gradients(reference)
        assert int(num_found) == int(num_targets)
        assert abs(float(found - wanted)) < ALLOWED * max(0.5, abs(float(plain - wanted)))
        assert set(of_fused) == set(of_plain) == set(of_reference)
        assert len(of_fused) == NUM_LAYERS * 7 * 2
        for name, right in of_reference.items():
            near = float((of_plain[name] - right).norm() / right.norm())
            assert float((of_fused[name] - right).norm() / right.norm()) < ALLOWED * near, name


@pytest.mark.parametrize(
    ("targets", "use_rslora"),
    [(["q_proj", "v_proj"], True), (["down_proj", "k_proj", "up_proj"], False)],
)
def test_layers_without_lora_are_left_as_they_are_and_the_scale_is_taken(
    targets: list[str], use_rslora: bool, fused_of: Callable[..., Any]
):
    model = with_lora(base("llama with biases"), 0.0, targets, use_rslora)
    fused = fused_of(model)
    (batch,) = batches(1)
    wanted, found = of_both_paths(model, fused, batch)
    assert set(found) == set(wanted)
    for name, right in wanted.items():
        close(found[name], right, 0.03 if HAS_CARD else 1e-4)


@pytest.mark.parametrize(
    "kind", ["llama", *(on_card(kind) for kind in ("gemma 3", "capped gemma 3", "qwen 2"))]
)
def test_scores_are_those_of_the_plain_path_without_dropout(
    kind: str, fused_of: Callable[..., Any]
):
    model = with_lora(base(kind), 0.1)
    fused = fused_of(model, captures=HAS_CARD)
    (batch,) = batches(1, row_tokens=ROW_TOKENS if HAS_CARD else 12)

    def trained() -> float:
        fused.begin()
        loss, _ = fused.loss(batch, 7)
        loss.backward()
        return float(loss)

    before = trained()
    for _ in range(2 if HAS_CARD else 1):
        with torch.no_grad(), torch.autocast(DEVICE.type, PRECISION, enabled=HAS_CARD):
            wanted, num_targets = target_loss(model.eval(), batch)
            found, same_number = fused.score(batch)
        assert num_targets == same_number
        assert float(found) == pytest.approx(float(wanted), rel=1e-3)
        assert trained() == before  # under its masks again
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.mul_(-30)  # as an optimizer step changes them, behind its copies
        changed, before = before, trained()
        assert abs(changed - before) > 0.002 * before  # twice what scores may be apart


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "dropout"), [("llama", 0.0), ("llama", 0.1), ("qwen 2", 0.0)])
def test_captured_steps_are_the_eager_ones_also_of_other_shapes_in_between(
    kind: str, dropout: float, fused_of: Callable[..., Any]
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


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "qwen 3", "gemma 3"])
def test_all_kernels_of_a_step_are_compiled_together_before_it(
    kind: str, fused_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gemma 3", "llama with biases"])
@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("recompute", ["none", "parts", "mlp", "layers"])
def test_less_memory_gives_the_same_numbers(
    kind: str,
    is_dense: bool,
    recompute: str,
    fused_of: Callable[..., Any],
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


def test_a_row_that_is_nearly_empty_is_like_a_full_one(fused_of: Callable[..., Any]):
    """Its padding is longer than any example, and than the tables of positions."""
    model = with_lora(base("llama"), 0.0)
    fused = fused_of(model)
    length = 40 if HAS_CARD else 9
    ids = list(range(3, 3 + length))
    row = {"input_ids": ids, "lengths": [length], "prompt_lengths": [length // 4]}
    batch = moved(collate_rows([row], ROW_TOKENS, 0, "completion"))  # pyright: ignore
    wanted, found = of_both_paths(model, fused, batch)
    for name, gradient in found.items():
        close(gradient, wanted[name], 0.03 if HAS_CARD else 1e-4)
