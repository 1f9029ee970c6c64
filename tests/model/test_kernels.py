"""The fused path gives the plain path's numbers: kernel by kernel, and all of it against float64.

A kernel is compared with its plain twin, written out here in float64 of the same inputs. The whole
path may be no further from a float64 reference than 1.2 times what the plain path is itself.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model import attention, kernels
from amazon_desc.model.execution import execute, machine_with
from amazon_desc.model.kernels.compiling import Kernel
from amazon_desc.model.loss import target_loss
from amazon_desc.model.plan import plan, task_of

pytestmark = pytest.mark.gpu

VOCABULARY, ROW_TOKENS, LONGEST = 1000, 1024, 256
ALLOWED = 1.2

HALF = torch.bfloat16


def random(*shape: int, scale: float = 1.0, dtype: torch.dtype = HALF) -> Tensor:
    return (torch.randn(*shape, device="cuda", dtype=torch.float32) * scale).to(dtype)


def close(found: Tensor, wanted: Tensor, within: float = 4e-3) -> None:
    """Rounding to bf16 alone is about 2e-3 of the values' norm."""
    assert torch.isfinite(found).all()
    assert float((found.double() - wanted.double()).norm() / wanted.double().norm()) < within


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# Kernels and their plain twins


@pytest.mark.parametrize(("rows", "columns"), [(64, 2048), (256, 5632), (96, 64), (33, 192)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nf4_weights_become_what_bitsandbytes_makes_of_them(
    rows: int, columns: int, dtype: torch.dtype
):
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    from amazon_desc.model.kernels.nf4 import dequantize

    weight: Any = Params4bit(
        random(rows, columns, dtype=dtype).cpu(), quant_type="nf4", compress_statistics=True
    ).to("cuda")
    wide = torch.full((rows, columns + 24), float("nan"), dtype=dtype, device="cuda")
    dequantize(weight, wide[:, :columns])
    wanted = dequantize_4bit(weight.data, weight.quant_state)
    close(wide[:, :columns], wanted, 1e-3)
    assert torch.isnan(wide[:, columns:]).all()


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize("hidden", [192, 2048, 2560])
@pytest.mark.parametrize("is_gemma", [False, True])
@pytest.mark.parametrize("keeps_x", [False, True])
def test_add_and_norm_forward_and_backward(hidden: int, is_gemma: bool, keeps_x: bool):
    from amazon_desc.model.kernels.norm import Norm, add_norm, add_norm_backward

    h, y, dx, dh = (random(50, hidden) for _ in range(4))
    weight, post = random(hidden, scale=0.3), random(hidden, scale=0.3)
    norm = Norm(weight, 1e-6, post if is_gemma else None, float(is_gemma))
    x, masked, normed = add_norm(h, y, norm, room=16)
    assert masked is None
    dh_out, dy, again = add_norm_backward(dx, dh, norm, normed, 8, keeps_x)

    h64, y64 = (t.double().requires_grad_() for t in (h, y))
    added = rms(y64, post.double() + 1, 1e-6) if is_gemma else y64
    total = h64 + added
    x64 = rms(total, weight.double() + float(is_gemma), 1e-6)
    torch.autograd.backward([x64, total], [dx.double(), dh.double()])
    assert h64.grad is not None
    assert y64.grad is not None
    close(x[:, :hidden], x64)
    close(normed.h, total)
    close(dh_out, h64.grad)
    close(dy[:, :hidden], y64.grad)
    assert (x.shape[1], dy.shape[1]) == (hidden + 16, hidden + 8)
    if not keeps_x:
        assert again is not None
        close(again, x64)


@pytest.mark.parametrize("columns", [192, 5632])
@pytest.mark.parametrize("is_gelu", [False, True])
def test_the_gate_forward_and_backward(columns: int, is_gelu: bool):
    from amazon_desc.model.kernels.gate import gated, gated_backward

    both, grad = random(70, 2 * columns), random(70, columns)
    out, masked = gated(both, is_gelu, room=16)
    assert masked is None
    grads, again = gated_backward(both, grad, is_gelu, 32, keeps_out=False)
    both64 = both.double().requires_grad_()
    gate, up = both64.chunk(2, 1)
    functional = torch.nn.functional
    act = functional.gelu(gate, approximate="tanh") if is_gelu else functional.silu(gate)
    (act * up).backward(grad.double())
    assert again is not None
    assert both64.grad is not None
    close(out[:, :columns], act * up)
    close(again, act * up)
    close(grads[:, : 2 * columns], both64.grad)


def rotation_of(positions: Tensor, dim: int) -> Any:
    from amazon_desc.model.kernels.rotary import Rotation

    angles = torch.rand(int(positions.max()) + 1, dim // 2, device="cuda") * 6
    return Rotation(angles.cos(), angles.sin(), positions)


def rotated_by_torch(x: Tensor, rotation: Any) -> Tensor:
    """Rotates heads, (N, heads, dim) float64, as transformers does."""
    cos, sin = (t.double()[rotation.positions].repeat(1, 2)[:, None] for t in rotation[:2])
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


@pytest.mark.parametrize(("num_q", "num_kv", "dim"), [(32, 4, 64), (6, 2, 32), (8, 4, 256)])
@pytest.mark.parametrize("has_norms", [False, True])
def test_rotary_positions_and_norms_of_heads(num_q: int, num_kv: int, dim: int, has_norms: bool):
    from amazon_desc.model.kernels.rotary import Heads, norm_heads_backward, rotate

    columns = (num_q + 2 * num_kv) * dim
    norms = (random(dim, scale=0.3), random(dim, scale=0.3)) if has_norms else None
    heads = Heads(num_q, num_kv, dim, norms, 1e-6)
    rotation = rotation_of(torch.randint(90, (40,), device="cuda"), dim)
    both, grad = random(40, columns), random(40, columns + 8)
    both64 = both.double().requires_grad_()
    q, k, v = heads.split(both64)
    if norms is not None:
        q, k = (rms(t, w.double() + 1, 1e-6) for t, w in zip((q, k), norms, strict=True))
        torch.autograd.backward([q, k, v], [t.double() for t in heads.split(grad)])
        assert both64.grad is not None
        found = grad.clone()
        norm_heads_backward(found, both, heads)
        close(found[:, :columns], both64.grad)
        assert torch.equal(found[:, columns:], grad[:, columns:])
    wanted = *(rotated_by_torch(t, rotation) for t in (q, k)), v
    for mine, right in zip(heads.split(rotate(both, heads, rotation)), wanted, strict=True):
        close(mine, right)


@pytest.mark.parametrize(
    ("num_q", "num_kv", "dim"), [(32, 4, 64), (3, 3, 16), (4, 2, 80), (8, 2, 128), (8, 4, 256)]
)
@pytest.mark.parametrize("window", [None, 40])
def test_attention_forward_and_backward(num_q: int, num_kv: int, dim: int, window: int | None):
    """The gradients are those of heads before they were rotated: here, back from where they are."""
    from amazon_desc.model.kernels.attention import Visibility, attend, attend_backward
    from amazon_desc.model.kernels.rotary import Heads

    lengths = [1, 5, 200, 64, 63, 65, 130, 1, 256, 33, 7]
    positions = torch.cat([torch.arange(length) for length in lengths]).cuda()
    examples = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).cuda()
    num_tokens = len(positions)
    heads = Heads(num_q, num_kv, dim)
    rotation = rotation_of(positions, dim)
    columns = (num_q + 2 * num_kv) * dim
    qkv, grad = random(num_tokens, columns), random(num_tokens, num_q * dim)
    visibility = Visibility(positions, 256, dim**-0.5, window)
    attended = attend(qkv, heads, visibility, room=24)
    found = attend_backward(grad, qkv, attended, heads, rotation, visibility, room=8)

    back = rotation._replace(sin=-rotation.sin)
    q, k, v = heads.split(qkv.double())
    before = [t.clone().requires_grad_() for t in (*(rotated_by_torch(t, back) for t in (q, k)), v)]
    q, k, v = *(rotated_by_torch(t, rotation) for t in before[:2]), before[2]
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(num_q // num_kv, 0) for x in (k, v))
    places = torch.arange(num_tokens, device="cuda")
    sees = (examples[:, None] == examples) & (places[:, None] >= places)
    sees &= places[:, None] - places < (window or num_tokens)
    scores = (q @ k.transpose(1, 2) * dim**-0.5).masked_fill(~sees, float("-inf"))
    wanted = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
    wanted.backward(grad.double())
    close(attended.output[:, : num_q * dim], wanted)
    for mine, right in zip(heads.split(found), before, strict=True):
        assert right.grad is not None
        close(mine, right.grad, 6e-3)
    assert (attended.output.shape[1], found.shape[1]) == (num_q * dim + 24, columns + 8)
    again = attend_backward(grad, qkv, attended, heads, rotation, visibility, room=8)
    assert torch.equal(found[:, :columns], again[:, :columns])


@pytest.mark.parametrize("num_columns", [1000, 32000])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_cross_entropy_and_its_gradient(num_columns: int, cap: float | None):
    from amazon_desc.model.kernels.cross_entropy import cross_entropy_

    logits = random(37, num_columns, scale=4)
    targets = torch.randint(num_columns, (37,), device="cuda")
    logits64 = logits.double().requires_grad_()
    capped = logits64 if cap is None else cap * torch.tanh(logits64 / cap)
    wanted = torch.nn.functional.cross_entropy(capped, targets, reduction="none")
    wanted.sum().backward()
    close(cross_entropy_(logits, targets, cap), wanted, 1e-5)
    assert logits64.grad is not None
    close(logits, logits64.grad)


def dropout_of(share: float = 0.3, seed: int = 7, salt: int = 3) -> Any:
    from amazon_desc.model.kernels.dropout import Dropout

    return Dropout(share, torch.tensor(seed, device="cuda"), salt)


def mask_of(dropout: Any, num_rows: int, num_columns: int) -> Tensor:
    return dropout(torch.ones(num_rows, num_columns, device="cuda"))


def test_dropout_zeroes_its_share_in_all_columns_and_scales_the_rest():
    dropout = dropout_of(0.05)
    mask = mask_of(dropout, 2048, 3000)
    assert mask.unique().tolist() == pytest.approx([0, 65536 / (65536 - 3277)])
    assert float(mask.double().mean()) == pytest.approx(1, abs=5e-4)
    is_zero = (mask == 0).view(-1, 8).double()
    assert is_zero.mean(0).tolist() == pytest.approx([0.05] * 8, abs=2e-3)
    # Numbers of one call of the generator know nothing of each other.
    together = is_zero.t() @ is_zero / len(is_zero)
    for a in range(8):
        for b in range(a):
            assert float(together[a, b]) == pytest.approx(0.05**2, abs=4e-4)
    assert torch.equal(mask_of(dropout, 2048, 3000), mask)


def test_dropout_of_next_to_nothing_and_of_nearly_all():
    assert (mask_of(dropout_of(1e-6), 64, 640) == 1).all()
    assert float((mask_of(dropout_of(1 - 1e-7), 64, 640) == 0).float().mean()) > 0.99
    assert torch.isfinite(mask_of(dropout_of(1 - 1e-7), 64, 640)).all()


def test_neighbouring_seeds_and_salts_have_masks_of_their_own():
    pairs = [(7, 3), (7, 4), (8, 3), (8, 2), (6, 4)]
    masks = [mask_of(dropout_of(0.3, *pair), 256, 2048) == 0 for pair in pairs]
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert float((mask & other).float().mean()) == pytest.approx(0.09, abs=3e-3)
    changing = dropout_of(0.3, 7, 3)
    changing.seed.fill_(8)  # as it is between replays of a graph
    assert torch.equal(mask_of(changing, 256, 2048) == 0, masks[2])


def masked_by_torch(x: Tensor, dropout: Any) -> Tensor:
    return (x.float() * mask_of(dropout, *x.shape)).to(x.dtype)


@pytest.mark.parametrize("columns", [60, 192, 2048, 3000, 5632])
def test_a_copy_under_the_mask(columns: int):
    dropout, wide = dropout_of(), random(33, columns + 24)
    x = wide[:, :columns]
    assert torch.equal(dropout(x), masked_by_torch(x, dropout))


@pytest.mark.parametrize("hidden", [60, 192, 2048, 2560])
@pytest.mark.parametrize("is_gemma", [False, True])
def test_the_norm_writes_its_output_under_the_mask_too(hidden: int, is_gemma: bool):
    from amazon_desc.model.kernels.norm import Norm, add_norm, add_norm_backward

    dropout = dropout_of()
    h, y, dx, dh = (random(50, hidden) for _ in range(4))
    weight, post = random(hidden, scale=0.3), random(hidden, scale=0.3)
    norm = Norm(weight, 1e-6, post if is_gemma else None, float(is_gemma))
    x, masked, normed = add_norm(h, y, norm, 16, dropout)
    assert masked is not None
    close(x[:, :hidden], add_norm(h, y, norm, 0)[0])
    assert torch.equal(masked, masked_by_torch(x[:, :hidden], dropout))
    *grads, x = add_norm_backward(dx, dh, norm, normed, 0, False)
    *same_grads, masked = add_norm_backward(dx, dh, norm, normed, 0, False, dropout)
    assert x is not None
    assert masked is not None
    assert torch.equal(masked, masked_by_torch(x, dropout))
    for grad, same in zip(grads, same_grads, strict=True):
        close(same, grad)
    assert add_norm_backward(dx, dh, norm, normed, 0, True, dropout)[2] is None


@pytest.mark.parametrize("columns", [60, 192, 5632])
@pytest.mark.parametrize("is_gelu", [False, True])
def test_the_gate_writes_its_output_under_the_mask_too(columns: int, is_gelu: bool):
    from amazon_desc.model.kernels.gate import gated, gated_backward

    dropout = dropout_of()
    both, grad = random(70, 2 * columns), random(70, columns)
    out, masked = gated(both, is_gelu, 16, dropout)
    assert masked is not None
    close(out[:, :columns], gated(both, is_gelu, 0)[0])
    assert torch.equal(masked, masked_by_torch(out[:, :columns], dropout))
    grads, again = gated_backward(both, grad, is_gelu, 0, False)
    same_grads, masked = gated_backward(both, grad, is_gelu, 0, False, dropout)
    assert again is not None
    assert masked is not None
    assert torch.equal(masked, masked_by_torch(again, dropout))
    close(same_grads, grads)
    assert gated_backward(both, grad, is_gelu, 0, True, dropout)[1] is None


@pytest.mark.parametrize(("rows", "columns"), [(33, 60), (100, 192), (200, 2048)])
@pytest.mark.parametrize("rank", [8, 16, 24, 48, 192])
def test_a_product_is_added_under_the_mask(rows: int, columns: int, rank: int):
    dropout = dropout_of()
    left, right = random(rows, 40 + rank)[:, 40:], random(rank, columns + 24)[:, :columns]
    before = random(rows, columns + 8)
    out = before.clone()
    dropout.add_product(left, right, out[:, :columns])
    mask = mask_of(dropout, rows, columns)
    wanted = before[:, :columns].double() + (left.double() @ right.double()) * mask.double()
    close(out[:, :columns], wanted)
    is_zero = torch.nn.functional.pad(mask, (0, 8)) == 0
    assert torch.equal(out[is_zero], before[is_zero])
    ones, total = torch.ones_like(left) / rank, torch.zeros_like(wanted, dtype=torch.float32)
    dropout.add_product(ones.to(HALF), torch.ones_like(right), total)
    assert torch.equal(total == 0, mask == 0)


def test_copies_go_to_their_places():
    from amazon_desc.model.kernels.copying import Copies

    a, b = random(4, 3000, dtype=torch.float32), random(90, 8, dtype=torch.float32)
    matrix = torch.zeros(100, 3200, dtype=HALF, device="cuda")
    copies = Copies([(a, matrix[5:9, :3000], 1.0), (b, matrix[9:99, 3020:3028], 0.5)])
    copies.run()
    wanted = torch.zeros_like(matrix)
    wanted[5:9, :3000], wanted[9:99, 3020:3028] = a.to(HALF), (b * 0.5).to(HALF)
    assert torch.equal(matrix, wanted)


# All of it


def base(kind: str) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 1408}
    shape |= {"num_hidden_layers": 3, "num_key_value_heads": 2}
    if kind == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=8))
    else:
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        config = Gemma3TextConfig(
            **shape,
            num_attention_heads=4,
            head_dim=256,
            sliding_window=64,
            layer_types=kinds,
            final_logit_softcapping=30.0 if kind == "capped gemma" else None,
        )
        model = Gemma3ForCausalLM(config)
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.data.normal_(0, 0.3)
    model.requires_grad_(False).train().to("cuda", HALF)
    model.set_attn_implementation(attention.register())
    return model


def with_lora(
    model: Any, dropout: float, targets: Any = "all-linear", use_rslora: bool = False
) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=dropout,
        target_modules=targets,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
        if "lora_B" in name:
            weight.data.normal_(0, 0.01)
    return model


def batches(number: int, num_rows: int = 1) -> list[RowBatch]:
    """Packed rows of uneven examples, the last tokens of a row padded."""
    chance = np.random.default_rng(0)
    found = []
    for _ in range(number):
        rows = []
        for _ in range(num_rows):
            lengths, left = [], ROW_TOKENS
            while left >= 24:
                lengths.append(int(min(LONGEST, left, max(24, chance.lognormal(4.6, 0.7)))))
                left -= lengths[-1]
            ids = chance.integers(3, VOCABULARY, sum(lengths)).tolist()
            prompts = [length // 3 for length in lengths]
            rows.append({"input_ids": ids, "lengths": lengths, "prompt_lengths": prompts})
        batch = collate_rows(rows, ROW_TOKENS, 0, "completion")
        found.append(RowBatch(*(x.cuda() if isinstance(x, Tensor) else x for x in batch)))
    return found


def gradients(model: Any) -> dict[str, Tensor]:
    return {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}


def clear(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def of_both_paths(model: Any, fused: Any, batch: RowBatch) -> tuple[dict[str, Tensor], ...]:
    """Returns the gradients of the plain path and of the fused one."""
    with torch.autocast("cuda", HALF):
        plain, _ = target_loss(model, batch)
    plain.backward()
    of_plain = gradients(model)
    clear(model)
    fused.begin()
    fused.loss(batch, 0)[0].backward()
    return of_plain, gradients(model)


def share_masks(model: Any, fused: Any) -> None:
    """Gives PEFT's layers the masks of the fused path, as they are made from its seed."""
    by_matrix = {
        id(projection.a): linear.dropout
        for linear in fused.decoder.linears()
        for projection in linear.projections
    }
    for module in model.modules():
        if hasattr(module, "lora_A"):
            dropout = by_matrix[id(module.lora_A["default"].weight)]

            def masked(x: Tensor, dropout: Any = dropout) -> Tensor:
                ones = torch.ones_like(x.flatten(0, 1), dtype=torch.float32)
                return (x * dropout(ones).view_as(x)).to(x.dtype)

            module.lora_dropout["default"].forward = masked


@pytest.fixture
def fused_of() -> Callable[..., Any]:
    def fused_of(model: Any, captures: bool = False) -> Any:
        task = task_of(model, HALF, ROW_TOKENS, "nf4", "fused")
        chosen = plan(task, machine_with(task, torch.device("cuda", 0)), 1)
        fused = execute(chosen, model, LONGEST)
        assert fused is not None
        fused.captures = captures
        return fused

    return fused_of


@pytest.mark.parametrize("kind", ["llama", "gemma", "capped gemma"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_loss_and_gradients_are_as_near_to_float64_as_the_plain_ones(
    kind: str, dropout: float, fused_of: Callable[..., Any]
):
    model = with_lora(base(kind), dropout)
    fused = fused_of(model)
    reference = copy.deepcopy(model).double()
    if dropout:
        share_masks(model, fused)
        twins = zip(model.modules(), reference.modules(), strict=True)
        for mine, other in twins:
            if hasattr(mine, "lora_A"):
                other.lora_dropout["default"].forward = mine.lora_dropout["default"].forward
    for number, batch in enumerate(batches(8)):
        fused.seed.fill_(number)
        clear(reference)
        wanted, _ = target_loss(reference, batch)
        wanted.backward()
        clear(model)
        with torch.autocast("cuda", HALF):
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
        assert len(of_fused) == 3 * 7 * 2
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
    model = with_lora(base("llama"), 0.0, targets, use_rslora)
    fused = fused_of(model)
    (batch,) = batches(1)
    wanted, found = of_both_paths(model, fused, batch)
    assert set(found) == set(wanted)
    for name, right in wanted.items():
        close(found[name], right, 0.03)


@pytest.mark.parametrize("kind", ["llama", "gemma", "capped gemma"])
def test_scores_are_those_of_the_plain_path_without_dropout(
    kind: str, fused_of: Callable[..., Any]
):
    model = with_lora(base(kind), 0.1)
    fused = fused_of(model, captures=True)
    (batch,) = batches(1)

    def trained() -> float:
        fused.begin()
        loss, _ = fused.loss(batch, 7)
        loss.backward()
        return float(loss)

    before = trained()
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cuda", HALF):
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


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_captured_steps_are_the_eager_ones_also_of_other_shapes_in_between(
    dropout: float, fused_of: Callable[..., Any]
):
    model = with_lora(base("llama"), dropout)
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
        assert len(grads) == len(other_grads) == 3 * 7 * 2


@pytest.mark.parametrize("kind", ["llama", "gemma"])
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


@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("recompute", ["none", "parts", "mlp", "layers"])
def test_less_memory_gives_the_same_numbers(
    is_dense: bool,
    recompute: str,
    fused_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
):
    from amazon_desc.model.kernels import from_peft as collecting

    model = with_lora(base("gemma"), 0.1)
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
    row = {"input_ids": [*range(3, 43)], "lengths": [40], "prompt_lengths": [10]}
    batch = collate_rows([row], ROW_TOKENS, 0, "completion")  # pyright: ignore
    batch = RowBatch(*(x.cuda() if isinstance(x, Tensor) else x for x in batch))
    wanted, found = of_both_paths(model, fused, batch)
    for name, gradient in found.items():
        close(gradient, wanted[name], 0.03)
