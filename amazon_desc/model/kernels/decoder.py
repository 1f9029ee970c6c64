"""A decoder with LoRA, forward and backward by hand: Llama's layers, and Gemma 3's.

In come the weights of a PEFT model and the tokens of packed rows, out go the hidden states that the
head needs, and, in the backward pass, the gradients of the LoRA matrices. Nothing else has a
gradient, so the pass ends at the first layer's projections. The residual stream is (N, H).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from amazon_desc.model.kernels.attention import Attended, Bounds, attend, attend_backward
from amazon_desc.model.kernels.gate import gated, gated_backward
from amazon_desc.model.kernels.linear import LoraLinear
from amazon_desc.model.kernels.norm import Norm, Normed, add_norm, add_norm_backward
from amazon_desc.model.kernels.rotary import Heads, Rotation, rotate, rotate_backward


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


class Kept(NamedTuple):
    """What a layer keeps of its forward pass; LoRA's inputs only where memory is plenty.

    Those are under their masks where there is dropout.
    """

    attention_normed: Normed
    mlp_normed: Normed
    attention_x: Tensor | None
    attended_masked: Tensor | None
    mlp_x: Tensor | None
    act: Tensor | None
    factors: dict[str, Tensor]
    qkv: Tensor
    rotated: Tensor
    attended: Attended
    both: Tensor


class Batch(NamedTuple):
    """Packed rows, flattened."""

    input_ids: Tensor
    """(N) int64"""
    position_ids: Tensor
    """(N) int64"""
    bounds: Bounds


class Decoder:
    """All layers.

    Args:
        keeps: keep all activations; else those that are quick to make are made again
    """

    def __init__(
        self,
        embedding: Tensor,
        embedding_scale: float,
        layers: list[Layer],
        last_norm: Norm,
        tables: dict[str, tuple[Tensor, Tensor]],
        keeps: bool,
    ) -> None:
        self.embedding, self.embedding_scale = embedding, embedding_scale
        self.layers, self.last_norm, self.tables = layers, last_norm, tables
        self.keeps = keeps
        self.kept: list[Kept] = []
        self.last_normed: Normed | None = None

    def linears(self) -> list[LoraLinear]:
        return [linear for x in self.layers for linear in (x.qkv, x.out, x.gate_up, x.down)]

    def forward(self, batch: Batch) -> Tensor:
        """Returns the normalised hidden states, (N, H), and keeps what backward needs."""
        h = torch.nn.functional.embedding(batch.input_ids, self.embedding)
        if self.embedding_scale != 1:
            h = h * self.embedding_scale
        self.kept, y = [], None
        for layer in self.layers:
            h, y = self.forward_layer(layer, h, y, batch)
        x, _, self.last_normed = add_norm(h, y, self.last_norm, room=0)
        return x

    def forward_layer(
        self, layer: Layer, h: Tensor, y: Tensor | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        rotation = Rotation(*self.tables[layer.rotation], batch.position_ids)
        qkv_dropout, mlp_dropout = layer.qkv.dropout, layer.gate_up.dropout
        x1, masked1, normed1 = add_norm(h, y, layer.attention_norm, layer.qkv.room, qkv_dropout)
        qkv = layer.qkv.forward(x1, masked1)
        rotated = rotate(qkv, layer.heads, rotation)
        attended = attend(
            *layer.heads.split(rotated), batch.bounds, layer.attention_scale, layer.window
        )
        x2 = with_room(attended.output.flatten(1), layer.out.room)
        masked2 = layer.out.under_mask(x2)
        y = layer.out.forward(x2, masked2)
        x3, masked3, normed2 = add_norm(
            normed1.h, y, layer.mlp_norm, layer.gate_up.room, mlp_dropout
        )
        both = layer.gate_up.forward(x3, masked3)
        x4, masked4 = gated(both, layer.is_gelu, layer.down.room, layer.down.dropout)
        y = layer.down.forward(x4, masked4)
        wide = {"qkv": (x1, layer.qkv), "out": (x2, layer.out)}
        wide |= {"gate_up": (x3, layer.gate_up), "down": (x4, layer.down)}
        factors = {name: x[:, linear.num_inputs :] for name, (x, linear) in wide.items()}
        if not self.keeps:
            factors = {name: factor.clone() for name, factor in factors.items()}
        self.kept.append(
            Kept(
                normed1,
                normed2,
                layer.qkv.inputs(x1, masked1) if self.keeps else None,
                masked2 if self.keeps else None,
                layer.gate_up.inputs(x3, masked3) if self.keeps else None,
                layer.down.inputs(x4, masked4) if self.keeps else None,
                factors,
                qkv,
                rotated,
                attended,
                both,
            )
        )
        return normed2.h, y

    def backward(self, grad: Tensor, batch: Batch) -> None:
        """Adds to the gradients of all LoRA matrices; `grad` (N, H) is that of forward's output."""
        assert self.last_normed is not None
        room = self.layers[-1].down.room
        dh, dy, _ = add_norm_backward(grad, None, self.last_norm, self.last_normed, room, True)
        self.last_normed = None
        for number in reversed(range(len(self.layers))):
            below = self.layers[number - 1].down.room if number else None
            dh, dy = self.backward_layer(self.layers[number], self.kept.pop(), dh, dy, below, batch)

    def backward_layer(
        self, layer: Layer, kept: Kept, dh: Tensor, dy: Tensor, room_below: int | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of what the layer below hands on; nothing of use from the lowest.

        Args:
            dh: (N, H) that of the residual stream
            dy: (N, H + room) that of the MLP's output
        """
        rotation = Rotation(*self.tables[layer.rotation], batch.position_ids)
        keeps, factors = self.keeps, kept.factors
        # The MLP
        d_act = layer.down.backward_input(dy)
        d_both, act = gated_backward(
            kept.both, d_act, layer.is_gelu, layer.gate_up.room, keeps, layer.down.dropout
        )
        layer.down.backward_weights(dy, either(kept.act, act), factors["down"])
        dx = layer.gate_up.backward_input(d_both)
        dh, dy, x = add_norm_backward(
            dx, dh, layer.mlp_norm, kept.mlp_normed, layer.out.room, keeps, layer.gate_up.dropout
        )
        layer.gate_up.backward_weights(d_both, either(kept.mlp_x, x), factors["gate_up"])
        # Attention
        output = kept.attended.output
        d_output = layer.out.backward_input(dy).view_as(output)
        masked = kept.attended_masked if keeps else layer.out.under_mask(output.flatten(1))
        x = layer.out.inputs(output.flatten(1), masked)
        layer.out.backward_weights(dy, x, factors["out"])
        grads = attend_backward(
            d_output, *layer.heads.split(kept.rotated), kept.attended, batch.bounds,
            layer.attention_scale, layer.window,
        )  # fmt: skip
        d_qkv = rotate_backward(grads, kept.qkv, layer.heads, rotation, layer.qkv.room)
        dx = layer.qkv.backward_input(d_qkv, needs_dx=room_below is not None)
        normed, dropout = kept.attention_normed, layer.qkv.dropout
        if room_below is not None:
            dh, dy, x = add_norm_backward(
                dx, dh, layer.attention_norm, normed, room_below, keeps, dropout
            )
        elif keeps:
            x = None
        else:
            x = layer.qkv.inputs(*add_norm(normed.h, None, layer.attention_norm, 0, dropout)[:2])
        layer.qkv.backward_weights(d_qkv, either(kept.attention_x, x), factors["qkv"])
        return dh, dy


def with_room(x: Tensor, room: int) -> Tensor:
    """Returns a copy of (N, K) with room behind it, (N, K + room)."""
    wide = x.new_empty(x.shape[0], x.shape[1] + room)
    wide[:, : x.shape[1]] = x
    return wide


def either(kept: Tensor | None, made_again: Tensor | None) -> Tensor:
    x = made_again if kept is None else kept
    assert x is not None
    return x
