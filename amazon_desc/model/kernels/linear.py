"""Frozen projections of one input with their LoRA, as one product forward and one backward.

Several projections that read the same input (queries, keys, values; gate and up) stand one under
the other in one matrix. Their LoRA matrices (Hu et al. 2021) stand beside and below it:

               K columns   R columns
             +-----------+-----------+
    n rows   |  weights  | scale * B |      y  = [x, x A'] [weights, scale * B]'
             +-----------+-----------+      dx = [dy, dy scale * B] [weights; A]
    R rows   |     A     |           |
             +-----------+-----------+

so x and dy are wide: there is room for R columns after theirs. B is block-diagonal: each projection
has its own columns of the R.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amazon_desc.model.kernels.dropout import Dropout
from amazon_desc.model.kernels.nf4 import dequantize


class Projection(NamedTuple):
    """One frozen matrix, and the LoRA matrices that are trained on it."""

    weight: Tensor
    """(n, K), in 4 bits or dense"""
    bias: Tensor | None
    """(n)"""
    a: nn.Parameter | None
    """(r, K) float32; None: this one has no LoRA"""
    b: nn.Parameter | None
    """(n, r) float32"""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        state = getattr(self.weight, "quant_state", None)
        rows, columns = self.weight.shape if state is None else state.shape
        return rows, columns

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]


class Pair(NamedTuple):
    """The LoRA matrices of one projection, and where they stand in the matrix of all."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    rows: slice
    """of the outputs: b's"""
    columns: slice
    """of the low-rank factors: a's rows, b's columns"""


def bias_of(projections: list[Projection], dtype: torch.dtype) -> Tensor | None:
    """Returns the biases one after the other, (n), 0 where there is none; None: none has any."""
    if all(p.bias is None for p in projections):
        return None
    device = projections[0].weight.device
    parts = [
        torch.zeros(p.shape[0], device=device) if p.bias is None else p.bias for p in projections
    ]
    return torch.cat([part.detach().to(dtype) for part in parts])


def pairs_of(projections: list[Projection]) -> Iterator[Pair]:
    row, column = 0, 0
    for p in projections:
        num_rows, rank = p.shape[0], p.rank
        if p.a is not None and p.b is not None:
            places = slice(row, row + num_rows), slice(column, column + rank)
            yield Pair(p.a, p.b, p.scale, *places)
        row, column = row + num_rows, column + rank


class Workspace:
    """Memory for one matrix at a time, where weights are kept in 4 bits only."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.memory = torch.empty(0, dtype=dtype, device=device)

    def matrix(self, rows: int, columns: int) -> Tensor:
        if self.memory.numel() < rows * columns:
            self.memory = torch.empty(rows * columns, dtype=self.dtype, device=self.device)
        return self.memory[: rows * columns].view(rows, columns)


class SavedInput(NamedTuple):
    """What the gradients of LoRA matrices need of the input."""

    x: Tensor | None
    """(N, K), under the mask where there is dropout; None: it is recomputed"""
    factors: Tensor
    """(N, room): what stood after it"""

    def without_x(self) -> SavedInput:
        return SavedInput(None, self.factors.clone())

    def or_recomputed(self, x: Tensor | None) -> SavedInput:
        return self if self.x is not None else SavedInput(x, self.factors)


class LoraLinear:
    """The projections of one input.

    Args:
        workspace: where the matrix is made for each product; None: it is made once and kept
        dropout: the mask on the inputs of LoRA; None: there is none
    """

    def __init__(
        self,
        projections: list[Projection],
        dtype: torch.dtype,
        workspace: Workspace | None,
        dropout: Dropout | None,
    ) -> None:
        self.projections, self.pairs = projections, list(pairs_of(projections))
        self.bias = bias_of(projections, dtype)
        self.num_outputs = sum(p.shape[0] for p in projections)
        self.num_inputs = projections[0].shape[1]
        self.room = -(-sum(p.rank for p in projections) // 8) * 8  # products want 16 bytes
        self.workspace = workspace
        self.dropout = dropout
        self.a_grad: Tensor | None = None
        device = projections[0].weight.device
        rows, columns = self.num_outputs + self.room, self.num_inputs + self.room
        # The LoRA blocks in the precision of the products, copied there once a step.
        if workspace is not None:
            self.a = torch.zeros(self.room, self.num_inputs, dtype=dtype, device=device)
            self.b = torch.zeros(self.num_outputs, self.room, dtype=dtype, device=device)
        else:
            self.kept = torch.zeros(rows, columns, dtype=dtype, device=device)
            self.write_weights(self.kept)
            self.a = self.kept[self.num_outputs :, : self.num_inputs]
            self.b = self.kept[: self.num_outputs, self.num_inputs :]

    def write_weights(self, matrix: Tensor) -> None:
        row = 0
        for projection in self.projections:
            part = matrix[row : row + projection.shape[0], : self.num_inputs]
            if hasattr(projection.weight, "quant_state"):
                dequantize(projection.weight, part)
            else:
                part.copy_(projection.weight)
            row += projection.shape[0]

    def copies(self) -> list[tuple[Tensor, Tensor, float]]:
        """Returns (master, its place in the matrix, factor) of all LoRA matrices."""
        found = []
        for pair in self.pairs:
            found.append((pair.a, self.a[pair.columns], 1.0))
            found.append((pair.b, self.b[pair.rows, pair.columns], pair.scale))
        return found

    def matrix(self) -> Tensor:
        if self.workspace is None:
            return self.kept
        rows, columns = self.num_outputs + self.room, self.num_inputs + self.room
        matrix = self.workspace.matrix(rows, columns)
        self.write_weights(matrix)
        matrix[self.num_outputs :, : self.num_inputs] = self.a
        matrix[: self.num_outputs, self.num_inputs :] = self.b
        return matrix

    def fill(self, x: Tensor, masked: Tensor | None) -> SavedInput:
        """Writes the low-rank factors into the room after `x`, (N, K + room).

        Args:
            masked: (N, K) `x` under the mask; None without dropout
        """
        assert (masked is None) == (self.dropout is None), "a mask is there or is not"
        inputs, factors = x[:, : self.num_inputs], x[:, self.num_inputs :]
        inputs = inputs if masked is None else masked
        if self.room:
            torch.mm(inputs, self.a.t(), out=factors)
        return SavedInput(inputs, factors)

    def under_mask(self, x: Tensor) -> Tensor | None:
        """Returns `x` (N, K or more) under the mask, (N, K); None without dropout."""
        return None if self.dropout is None else self.dropout(x[:, : self.num_inputs])

    def product(self, x: Tensor) -> Tensor:
        """Returns (N, n) of an `x` that is filled."""
        weights = self.matrix()[: self.num_outputs].t()
        return x @ weights if self.bias is None else torch.addmm(self.bias, x, weights)

    def fill_backward(self, dy: Tensor) -> None:
        """Writes the gradient of the low-rank factors into the room after `dy`, (N, n + room)."""
        if self.room:
            torch.mm(dy[:, : self.num_outputs], self.b, out=dy[:, self.num_outputs :])

    def backward_input(self, dy: Tensor) -> Tensor:
        """Returns the gradient of the input, (N, K); fills the room after `dy`, (N, n + room)."""
        self.fill_backward(dy)
        matrix = self.matrix()
        if self.dropout is None or not self.room:
            return dy @ matrix[:, : self.num_inputs]
        dx = dy[:, : self.num_outputs] @ matrix[: self.num_outputs, : self.num_inputs]
        self.dropout.add_product(dy[:, self.num_outputs :], self.a, dx)
        return dx

    def backward_weights(self, dy: Tensor, given: SavedInput) -> None:
        """Adds to the gradients of the LoRA matrices.

        Args:
            dy: (N, n + room) the gradient of the output, filled
        """
        if not self.room:
            return
        assert self.a_grad is not None, "attach_gradients() comes first"
        assert given.x is not None
        factor_grads = dy[:, self.num_outputs : self.num_outputs + len(self.a_grad)]
        add_product(self.a_grad, factor_grads, given.x, 1.0)
        for pair in self.pairs:
            assert pair.b.grad is not None
            factors = given.factors[:, pair.columns]
            add_product(pair.b.grad, dy[:, pair.rows], factors, pair.scale)

    def gradient_sizes(self) -> list[int]:
        """Returns how many numbers the gradients have that attach_gradients() takes memory for."""
        num_factors = sum(p.rank for p in self.projections)
        return [num_factors * self.num_inputs, *(pair.b.numel() for pair in self.pairs)]

    def attach_gradients(self, memory: Iterator[Tensor]) -> None:
        """Gives the LoRA matrices gradients that stay where they are; A's are one matrix.

        Args:
            memory: float32 of at least as many numbers as gradient_sizes() says, each
        """
        sizes = self.gradient_sizes()
        first, *others = (next(memory)[:size] for size in sizes)
        self.a_grad = first.view(-1, self.num_inputs)
        for pair, part in zip(self.pairs, others, strict=True):
            pair.a.grad = self.a_grad[pair.columns]
            pair.b.grad = part.view_as(pair.b)

    def has_gradients(self) -> bool:
        """Says whether the LoRA matrices still have them: others may have taken them away."""
        if not self.pairs or self.a_grad is None:
            return not self.pairs
        grad = self.pairs[0].a.grad
        return grad is not None and grad.data_ptr() == self.a_grad.data_ptr()


@contextmanager
def without_dropout(linears: list[LoraLinear]) -> Iterator[None]:
    before = [linear.dropout for linear in linears]
    for linear in linears:
        linear.dropout = None
    try:
        yield
    finally:
        for linear, dropout in zip(linears, before, strict=True):
            linear.dropout = dropout


def add_product(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Adds scale * left' right to a float32 matrix, summed up in float32."""
    if left.is_cuda:
        torch.addmm(total, left.t(), right, alpha=scale, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.t().float(), right.float(), alpha=scale)
