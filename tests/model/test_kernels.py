"""Each kernel gives its plain twin's numbers, written out here in float64 of the same inputs.

On a card in the sizes of real models; elsewhere in Triton's interpreter, in small ones.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import slow_case
from tests.model.fused import (
    DEVICE,
    HALF,
    HAS_CARD,
    PRECISION,
    ROUNDING,
    RUNS_KERNELS,
    close,
    on_card,
    random,
)

pytestmark = RUNS_KERNELS


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("rows", "columns"), [on_card(64, 2048), on_card(256, 5632), (96, 64), (33, 192)]
)
@pytest.mark.parametrize("dtype", [PRECISION, torch.float16])
def test_nf4_weights_become_what_bitsandbytes_makes_of_them(
    rows: int, columns: int, dtype: torch.dtype
):
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    from amazon_desc.model.kernels.nf4 import dequantize

    weight: Any = Params4bit(
        random(rows, columns, dtype=dtype).cpu(), quant_type="nf4", compress_statistics=True
    ).to(DEVICE)
    wide = torch.full((rows, columns + 24), float("nan"), dtype=dtype, device=DEVICE)
    dequantize(weight, wide[:, :columns])
    wanted = dequantize_4bit(weight.data, weight.quant_state)
    close(wide[:, :columns], wanted, 1e-3)
    assert torch.isnan(wide[:, columns:]).all()


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize(
    ("rows", "hidden"), [(9, 40), (50, 192), on_card(50, 2048), on_card(50, 2560)]
)
@pytest.mark.parametrize(("has_post", "offset"), [(False, 0.0), (True, 1.0)])
@pytest.mark.parametrize("keeps_x", [False, True])
def test_add_and_norm_forward_and_backward(
    rows: int, hidden: int, has_post: bool, offset: float, keeps_x: bool
):
    from amazon_desc.model.kernels.norm import Norm, add_norm, add_norm_backward

    h, y, dx, dh = (random(rows, hidden) for _ in range(4))
    weight, post = random(hidden, scale=0.3), random(hidden, scale=0.3)
    norm = Norm(weight, 1e-6, post if has_post else None, offset)
    x, masked, normed = add_norm(h, y, norm, room=16)
    assert masked is None
    dh_out, dy, again = add_norm_backward(dx, dh, norm, normed, 8, keeps_x)

    h64, y64 = (t.double().requires_grad_() for t in (h, y))
    added = rms(y64, post.double() + offset, 1e-6) if has_post else y64
    total = h64 + added
    x64 = rms(total, weight.double() + offset, 1e-6)
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


@pytest.mark.parametrize(
    ("rows", "columns"), [(9, 40), on_card(70, 192), (3, 1100), on_card(70, 5632)]
)
@pytest.mark.parametrize("is_gelu", [False, True])
def test_the_gate_forward_and_backward(rows: int, columns: int, is_gelu: bool):
    from amazon_desc.model.kernels.gate import gated, gated_backward

    gate_up, grad = random(rows, 2 * columns), random(rows, columns)
    out, masked = gated(gate_up, is_gelu, room=16)
    assert masked is None
    grads, again = gated_backward(gate_up, grad, is_gelu, 32, keeps_out=False)
    gate_up64 = gate_up.double().requires_grad_()
    gate, up = gate_up64.chunk(2, 1)
    functional = torch.nn.functional
    act = functional.gelu(gate, approximate="tanh") if is_gelu else functional.silu(gate)
    (act * up).backward(grad.double())
    assert again is not None
    assert gate_up64.grad is not None
    close(out[:, :columns], act * up)
    close(again, act * up)
    close(grads[:, : 2 * columns], gate_up64.grad)


def rotation_of(positions: Tensor, dim: int) -> Any:
    from amazon_desc.model.kernels.rotary import Rotation

    angles = torch.rand(int(positions.max()) + 1, dim // 2, device=DEVICE) * 6
    return Rotation(angles.cos(), angles.sin(), positions)


def rotated_by_torch(x: Tensor, rotation: Any) -> Tensor:
    """Rotates heads, (N, heads, dim) float64, as transformers does."""
    cos, sin = (t.double()[rotation.positions].repeat(1, 2)[:, None] for t in rotation[:2])
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


@pytest.mark.parametrize(
    ("num_q", "num_kv", "dim"), [on_card(32, 4, 64), (6, 2, 32), (7, 1, 24), on_card(8, 4, 256)]
)
@pytest.mark.parametrize(("has_norms", "offset"), [(False, 0.0), (True, 0.0), (True, 1.0)])
def test_rotary_positions_and_norms_of_heads(
    num_q: int, num_kv: int, dim: int, has_norms: bool, offset: float
):
    from amazon_desc.model.kernels.rotary import Heads, norm_heads_backward, rotate

    columns = (num_q + 2 * num_kv) * dim
    norms = (random(dim, scale=0.3), random(dim, scale=0.3)) if has_norms else None
    heads = Heads(num_q, num_kv, dim, norms, 1e-6, offset)
    rotation = rotation_of(torch.randint(90, (20,), device=DEVICE), dim)
    qkv, grad = random(20, columns), random(20, columns + 8)
    qkv64 = qkv.double().requires_grad_()
    q, k, v = heads.split(qkv64)
    if norms is not None:
        q, k = (rms(t, w.double() + offset, 1e-6) for t, w in zip((q, k), norms, strict=True))
        torch.autograd.backward([q, k, v], [t.double() for t in heads.split(grad)])
        assert qkv64.grad is not None
        found = grad.clone()
        norm_heads_backward(found, qkv, heads)
        close(found[:, :columns], qkv64.grad)
        assert torch.equal(found[:, columns:], grad[:, columns:])
    wanted = *(rotated_by_torch(t, rotation) for t in (q, k)), v
    for mine, right in zip(heads.split(rotate(qkv, heads, rotation)), wanted, strict=True):
        close(mine, right)


@pytest.mark.parametrize(
    ("num_q", "num_kv", "dim"),
    [
        on_card(32, 4, 64),
        on_card(14, 2, 64),
        (7, 1, 16),
        on_card(3, 3, 16),
        on_card(4, 2, 80),
        (2, 2, 24),
        on_card(8, 2, 128),
        on_card(8, 4, 256),
        (2, 1, 136),
    ],
)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("is_small", [False, slow_case(True)])
def test_attention_forward_and_backward(
    num_q: int,
    num_kv: int,
    dim: int,
    window: int | None,
    is_small: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    """The gradients are those of heads before they were rotated: here, back from where they are.

    Args:
        is_small: the tiles are those of a card with little shared memory
    """
    from amazon_desc.model.kernels import attention
    from amazon_desc.model.kernels.attention import Visibility, attend, attend_backward
    from amazon_desc.model.kernels.rotary import Heads

    memory = attention.LARGE_SHARED_MEMORY - is_small
    monkeypatch.setattr(attention, "_shared_memory", lambda tensor: memory)
    lengths = [1, 5, 200, 64, 63, 65, 130, 1, 256, 33, 7] if HAS_CARD else [1, 45, 17, 40, 3]
    positions = torch.cat([torch.arange(length) for length in lengths]).to(DEVICE)
    examples = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(DEVICE)
    num_tokens = len(positions)
    heads = Heads(num_q, num_kv, dim)
    rotation = rotation_of(positions, dim)
    columns = (num_q + 2 * num_kv) * dim
    qkv, grad = random(num_tokens, columns), random(num_tokens, num_q * dim)
    visibility = Visibility(positions, max(lengths), dim**-0.5, window)
    attended = attend(qkv, heads, visibility, room=24)
    found = attend_backward(grad, qkv, attended, heads, rotation, visibility, room=8)

    back = rotation._replace(sin=-rotation.sin)
    q, k, v = heads.split(qkv.double())
    before = [t.clone().requires_grad_() for t in (*(rotated_by_torch(t, back) for t in (q, k)), v)]
    q, k, v = *(rotated_by_torch(t, rotation) for t in before[:2]), before[2]
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(num_q // num_kv, 0) for x in (k, v))
    places = torch.arange(num_tokens, device=DEVICE)
    sees = (examples[:, None] == examples) & (places[:, None] >= places)
    sees &= places[:, None] - places < (window or num_tokens)
    scores = (q @ k.transpose(1, 2) * dim**-0.5).masked_fill(~sees, float("-inf"))
    wanted = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
    wanted.backward(grad.double())
    close(attended.output[:, : num_q * dim], wanted)
    for mine, right in zip(heads.split(found), before, strict=True):
        assert right.grad is not None
        close(mine, right.grad, 1.5 * ROUNDING)
    assert (attended.output.shape[1], found.shape[1]) == (num_q * dim + 24, columns + 8)
    again = attend_backward(grad, qkv, attended, heads, rotation, visibility, room=8)
    assert torch.equal(found[:, :columns], again[:, :columns])


@pytest.mark.parametrize("num_columns", [1000, 9000, on_card(32000)])
@pytest.mark.parametrize(("cap", "scale"), [(None, 1.0), (5.0, 1.0), (5.0, 0.25)])
def test_cross_entropy_and_its_gradient(num_columns: int, cap: float | None, scale: float):
    from amazon_desc.model.kernels.cross_entropy import cross_entropy_

    logits = random(11, num_columns, scale=4)
    targets = torch.randint(num_columns, (11,), device=DEVICE)
    logits64 = logits.double().requires_grad_()
    scaled = scale * logits64
    capped = scaled if cap is None else cap * torch.tanh(scaled / cap)
    wanted = torch.nn.functional.cross_entropy(capped, targets, reduction="none")
    wanted.sum().backward()
    close(cross_entropy_(logits, targets, cap, scale), wanted, 1e-5)
    assert logits64.grad is not None
    close(logits, logits64.grad)


# Compiles for a card that need not be there, which Triton does where it interprets nothing.
COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from amazon_desc.model.kernels.cross_entropy import BLOCK, _cross_entropy
types = {"logits": "*bf16", "targets": "*i64", "losses": "*fp32"}
types |= {"num_columns": "i32", "stride": "i32", "scale": "fp32", "cap": "fp32"}
types |= {"HAS_CAP": "constexpr", "BLOCK": "constexpr"}
constants = {"HAS_CAP": {has_cap}, "BLOCK": BLOCK}
source = ASTSource(fn=_cross_entropy.compiler, signature=types, constexprs=constants)
print(compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 16}).asm["ptx"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_cap", [False, True])
def test_what_a_loss_is_made_of_is_read_before_any_warp_writes_a_gradient_over_it(
    has_cap: bool, tmp_path: Path
):
    """Warps meet at the barriers of the sums; after the last the fastest one writes."""
    program = COMPILED.replace("{has_cap}", str(has_cap))
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = done.stdout.rsplit("bar.sync", 1)[1]
    until_written = after[: after.index("st.global")]
    assert "ld.global" in after  # what is turned into gradients
    assert "ld.global" not in until_written


def test_copies_go_to_their_places():
    from amazon_desc.model.kernels.copying import Copies

    a, b = random(4, 3000, dtype=torch.float32), random(90, 8, dtype=torch.float32)
    matrix = torch.zeros(100, 3200, dtype=HALF, device=DEVICE)
    copies = Copies([(a, matrix[5:9, :3000], 1.0), (b, matrix[9:99, 3020:3028], 0.5)])
    copies.run()
    wanted = torch.zeros_like(matrix)
    wanted[5:9, :3000], wanted[9:99, 3020:3028] = a.to(HALF), (b * 0.5).to(HALF)
    assert torch.equal(matrix, wanted)
