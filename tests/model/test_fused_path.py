"""The fused path gives the plain path's loss and gradients, in every family.

In bf16 and fp16 it may be no further from a float64 reference than 1.2 times what the plain path is
itself. In float32, where Triton interprets the kernels, the two differ by rounding only.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model.backbone import keep_quantized_layout
from amazon_desc.model.families import FAMILIES
from amazon_desc.model.loss import target_loss
from amazon_desc.model.recomputation import Recompute
from tests.conftest import slow_case
from tests.model.fused import (
    DEVICE,
    HALF,
    HAS_CARD,
    KINDS,
    NUM_LAYERS,
    PRECISION,
    ROW_TOKENS,
    RUNS_KERNELS,
    base,
    batches,
    clear,
    close,
    fused_of,
    gradients,
    moved,
    on_card,
    share_masks,
    step_of,
    with_lora,
)

pytestmark = RUNS_KERNELS

ALLOWED = 1.2 if HAS_CARD else 2.0  # of few numbers, sums of roundings differ more


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


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
        slow_case("mistral", 0.0, True, "none"),
        slow_case("qwen 2", 0.0, True, "none"),
        slow_case("qwen 3", 0.0, True, "none"),
        slow_case("capped gemma 3", 0.0, True, "none"),
        slow_case("llama", 0.1, False, "none"),
        slow_case("qwen 2", 0.1, False, "mlp"),
        slow_case("qwen 3", 0.1, False, "layers"),
        slow_case("gemma 3", 0.1, False, "parts"),
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
    agreed_loss(model, fused, batch)


def agreed_loss(model: Any, fused: Any, batch: RowBatch) -> float:
    """Returns the loss that both paths find in float32; checks that their gradients agree too."""
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
    return float(wanted)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dropout"),
    [
        ("llama", 0.0),
        on_card("llama", 0.1),
        *(on_card(kind, share) for kind in KINDS if kind != "llama" for share in (0.0, 0.1)),
    ],
)
def test_loss_and_gradients_are_as_near_to_float64_as_the_plain_ones(kind: str, dropout: float):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "use_rslora"),
    [(["q_proj", "v_proj"], True), (["down_proj", "k_proj", "up_proj"], False)],
)
def test_layers_without_lora_are_left_as_they_are_and_the_scale_is_taken(
    targets: list[str], use_rslora: bool
):
    model = with_lora(base("llama with biases"), 0.0, targets, use_rslora)
    fused = fused_of(model)
    (batch,) = batches(1)
    wanted, found = of_both_paths(model, fused, batch)
    assert set(found) == set(wanted)
    for name, right in wanted.items():
        close(found[name], right, 0.03 if HAS_CARD else 1e-4)


@pytest.mark.skipif(HAS_CARD, reason="tensor cores have no float32")
def test_logits_of_a_family_that_scales_them_are_scaled(monkeypatch: pytest.MonkeyPatch):
    """No family with a row does yet."""
    monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], logit_scale="logit_scale"))
    model = with_lora(base("llama", torch.float32), 0.0)
    model.get_base_model().config.logit_scale = 4.0
    fused = step_of(model, torch.float32)
    (batch,) = batches(1, row_tokens=12)
    scaled = agreed_loss(model, fused, batch)
    model.get_base_model().config.logit_scale = 1.0
    assert abs(float(target_loss(model, batch)[0]) - scaled) > 0.01 * scaled


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["llama", *(on_card(kind) for kind in ("gemma 3", "capped gemma 3", "qwen 2"))]
)
def test_scores_are_those_of_the_plain_path_without_dropout(kind: str):
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


def test_a_row_that_is_nearly_empty_is_like_a_full_one():
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


def test_a_micro_batch_without_a_target_has_no_loss_and_no_gradient():
    """As on the plain path; what was added to the gradients before stays."""
    model = with_lora(base("llama"), 0.0)
    fused = fused_of(model)
    row = {"input_ids": [5, 6, 7], "lengths": [3], "prompt_lengths": [3]}
    without = moved(collate_rows([row], 9, 0, "completion"))  # pyright: ignore
    assert len(without.before_targets) == 0
    wanted, found = of_both_paths(model, fused, without)
    assert len(found) == len(wanted) == NUM_LAYERS * 7 * 2
    assert not any(bool(gradient.any()) for gradient in (*wanted.values(), *found.values()))
    row["prompt_lengths"] = [1]
    fused.loss(moved(collate_rows([row], 9, 0, "completion")), 0)[0].backward()  # pyright: ignore
    before = gradients(model)
    assert any(bool(gradient.any()) for gradient in before.values())
    loss, num_targets = fused.loss(without, 0)
    loss.backward()
    assert (float(loss), num_targets) == (0.0, 0)
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, before[name])
    with torch.no_grad():
        assert float(fused.score(without)[0]) == float(target_loss(model, without)[0]) == 0.0
