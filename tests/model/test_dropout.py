"""LoRA's dropout: its masks are what they should be, and every kernel that writes under one.

On a card in the sizes of real models; elsewhere in Triton's interpreter, in small ones.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.fused import DEVICE, PRECISION, RUNS_KERNELS, close, on_card, random

pytestmark = RUNS_KERNELS


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def dropout_of(share: float = 0.3, seed: int = 7, salt: int = 3) -> Any:
    from amazon_desc.model.kernels.dropout import Dropout

    return Dropout(share, torch.tensor(seed, device=DEVICE), salt)


def mask_of(dropout: Any, num_rows: int, num_columns: int) -> Tensor:
    return dropout(torch.ones(num_rows, num_columns, device=DEVICE))


@pytest.mark.parametrize(
    ("rows", "columns", "error"), [on_card(2048, 3000, 4e-4), (24, 3000, 4e-3)]
)
def test_dropout_zeroes_its_share_in_all_columns_and_scales_the_rest(
    rows: int, columns: int, error: float
):
    dropout = dropout_of(0.05)
    mask = mask_of(dropout, rows, columns)
    assert mask.unique().tolist() == pytest.approx([0, 65536 / (65536 - 3277)])
    assert float(mask.double().mean()) == pytest.approx(1, abs=error)
    is_zero = (mask == 0).view(-1, 8).double()
    assert is_zero.mean(0).tolist() == pytest.approx([0.05] * 8, abs=5 * error)
    # Numbers of one call of the generator know nothing of each other.
    together = is_zero.t() @ is_zero / len(is_zero)
    for a in range(8):
        for b in range(a):
            assert float(together[a, b]) == pytest.approx(0.05**2, abs=error)
    assert torch.equal(mask_of(dropout, rows, columns), mask)


def test_dropout_of_next_to_nothing_and_of_nearly_all():
    assert (mask_of(dropout_of(1e-6), 16, 640) == 1).all()
    assert float((mask_of(dropout_of(1 - 1e-7), 16, 640) == 0).float().mean()) > 0.99
    assert torch.isfinite(mask_of(dropout_of(1 - 1e-7), 16, 640)).all()


@pytest.mark.parametrize(("rows", "columns", "error"), [on_card(256, 2048, 3e-3), (12, 1000, 0.02)])
def test_neighbouring_seeds_and_salts_have_masks_of_their_own(
    rows: int, columns: int, error: float
):
    pairs = [(7, 3), (7, 4), (8, 3), (8, 2), (6, 4)]
    masks = [mask_of(dropout_of(0.3, *pair), rows, columns) == 0 for pair in pairs]
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert float((mask & other).float().mean()) == pytest.approx(0.09, abs=error)
    changing = dropout_of(0.3, 7, 3)
    changing.seed.fill_(8)  # as it is between replays of a graph
    assert torch.equal(mask_of(changing, rows, columns) == 0, masks[2])


def masked_by_torch(x: Tensor, dropout: Any) -> Tensor:
    return (x.float() * mask_of(dropout, *x.shape)).to(x.dtype)


@pytest.mark.parametrize("columns", [60, 1100, *map(on_card, (192, 2048, 3000, 5632))])
def test_a_copy_under_the_mask(columns: int):
    dropout, wide = dropout_of(), random(9, columns + 24)
    x = wide[:, :columns]
    assert torch.equal(dropout(x), masked_by_torch(x, dropout))


@pytest.mark.parametrize("hidden", [60, *map(on_card, (192, 2048, 2560))])
@pytest.mark.parametrize("has_post", [False, True])
def test_the_norm_writes_its_output_under_the_mask_too(hidden: int, has_post: bool):
    from amazon_desc.model.kernels.norm import Norm, add_norm, add_norm_backward

    dropout = dropout_of()
    h, y, dx, dh = (random(9, hidden) for _ in range(4))
    weight, post = random(hidden, scale=0.3), random(hidden, scale=0.3)
    norm = Norm(weight, 1e-6, post if has_post else None, float(has_post))
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


@pytest.mark.parametrize("columns", [60, *map(on_card, (192, 5632))])
@pytest.mark.parametrize("is_gelu", [False, True])
def test_the_gate_writes_its_output_under_the_mask_too(columns: int, is_gelu: bool):
    from amazon_desc.model.kernels.gate import gated, gated_backward

    dropout = dropout_of()
    gate_up, grad = random(9, 2 * columns), random(9, columns)
    out, masked = gated(gate_up, is_gelu, 16, dropout)
    assert masked is not None
    close(out[:, :columns], gated(gate_up, is_gelu, 0)[0])
    assert torch.equal(masked, masked_by_torch(out[:, :columns], dropout))
    grads, again = gated_backward(gate_up, grad, is_gelu, 0, False)
    same_grads, masked = gated_backward(gate_up, grad, is_gelu, 0, False, dropout)
    assert again is not None
    assert masked is not None
    assert torch.equal(masked, masked_by_torch(again, dropout))
    close(same_grads, grads)
    assert gated_backward(gate_up, grad, is_gelu, 0, True, dropout)[1] is None


@pytest.mark.parametrize(("rows", "columns"), [(33, 60), on_card(100, 192), on_card(200, 2048)])
@pytest.mark.parametrize("rank", [8, 24, *map(on_card, (16, 48, 192))])
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
    dropout.add_product(ones.to(PRECISION), torch.ones_like(right), total)
    assert torch.equal(total == 0, mask == 0)
