"""A base whose hidden states overflow float16 computes there what it computes in float32.

The base is a small random Gemma 3 whose weights make such numbers wherever a trained one could:
what norms, attention and MLP give, the product of gate and up, and the residual stream.
"""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.choosing import penalised
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.generating import Penalised
from amazon_desc.generation.plain.merged import merged
from amazon_desc.generation.plain.writer import write
from amazon_desc.generation.texts import Text
from amazon_desc.model import probe
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.execution import execute
from amazon_desc.model.loss import target_loss
from amazon_desc.model.machine import Machine, dtype_of
from amazon_desc.model.overflow import multiplied, own_precision, scaled
from amazon_desc.model.plan import plan, task_of
from amazon_desc.model.writing_plan import Texts, plan_writing
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import Backbone
from amazon_desc.training.module import DescriptionModule
from tests.conftest import slow_case
from tests.model.conftest import batch_of, llama

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LARGEST = 65_504  # of float16
EXAMPLES = [(list(range(3, 3 + length)), 4) for length in (20, 31, 25, 9)]
# A norm's weights are distances from 1.
NORMS = {"input_layernorm": 1e5, "pre_feedforward_layernorm": 30.0, "post": 3e4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    config = AutoConfig.for_model(
        "gemma3_text",
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        query_pre_attn_scalar=16,
        **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        size = next((size for of, size in NORMS.items() if of in name), 0.1)
        if parameter.ndim > 1:
            size = {"gate": 1 / 30, "up_p": 1e3}.get(name.split(".")[-2][:4], 1.0)
            nn.init.normal_(parameter, std=size * parameter.shape[-1] ** -0.5)
            parameter.data = parameter.half().float()  # so that 4 bits are the same from both
        elif size > 1:
            nn.init.normal_(parameter, size, size / 3)
    folder = tmp_path_factory.mktemp("gemma")
    model.save_pretrained(folder)
    return Backbone(folder, "some/gemma")


def tuned(
    base: Backbone,
    quantization: Any,
    dtype: torch.dtype,
    dropout: float = 0.0,
    device: torch.device = CPU,
) -> Any:
    model = attach(
        load_backbone(base, quantization, dtype, device), LoraSettings(r=4, dropout=dropout)
    )
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            size = 0.03 if "lora_B" in name else parameter.shape[-1] ** -0.5
            size /= 30 if "gate_proj.lora_B" in name else 1
            parameter.data.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model


def trained(model: Any, scale: float = 2.0**16) -> tuple[float, dict[str, Tensor]]:
    """Returns the loss and LoRA's gradients as Lightning has them made in 16-mixed."""
    batch = batch_of(EXAMPLES, 128).to(model.device)
    with torch.autocast(model.device.type, torch.float16, enabled=model.dtype == torch.float16):
        loss, num_targets = target_loss(model, batch)
    (scale * loss).backward()
    found = {name: p.grad / scale for name, p in model.named_parameters() if p.requires_grad}
    return float(loss) / num_targets, found


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Returns that of the worst matrix, as a share of its norm."""
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted)


# The base


@pytest.mark.slow
def test_the_base_makes_numbers_too_large_for_float16_at_every_place(base: Backbone):
    model, largest = tuned(base, "none", torch.float32), dict[str, float]()

    def note(name: str, *tensors: Any) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                largest[name] = max(largest.get(name, 0.0), float(tensor.detach().abs().max()))

    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        module.register_forward_hook(
            lambda _, given, made, last=last: (
                (note(f"into {last}", *given), note(last, made))[2:] or None
            )
        )
    trained(model)
    places = ["input_layernorm", "v_proj", "into o_proj", "o_proj", "post_attention_layernorm"]
    places += ["up_proj", "into down_proj", "down_proj", "post_feedforward_layernorm", "into norm"]
    assert {place: largest[place] > LARGEST for place in places} == dict.fromkeys(places, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_transformers_computes_nothing_finite_of_it_in_float16_or_under_autocast(
    base: Backbone, dtype: torch.dtype
):
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=dtype)
    ids = torch.tensor([EXAMPLES[0][0]])
    with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=dtype == torch.float32):
        assert not model(ids).logits.isfinite().any()


# Training


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradients_are_those_of_float32(base: Backbone, device: str, quantization: str):
    """To 0.1 and 3 %: rounding to 11 bits in 28 products, of which 7 stand one after the other."""
    place = torch.device(device)
    exact, half = (
        tuned(base, quantization, dtype, device=place) for dtype in (torch.float32, torch.float16)
    )
    (wanted, gradients), (found, half_gradients) = trained(exact), trained(half)
    assert found == pytest.approx(wanted, rel=1e-3)
    assert distance(half_gradients, gradients) < 0.03
    of_base, batch = [], batch_of(EXAMPLES, 128).to(place)
    for model in (half, exact):
        with model.disable_adapter(), torch.no_grad():
            of_base.append(float(target_loss(model, batch)[0]))
    assert of_base[0] == pytest.approx(of_base[1], rel=1e-3)
    assert of_base[0] != pytest.approx(found, rel=0.01), "LoRA does something"


def test_gradients_do_not_depend_on_the_scale_of_the_loss(base: Backbone):
    """Float16 itself would lose what is below 6e-8, or pass its largest number."""
    model = tuned(base, "nf4", torch.float16)
    wanted = trained(model, 1.0)[1]
    for scale in (2.0**-40, 2.0**40):
        model.zero_grad()
        assert distance(trained(model, scale)[1], wanted) < 1e-5


def test_recomputed_layers_change_no_bit(base: Backbone):
    found = []
    for recompute in ("none", "layers"):
        torch.manual_seed(0)
        model = tuned(base, "nf4", torch.float16, dropout=0.1)
        task = task_of(model, torch.float16, 128, "nf4", recompute=recompute)
        assert execute(plan(task, Machine(1 << 40), 1), model, 32) is None
        torch.manual_seed(3)
        found.append(trained(model))
    (loss, gradients), (loss_again, gradients_again) = found
    assert loss == loss_again
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


@pytest.mark.slow
def test_training_with_a_loss_scaler_goes_as_in_float32(base: Backbone):
    losses = {}
    for dtype in (torch.float32, torch.float16):
        model = tuned(base, "nf4", dtype)
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer, losses[dtype] = torch.optim.AdamW(weights, lr=1e-3), []
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
        for _ in range(15):
            with torch.autocast("cpu", torch.float16, enabled=dtype == torch.float16):
                loss, num_targets = target_loss(model, batch_of(EXAMPLES, 128))
            scaler.scale(loss / num_targets).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses[dtype].append(float(loss) / num_targets)
        assert scaler.get_scale() in (1.0, 2.0**16), "no step was left out"
    assert losses[torch.float16][-1] < 0.9 * losses[torch.float32][0]
    # Rounding differs between processors. It moved these by 0.05 %, and the last ones by 1.2 %.
    assert losses[torch.float16][:2] == pytest.approx(losses[torch.float32][:2], rel=2e-3)
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.03)


def test_what_is_trained_and_norms_have_float32_and_tables_and_products_float16(base: Backbone):
    model = tuned(base, "none", torch.float16)
    kinds = {(name.rsplit(".", 2)[-2][:4], p.dtype) for name, p in model.named_parameters()}
    of_norms = {
        dtype for name, p in model.named_parameters() if "norm" in name for dtype in [p.dtype]
    }
    assert of_norms == {torch.float32}
    assert max(float(p.abs().max()) for n, p in model.named_parameters() if "norm" in n) > LARGEST
    assert ("embe", torch.float16) in kinds
    assert {dtype for _, dtype in kinds} == {torch.float16, torch.float32}
    half = [n for n, p in model.named_parameters() if p.dtype == torch.float16]
    assert len(half) == 1 + 4 * 7
    assert own_precision(model.get_base_model(), CPU).__class__ is torch.autocast


# Texts

END = 1  # of a text; what stands before a shorter prompt too
PROMPTS = [
    Prompt(
        number,
        torch.randint(3, 96, (length,), generator=torch.Generator().manual_seed(number)).tolist(),
    )
    for number, length in enumerate([7, 1, 20, 3, 12])
]


# How far rounding may move logits, whose deviation is 1. It moved them by 0.009.
ROUNDED = 0.03


def networks_of(model: Any, is_merged: bool) -> Iterator[Any]:
    """Yields what writes with LoRA, and then without."""
    for has_lora in (True, False):
        with nullcontext() if has_lora else model.disable_adapter():
            yield merged(model, has_lora=has_lora) if is_merged else model


@torch.no_grad()
def logits_after(network: Any, prompt: Sequence[int], written: Sequence[int]) -> Tensor:
    """Returns the logits of each token that is written, of what stands before it: (T, V)."""
    ids = torch.tensor([[*prompt, *written]], device=network.device)
    return network(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].cpu()


def lead_over(text: Text, prompt: Prompt, exact: Any, settings: DecodingSettings) -> float:
    """Returns by how much float32 prefers other tokens to those of a text, where most."""
    ids = torch.tensor([*text.ids, *([END] if text.has_end else [])])
    leads = []
    for place, logits in enumerate(logits_after(exact, prompt.ids, ids.tolist())):
        scores = penalised(logits[None], ids[None, :place], settings, place, [END])[0]
        leads.append(float(scores.max() - scores[ids[place]]))
    return max(leads)


@pytest.mark.parametrize("is_merged", [True, slow_case(False)])
@pytest.mark.parametrize("device", DEVICES)
def test_texts_are_those_of_float32(base: Backbone, device: str, is_merged: bool):
    """But for tokens that are as likely as others: rounding, of each processor its own, decides."""
    settings = DecodingSettings(12)
    half, exact = (
        tuned(base, "nf4", dtype, device=torch.device(device)).eval()
        for dtype in (torch.float16, torch.float32)
    )
    of_both = []
    for network, in_float32 in zip(
        networks_of(half, is_merged), networks_of(exact, is_merged), strict=True
    ):
        texts = [text for (text,) in write(network, PROMPTS, settings, [END], 3)]
        assert all(len(text.ids) == 12 or text.has_end for text in texts)
        leads = [
            lead_over(text, prompt, in_float32, settings)
            for text, prompt in zip(texts, PROMPTS, strict=True)
        ]
        assert max(leads) < ROUNDED
        of_both.append([text.ids for text in texts])
    with_lora, without = of_both
    assert with_lora != without
    assert len({tuple(ids) for ids in with_lora}) == len(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("is_merged", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_beams_are_compared_by_the_scores_of_float32(
    base: Backbone, device: str, is_merged: bool, monkeypatch: pytest.MonkeyPatch
):
    """Each score of each beam that is followed; which are followed is left to transformers."""
    place = torch.device(device)
    half, exact = (
        tuned(base, "nf4", dtype, device=place).eval() for dtype in (torch.float16, torch.float32)
    )
    seen: list[tuple[list[int], list[int], Tensor]] = []
    compute = Penalised.__call__

    def note(self: Penalised, input_ids: Tensor, scores: Tensor) -> Tensor:
        for ids, of_beam in zip(input_ids.tolist(), scores, strict=True):
            prompt = [token for token in ids[: self.width] if token != END]  # padding
            seen.append((prompt, ids[self.width :], of_beam.cpu()))
        return compute(self, input_ids, scores)

    monkeypatch.setattr(Penalised, "__call__", note)
    of_both = []
    for network, in_float32 in zip(
        networks_of(half, is_merged), networks_of(exact, is_merged), strict=True
    ):
        seen.clear()
        settings = DecodingSettings(12, num_beams=2)
        of_both.append([text.ids for (text,) in write(network, PROMPTS, settings, [END], 3)])
        assert len(seen) >= 12 * len(PROMPTS) * 2
        assert {tuple(prompt) for prompt, _, _ in seen} == {tuple(of.ids) for of in PROMPTS}
        for prompt, written, scores in seen:
            wanted = logits_after(in_float32, prompt, [*written, END])[-1].log_softmax(-1)
            torch.testing.assert_close(scores, wanted, rtol=0.0, atol=ROUNDED)
    assert of_both[0] != of_both[1]
    assert len({tuple(ids) for ids in of_both[0]}) == len(PROMPTS)


def test_a_merged_base_is_one_of_its_own(base: Backbone):
    """What it computes is found with its own weights, not those of the model it came from."""
    model = tuned(base, "nf4", torch.float16).eval()
    network, ids = merged(model), torch.tensor([EXAMPLES[0][0]])
    with torch.no_grad():
        before = network(ids).logits
        assert before.dtype == torch.float32
        torch.testing.assert_close(before, model(ids).logits, rtol=0.02, atol=0.02)
        copied = copy.deepcopy(network)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(copied(ids).logits, before)
        assert not torch.equal(network(ids).logits, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_merged_base_that_nobody_holds_is_gone_at_once(base: Backbone, dtype: torch.dtype):
    """Without waiting for the collector of cycles: there is no room for another one beside it."""
    model = tuned(base, "nf4", dtype).eval()
    gc.disable()
    try:
        network = merged(model)
        with torch.no_grad():
            network(torch.tensor([EXAMPLES[0][0]]))
        held = [weakref.ref(layer) for layer in network.modules()]
        assert len(held) > 30
        del network
        assert not [layer for layer in held if layer() is not None]
    finally:
        gc.enable()


def test_such_a_base_is_found_right_by_the_probe_and_would_not_be_otherwise(
    base: Backbone, monkeypatch: pytest.MonkeyPatch
):
    assert probe.fault_of(load_backbone(base, "nf4", torch.float16, CPU)) == ""
    monkeypatch.setattr("amazon_desc.model.backbone.compute_safely", lambda model: None)
    with pytest.raises(
        UserError, match="gemma3_text computes numbers that are not finite in float"
    ):
        load_backbone(base, "nf4", torch.float16, CPU)


# Products


def test_vectors_are_scaled_by_powers_of_two():
    half, exponents = scaled(torch.tensor([[3e5, 4e5], [3e-9, 0.0], [0.0, 0.0]]))
    assert exponents.tolist() == [[15], [-32], [-4]]
    assert half.dtype == torch.float16
    torch.testing.assert_close(
        half.float(), torch.tensor([[9.16, 12.2], [12.9, 0.0], [0.0, 0.0]]), rtol=2e-3, atol=0.0
    )


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_is_that_of_float32_at_any_size(size: float, has_bias: bool):
    torch.manual_seed(0)
    layer = nn.Linear(96, 40, bias=has_bias).half().requires_grad_(False)
    sizes = size * torch.tensor([1.0, 1e-6, 3e5])[:, None]
    states = (sizes * torch.randn(3, 96)).requires_grad_()
    exact = states.detach().clone().requires_grad_()
    found = multiplied(layer, states)
    bias = layer.bias.float() if has_bias else None
    wanted = nn.functional.linear(exact, layer.weight.float(), bias)
    assert found.dtype == torch.float32
    assert float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max()) < 1e-3
    given = torch.randn(3, 40) / sizes
    found.backward(given)
    wanted.backward(given)
    apart = (states.grad - exact.grad).norm(dim=-1) / exact.grad.norm(dim=-1)
    assert float(apart.max()) < 1e-3


def test_numbers_that_are_not_finite_stay_so():
    layer = nn.Linear(4, 3).half().requires_grad_(False)
    for wrong in (torch.inf, torch.nan):
        assert not multiplied(layer, torch.tensor([[1.0, wrong, 0.0, 2.0]])).isfinite().any()


def test_a_model_card_asks_for_float32_where_float16_alone_would_overflow(
    base: Backbone, monkeypatch: pytest.MonkeyPatch
):
    module, small = DescriptionModule(), tuned(base, "nf4", torch.float16)
    for network, precision, wanted in (
        (small, "16-mixed", torch.float32),
        (small, "bf16-mixed", torch.bfloat16),
        (llama(), "16-mixed", torch.float16),
    ):
        module.network = network
        monkeypatch.setattr(
            DescriptionModule, "compute_dtype", property(lambda _, of=precision: dtype_of(of))
        )
        assert module.card_dtype == wanted


# Plans


def test_fused_kernels_are_not_taken_for_it_and_why_is_said(base: Backbone):
    card, reason = Machine(80 << 30), "hidden states of gemma3_text overflow float16, in which they"
    models: Callable[[torch.dtype], Any] = lambda dtype: tuned(base, "nf4", dtype)  # noqa: E731
    half = task_of(models(torch.float16), torch.float16, 2048, "nf4")
    assert str(plan(half, card, 1)).startswith(f"Kernels: plain: {reason} compute")
    assert f"(fused kernels: {reason} compute)" in str(plan_writing(half, card, Texts(9, 99)))
    with pytest.raises(UserError, match=f"--model.kernels fused: {reason} compute. Set it to auto"):
        plan(half._replace(kernels="fused"), card, 1)
    assert plan(task_of(models(torch.float32), torch.bfloat16, 2048, "nf4"), card, 1).is_fused


def test_other_families_are_left_as_they_are(tmp_path: Path, base: Backbone):
    model = llama().half()
    assert own_precision(model.get_base_model(), CPU).__class__ is not torch.autocast
    task = task_of(model, torch.float16, 2048, "nf4")
    assert (task.obstacle, task.state_bytes, task.number_bytes) == (None, 2, 2)
    half = task_of(tuned(base, "nf4", torch.float16), torch.float16, 2048, "nf4")
    assert (half.state_bytes, half.number_bytes) == (4, 2)
