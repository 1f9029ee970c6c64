"""One layer of a decoder with LoRA, forward and backward by hand, in every family.

The residual stream h is (N, H). A layer begins after its first norm and ends before its last
product is added to h: norms and additions across layers are one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from amazon_desc.model.kernels.attention import SavedAttention, Visibility, attend, attend_backward
from amazon_desc.model.kernels.gate import gated, gated_backward
from amazon_desc.model.kernels.linear import LoraLinear, SavedInput
from amazon_desc.model.kernels.norm import Norm, SavedNorm, add_norm, add_norm_backward
from amazon_desc.model.kernels.rotary import Heads, Rotation, norm_heads_backward, rotate
from amazon_desc.model.kernels.side_stream import SideStream
from amazon_desc.model.recomputation import Recompute


class SavedLayer(NamedTuple):
    """What a layer keeps of its forward pass."""

    attention_input: SavedInput
    qkv: Tensor
    rotated: Tensor
    attended: SavedAttention
    out_input: SavedInput
    normed: SavedNorm
    """the second norm's; its h is what the layer hands on"""
    mlp_input: SavedInput
    gate_up: Tensor | None
    """(N, 2 I); None: they are recomputed"""
    down_input: SavedInput


@dataclass(frozen=True)
class Layer:
    """The weights of one layer."""

    attention_norm: Norm
    mlp_norm: Norm
    qkv: LoraLinear
    out: LoraLinear
    gate_up: LoraLinear
    down: LoraLinear
    heads: Heads
    attention_scale: float
    window: int | None
    rotation: str
    """which of the tables of rotary positions"""
    is_gelu: bool

    def begin(self, h: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, SavedNorm]:
        """Adds the last product of the layer below, (N, H), and normalises for attention."""
        return add_norm(h, y, self.attention_norm, self.qkv.room, self.qkv.dropout)

    def forward(
        self,
        x: Tensor,
        masked: Tensor | None,
        h: Tensor,
        rotation: Rotation,
        visibility: Visibility,
        recompute: Recompute,
    ) -> tuple[SavedLayer, Tensor]:
        """Returns what to keep, and the input of the last product, (N, I + room).

        Args:
            x: (N, H + room) normalised
            masked: (N, H) the same under the mask of dropout
            h: (N, H) the residual stream
        """
        attention_input = self.qkv.fill(x, masked)
        qkv = self.qkv.product(x)
        rotated = rotate(qkv, self.heads, rotation)
        attended = attend(rotated, self.heads, visibility, self.out.room)
        out_input = self.out.fill(attended.output, self.out.under_mask(attended.output))
        y = self.out.product(attended.output)
        gate_up, mlp_input, normed = self.project_gate_up(h, y)
        act, masked = gated(gate_up, self.is_gelu, self.down.room, self.down.dropout)
        down_input = self.down.fill(act, masked)
        keeps, has_mask = recompute == "none", self.out.dropout is not None
        kept = SavedLayer(
            attention_input if keeps else attention_input.without_x(),
            qkv,
            rotated,
            attended,
            out_input.without_x() if has_mask and not keeps else out_input,
            normed,
            mlp_input if keeps else mlp_input.without_x(),
            gate_up if keeps or recompute == "parts" else None,
            down_input if keeps else down_input.without_x(),
        )
        return kept, act

    def project_gate_up(self, h: Tensor, y: Tensor | None) -> tuple[Tensor, SavedInput, SavedNorm]:
        """Returns gate and up side by side, (N, 2 I), and what of their making is kept.

        Args:
            h: (N, H) the residual stream, or, without `y`, its sum with y
        """
        norm, linear = self.mlp_norm, self.gate_up
        x, masked, normed = add_norm(h, y, norm, linear.room, linear.dropout)
        given = linear.fill(x, masked)
        return linear.product(x), given, normed

    def backward(
        self,
        kept: SavedLayer,
        normed: SavedNorm,
        dh: Tensor,
        dy: Tensor,
        room_below: int | None,
        rotation: Rotation,
        visibility: Visibility,
        side: SideStream,
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of what the layer below hands on; nothing of use from the lowest.

        Args:
            normed: of the first norm
            dh: (N, H) gradient of the residual stream
            dy: (N, H + room) that of the last product
            room_below: after the last product of the layer below; None: this is the lowest
            side: does what is not waited for
        """
        # The MLP
        d_act = self.down.backward_input(dy)
        gate_up = kept.gate_up
        if gate_up is None:
            gate_up, _, _ = self.project_gate_up(kept.normed.h, None)
        keeps = kept.down_input.x is not None
        d_gate_up, act = gated_backward(
            gate_up, d_act, self.is_gelu, self.gate_up.room, keeps, self.down.dropout
        )
        del gate_up, d_act
        side.run(partial(self.down.backward_weights, dy, kept.down_input.or_recomputed(act)))
        dx = self.gate_up.backward_input(d_gate_up)
        dh, dy, x = add_norm_backward(
            dx, dh, self.mlp_norm, kept.normed, self.out.room, keeps, self.gate_up.dropout
        )
        side.run(partial(self.gate_up.backward_weights, d_gate_up, kept.mlp_input.or_recomputed(x)))
        # Attention
        d_attended = self.out.backward_input(dy)
        given = kept.out_input
        if given.x is None:
            given = given.or_recomputed(self.out.under_mask(kept.attended.output))
        side.run(partial(self.out.backward_weights, dy, given))
        d_qkv = attend_backward(
            d_attended, kept.rotated, kept.attended, self.heads, rotation, visibility, self.qkv.room
        )
        if self.heads.norms is not None:
            norm_heads_backward(d_qkv, kept.qkv, self.heads)
        if room_below is None:
            self.qkv.fill_backward(d_qkv)
            x = None if keeps else self.recompute_attention_input(normed)
        else:
            dx = self.qkv.backward_input(d_qkv)
            dh, dy, x = add_norm_backward(
                dx, dh, self.attention_norm, normed, room_below, keeps, self.qkv.dropout
            )
        side.run(partial(self.qkv.backward_weights, d_qkv, kept.attention_input.or_recomputed(x)))
        return dh, dy

    def recompute_attention_input(self, normed: SavedNorm) -> Tensor:
        """Returns the first input of LoRA, (N, H)."""
        x, masked, _ = add_norm(normed.h, None, self.attention_norm, 0, self.qkv.dropout)
        return x if masked is None else masked
