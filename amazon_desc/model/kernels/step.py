"""A training step on the fused path: loss and gradients of packed rows, as one node of autograd.

Forward and backward of the decoder are captured as two CUDA graphs for each size of micro-batch,
after a few of that size were met; between the two the head runs on as many targets as there are.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.model.kernels.compiling import compiled_together
from amazon_desc.model.kernels.copying import Copies
from amazon_desc.model.kernels.decoder import Batch, Decoder
from amazon_desc.model.kernels.head import head_loss
from amazon_desc.model.kernels.linear import without_dropout

NUM_EAGER = 2  # micro-batches of a size before it is captured
ALIGNED = 64  # numbers: products are faster on what begins at a multiple of 256 bytes


class FusedStep:
    """Loss and gradients of a decoder with its head.

    Args:
        head: (V, H) its weights
        cap: soft cap of the logits; None: there is none
        scale: what the logits are multiplied by before that
        seed: () int64, what the decoder's dropout reads
        captures: whether CUDA graphs are made
    """

    def __init__(
        self,
        decoder: Decoder,
        head: Tensor,
        cap: float | None,
        scale: float,
        seed: Tensor,
        captures: bool,
    ) -> None:
        self.decoder, self.head, self.cap, self.scale = decoder, head, cap, scale
        self.seed, self.captures = seed, captures
        self.graphs: dict[int, Graphs] = {}
        self.pool: Any = None  # one for all: what is kept of a forward pass goes with its backward
        self.num_met = Counter[int]()
        self.is_compiled = not captures
        self.anchor = torch.zeros((), device=head.device, requires_grad=True)
        self.linears = decoder.linears()
        self.copies = Copies([copy for linear in self.linears for copy in linear.copies()])
        self.gradients = torch.zeros(0, device=head.device)

    def begin(self) -> None:
        """Takes the weights as they are now, and gives them gradients; before each step."""
        if not all(linear.has_gradients() for linear in self.linears):
            self.attach_gradients()
        self.copies.run()

    def attach_gradients(self) -> None:
        """Gives the LoRA matrices gradients of 0, all in one piece of memory."""
        self.release()  # graphs would add to the old ones
        trained = [linear for linear in self.linears if linear.pairs]
        sizes = [size for linear in trained for size in linear.gradient_sizes()]
        sizes = [-(-size // ALIGNED) * ALIGNED for size in sizes]
        self.gradients = torch.zeros(sum(sizes), device=self.head.device)
        memory = iter(self.gradients.split(sizes))
        for linear in trained:
            linear.attach_gradients(memory)

    def release(self) -> None:
        """Gives back the memory that graphs hold between steps; the next steps capture anew."""
        if self.graphs:
            self.graphs.clear()
            self.pool = None  # it goes with them
            torch.cuda.empty_cache()

    def loss(self, batch: RowBatch, seed: int) -> tuple[Tensor, int]:
        """Returns what loss.target_loss does: nats summed over the targets, and their number.

        Args:
            seed: decides the dropout masks
        """
        if not self.is_compiled:
            self.compile(batch)
        self.seed.fill_(seed)
        loss = _Loss.apply(self.anchor, self, batch)  # pyright: ignore[reportAssignmentType]
        assert isinstance(loss, Tensor)
        return loss, len(batch.before_targets)

    def score(self, batch: RowBatch) -> tuple[Tensor, int]:
        """Returns what loss() does, without dropout, and without gradients to come."""
        self.copies.run()
        with without_dropout(self.linears):
            hidden = self.decoder.forward(flattened(batch), keeps=False)
        return self.head_loss(hidden, batch)[0], len(batch.before_targets)

    def compile(self, batch: RowBatch) -> None:
        """Compiles all kernels together, with gradients that are 0 before and after it."""
        with compiled_together(self.head.device):
            self.backward(batch, self.forward(batch)[1])
        self.gradients.zero_()
        self.num_met.clear()
        self.is_compiled = True

    def forward(self, batch: RowBatch) -> tuple[Tensor, Tensor]:
        """Returns the summed loss, and the gradient of the hidden states before targets."""
        flat = flattened(batch)
        size = len(flat.input_ids)
        self.num_met[size] += 1
        if self.captures and size not in self.graphs and self.num_met[size] > NUM_EAGER:
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.graphs[size] = Graphs(self.decoder, flat, self.pool)
        if size in self.graphs:
            hidden = self.graphs[size].forward(flat)
        else:
            hidden = self.decoder.forward(flat)
        return self.head_loss(hidden, batch)

    def head_loss(self, hidden: Tensor, batch: RowBatch) -> tuple[Tensor, Tensor]:
        """Returns the summed loss, and the gradient of the hidden states before targets."""
        targets = batch.input_ids.flatten()[batch.before_targets + 1]
        return head_loss(hidden, self.head, batch.before_targets, targets, self.cap, self.scale)

    def backward(self, batch: RowBatch, grad: Tensor) -> None:
        """Adds to the gradients of the LoRA matrices.

        Args:
            grad: (M, H) of the hidden states before targets
        """
        flat = flattened(batch)
        size = len(flat.input_ids)
        if size in self.graphs:
            self.graphs[size].backward(batch.before_targets, grad)
        else:
            full = grad.new_zeros(size, grad.shape[1])
            full[batch.before_targets] = grad
            self.decoder.backward(full, flat)


def flattened(batch: RowBatch) -> Batch:
    return Batch(batch.input_ids.flatten(), batch.position_ids.flatten())


class _Loss(torch.autograd.Function):
    """Hands the gradient of the loss, which Lightning and a scaler decide, to the step."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, step: FusedStep, batch: RowBatch) -> Tensor:
        loss, ctx.grad = step.forward(batch)
        ctx.step, ctx.batch = step, batch
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        ctx.step.backward(ctx.batch, ctx.grad * grads[0])
        return None, None, None


class Graphs:
    """Forward and backward of a decoder, captured for one size."""

    def __init__(self, decoder: Decoder, batch: Batch, pool: Any) -> None:
        self.batch = Batch(batch.input_ids.clone(), batch.position_ids.clone())
        self.forward_graph, self.backward_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Other threads, such as a loader's that pins memory, may go on meanwhile.
        mode = "thread_local"
        torch.cuda.synchronize()
        with torch.cuda.graph(self.forward_graph, pool=pool, capture_error_mode=mode):
            self.hidden = decoder.forward(self.batch)
        self.grad = torch.zeros_like(self.hidden)
        with torch.cuda.graph(self.backward_graph, pool=pool, capture_error_mode=mode):
            decoder.backward(self.grad, self.batch)

    def forward(self, batch: Batch) -> Tensor:
        self.batch.input_ids.copy_(batch.input_ids)
        self.batch.position_ids.copy_(batch.position_ids)
        self.forward_graph.replay()
        return self.hidden

    def backward(self, places: Tensor, grad: Tensor) -> None:
        self.grad.zero_()
        self.grad[places] = grad
        self.backward_graph.replay()
