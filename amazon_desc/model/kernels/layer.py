"""One layer of a decoder with LoRA, forward and backward by hand: Llama's, and Gemma 3's.

The residual stream h is (N, H). A layer begins behind its first norm and ends before its last
product is added to h: norms and additions across layers are one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from amazon_desc.model.kernels.attention import Attended, Sight, attend, attend_backward
from amazon_desc.model.kernels.gate import gated, gated_backward
from amazon_desc.model.kernels.linear import Input, LoraLinear
from amazon_desc.model.kernels.norm import Norm, Normed, add_norm, add_norm_backward
from amazon_desc.model.kernels.rotary import Heads, Rotation, rotate, rotate_backward
from amazon_desc.model.kernels.side import Side
from amazon_desc.model.recomputation import Recompute


class Kept(NamedTuple):
    """What a layer keeps of its forward pass."""

    attention_input: Input
    qkv: Tensor
    rotated: Tensor
    attended: Attended
    out_input: Input
    normed: Normed
    """the second norm's; its h is what the layer hands on"""
    mlp_input: Input
    both: Tensor | None
    """(N, 2 I): gate and up; None: they are made again"""
    down_input: Input


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

    def forward(
        self, x: Tensor, h: Tensor, rotation: Rotation, sight: Sight, recompute: Recompute
    ) -> tuple[Kept, Tensor]:
        """Returns what to keep, and the input of the last product, (N, I + room).

        Args:
            x: (N, H + room) normalised
            h: (N, H) the residual stream
        """
        keeps = recompute == "none"
        self.qkv.fill(x)
        qkv = self.qkv.product(x)
        rotated = rotate(qkv, self.heads, rotation)
        attended = attend(rotated, self.heads, sight, self.out.room)
        self.out.fill(attended.output)
        y = self.out.product(attended.output)
        x_mlp, normed = add_norm(h, y, self.mlp_norm, self.gate_up.room)
        self.gate_up.fill(x_mlp)
        both = self.gate_up.product(x_mlp)
        act = gated(both, self.is_gelu, self.down.room)
        self.down.fill(act)
        kept = Kept(
            self.qkv.input_of(x, keeps),
            qkv,
            rotated,
            attended,
            self.out.input_of(attended.output, True),
            normed,
            self.gate_up.input_of(x_mlp, keeps),
            both if keeps or recompute == "parts" else None,
            self.down.input_of(act, keeps),
        )
        return kept, act

    def backward(
        self,
        kept: Kept,
        normed: Normed,
        dh: Tensor,
        dy: Tensor,
        room_below: int | None,
        rotation: Rotation,
        sight: Sight,
        side: Side,
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of what the layer below hands on; nothing of use from the lowest.

        Args:
            normed: of the first norm
            dh: (N, H) gradient of the residual stream
            dy: (N, H + room) that of the last product
            room_below: behind the last product of the layer below; None: this is the lowest
            side: does what is not waited for
        """
        # The MLP
        d_act = self.down.backward_input(dy)
        both = kept.both if kept.both is not None else self.gate_and_up(kept.normed)
        d_both, act = gated_backward(
            both, d_act, self.is_gelu, self.gate_up.room, kept.down_input.x is not None
        )
        del both, d_act
        side.run(partial(self.down.backward_weights, dy, kept.down_input.or_again(act)))
        dx = self.gate_up.backward_input(d_both)
        dh, dy, x = add_norm_backward(
            dx, dh, self.mlp_norm, kept.normed, self.out.room, kept.mlp_input.x is not None
        )
        side.run(partial(self.gate_up.backward_weights, d_both, kept.mlp_input.or_again(x)))
        # Attention
        d_attended = self.out.backward_input(dy)
        side.run(partial(self.out.backward_weights, dy, kept.out_input))
        d_qkv = attend_backward(
            d_attended, kept.rotated, kept.attended, self.heads, sight, self.qkv.room
        )
        rotate_backward(d_qkv, kept.qkv, self.heads, rotation)
        keeps = kept.attention_input.x is not None
        if room_below is None:
            self.qkv.fill_backward(d_qkv)
            x = None if keeps else add_norm(normed.h, None, self.attention_norm, room=0)[0]
        else:
            dx = self.qkv.backward_input(d_qkv)
            dh, dy, x = add_norm_backward(dx, dh, self.attention_norm, normed, room_below, keeps)
        side.run(partial(self.qkv.backward_weights, d_qkv, kept.attention_input.or_again(x)))
        return dh, dy

    def gate_and_up(self, normed: Normed) -> Tensor:
        """Makes the MLP's first product again."""
        x, _ = add_norm(normed.h, None, self.mlp_norm, self.gate_up.room)
        self.gate_up.fill(x)
        return self.gate_up.product(x)
