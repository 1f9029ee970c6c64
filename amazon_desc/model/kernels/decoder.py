"""All layers of a decoder with LoRA, forward and backward by hand.

In come the weights of a PEFT model and the tokens of packed rows, out go the hidden states that the
head needs, and, in the backward pass, the gradients of the LoRA matrices. Nothing else has a
gradient, so the pass ends at the first layer's projections. What is not kept of the forward pass is
recomputed in the backward pass, by the same kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amazon_desc.model.kernels.attention import Visibility
from amazon_desc.model.kernels.layer import Layer, SavedLayer
from amazon_desc.model.kernels.linear import LoraLinear
from amazon_desc.model.kernels.norm import Norm, SavedNorm, add_norm, add_norm_backward
from amazon_desc.model.kernels.rotary import Rotation
from amazon_desc.model.kernels.side_stream import SideStream
from amazon_desc.model.recomputation import Recompute


class Batch(NamedTuple):
    """Packed rows, flattened."""

    input_ids: Tensor
    """(N) int64"""
    position_ids: Tensor
    """(N) int64: of each token in its example; padding is examples too, none of them longer"""


class Decoder:
    """All layers.

    Args:
        tables: cosines and sines of every position an example may have, by the kind of rotation
        recompute: what of the forward pass is recomputed
    """

    def __init__(
        self,
        embedding: Tensor,
        embedding_scale: float,
        layers: list[Layer],
        last_norm: Norm,
        tables: dict[str, tuple[Tensor, Tensor]],
        recompute: Recompute,
    ) -> None:
        self.embedding, self.embedding_scale = embedding, embedding_scale
        self.layers, self.last_norm, self.tables = layers, last_norm, tables
        self.recompute: Recompute = recompute
        self.kept: list[tuple[SavedNorm, SavedLayer | None]] = []
        self.last_normed: SavedNorm | None = None
        # What the other stream reads is held longer: not where memory is short.
        self.side = SideStream(embedding.device, is_used=recompute == "none")

    def linears(self) -> list[LoraLinear]:
        return [linear for x in self.layers for linear in (x.qkv, x.out, x.gate_up, x.down)]

    def positions(self, layer: Layer, batch: Batch) -> tuple[Rotation, Visibility]:
        """Returns what a layer wants to know of the tokens' positions."""
        cos, sin = self.tables[layer.rotation]
        visibility = Visibility(batch.position_ids, len(cos), layer.attention_scale, layer.window)
        return Rotation(cos, sin, batch.position_ids), visibility

    def embedded(self, batch: Batch, keeps: bool) -> Tensor:
        """Returns what the first layer reads, (N, H)."""
        h = torch.nn.functional.embedding(batch.input_ids, self.embedding)
        return h if self.embedding_scale == 1 else h * self.embedding_scale

    def forward(self, batch: Batch, keeps: bool = True) -> Tensor:
        """Returns the normalised hidden states, (N, H).

        Args:
            keeps: what backward() needs
        """
        h, y = self.embedded(batch, keeps), None
        self.kept = []
        for layer in self.layers:
            x, masked, normed = layer.begin(h, y)
            positions = self.positions(layer, batch)
            kept, act = layer.forward(x, masked, normed.h, *positions, self.recompute)
            h, y = kept.normed.h, layer.down.product(act)
            if keeps:
                self.kept.append((normed, None if self.recompute == "layers" else kept))
            del x, masked, normed, kept, act  # or they would live as long as the next layer's
        x, _, last_normed = add_norm(h, y, self.last_norm, room=0)
        self.last_normed = last_normed if keeps else None
        return x

    def backward(self, grad: Tensor, batch: Batch) -> None:
        """Adds to the gradients of all LoRA matrices; `grad` (N, H) is that of forward's output."""
        assert self.last_normed is not None
        room = self.layers[-1].down.room
        dh, dy, _ = add_norm_backward(grad, None, self.last_norm, self.last_normed, room, True)
        self.last_normed = None
        for number in reversed(range(len(self.layers))):
            layer, positions = self.layers[number], self.positions(self.layers[number], batch)
            normed, kept = self.kept.pop()
            if kept is None:
                x, masked, _ = layer.begin(normed.h, None)
                kept, _ = layer.forward(x, masked, normed.h, *positions, "none")
                del x, masked
            below = self.layers[number - 1].down.room if number else None
            dh, dy = layer.backward(kept, normed, dh, dy, below, *positions, self.side)
            del kept
            self.side.turn()
        self.side.join()
