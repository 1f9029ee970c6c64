"""The loss of packed rows: the plain way, through transformers' own layers.

In come a model and a RowBatch, out go the summed negative log-likelihood of the target tokens and
their number, or, to score it, what the model makes of each target. Sums, not means: only the caller
knows over which tokens of a step to average. Where a base cannot keep the examples of a packed row
apart, each of them is a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.model.attention import Layout, is_packed
from amazon_desc.model.cost.memory import LOGITS, SCORED_LOGITS, positions_at_a_time
from amazon_desc.model.families import logit_cap_of, logit_scale_of
from amazon_desc.model.overflow import own_precision

if TYPE_CHECKING:
    from peft import PeftModel


def target_loss(model: PeftModel, batch: RowBatch) -> tuple[Tensor, int]:
    """Returns the loss in nats summed over the targets (float32 scalar) and the number of targets.

    The head and the cross-entropy see only the positions before a target: with completions as
    targets that is about two thirds of the row, and never the padding. Logits are most of what
    scores would take, and much of what training does where the vocabulary is large: then they see a
    part of these positions at a time, and the backward pass makes its logits again.
    """
    base: Any = model.get_base_model()
    with own_precision(base, batch.input_ids.device):
        return loss_of_targets(base, batch)


def loss_of_targets(base: Any, batch: RowBatch) -> tuple[Tensor, int]:
    num_targets = len(batch.before_targets)
    most_logits = LOGITS if torch.is_grad_enabled() else SCORED_LOGITS
    parts = targets_in_parts(base, batch, most_logits)
    if torch.is_grad_enabled() and len(parts) == 1:
        return head_loss(base, *parts[0]), num_targets
    # without gradients it only calls the function
    losses = [checkpoint(head_loss, base, *part, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum(), num_targets  # pyright: ignore[reportArgumentType]


class TargetScores(NamedTuple):
    """What a model makes of each of M targets."""

    losses: Tensor
    """(M) float32: nats"""
    is_right: Tensor
    """(M) bool: no other token is likelier"""


@torch.no_grad()
def target_scores(model: PeftModel, batch: RowBatch) -> TargetScores:
    """Returns loss and hit of each target, in the order of `batch.before_targets`."""
    base: Any = model.get_base_model()
    with own_precision(base, batch.input_ids.device):
        parts = targets_in_parts(base, batch, SCORED_LOGITS)
        scores = [head_scores(base, *part) for part in parts]
    losses, is_right = zip(*scores, strict=True)
    return TargetScores(torch.cat(losses), torch.cat(is_right))


def targets_in_parts(base: Any, batch: RowBatch, most_logits: int) -> list[tuple[Tensor, Tensor]]:
    """Returns the hidden states before targets, (m, hidden), and these (m), as many at a time as
    have that many logits; without a target one part of none."""
    places = batch.before_targets
    hidden = hidden_states(base, batch).flatten(0, 1)[places]
    targets = batch.input_ids.flatten()[places + 1]
    size = positions_at_a_time(base.get_output_embeddings().weight.shape[0], most_logits)
    return list(zip(hidden.split(size), targets.split(size), strict=True))


def hidden_states(base: Any, batch: RowBatch) -> Tensor:
    """Returns the last hidden states, (B, T, hidden), in which no example sees another."""
    if not is_packed(base.config):
        return unpacked_hidden_states(base, batch)
    return base.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        # Exactly this keeps packed examples apart: with a mask of ones, or a cache, they would
        # attend to each other without a warning.
        attention_mask=None,
        use_cache=False,
        packed=Layout(batch.example_tokens, batch.token_places),
    ).last_hidden_state


def unpacked_hidden_states(base: Any, batch: RowBatch) -> Tensor:
    """Returns the last hidden states of examples that were rows of their own; zeros for padding.

    What fills a shorter example up comes after it, where a causal model does not look.
    """
    ids = batch.input_ids.flatten()
    states: list[Tensor] = []
    places: list[Tensor] = []
    for tokens, is_token in of_similar_length(batch.example_tokens):
        found = base.get_decoder()(input_ids=ids[tokens], use_cache=False).last_hidden_state
        states.append(found[is_token])
        places.append(tokens[is_token])
    hidden = torch.cat(states)
    empty = hidden.new_zeros(len(ids), hidden.shape[-1])
    return empty.index_copy(0, torch.cat(places), hidden).view(*batch.input_ids.shape, -1)


def of_similar_length(example_tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields parts of `example_tokens`, and which of their places are tokens, not repetition.

    The longest example of a part has less than twice the shortest one's tokens, so that all parts
    together have less than twice the tokens that there are.

        example_tokens = [[0, 1, 2, 3], [4, 5, 5, 5], [6, 7, 8, 8]]
        parts          = [[0, 1, 2, 3], [6, 7, 8, 8]] and [[4, 5]]
    """
    lengths = 1 + (example_tokens[:, 1:] > example_tokens[:, :-1]).sum(1)
    longest = int(lengths.max())
    while longest:
        chosen = (lengths <= longest) & (2 * lengths > longest)
        part = example_tokens[chosen, :longest]
        yield part, torch.arange(longest, device=part.device) < lengths[chosen, None]
        shorter = lengths[2 * lengths <= longest]
        longest = int(shorter.max()) if len(shorter) else 0


def head_loss(base: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed loss of targets (M) by the hidden states before them, (M, hidden)."""
    return torch.nn.functional.cross_entropy(logits_of(base, hidden), targets, reduction="sum")


def head_scores(base: Any, hidden: Tensor, targets: Tensor) -> TargetScores:
    """Returns loss and hit of each of M targets by the hidden states before them, (M, hidden)."""
    logits = logits_of(base, hidden)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return TargetScores(losses, logits.argmax(-1) == targets)


def logits_of(base: Any, hidden: Tensor) -> Tensor:
    """Returns the logits in float32, (..., vocabulary), by hidden states, (..., hidden)."""
    logits = base.get_output_embeddings()(hidden).float() * logit_scale_of(base.config)
    soft_cap = logit_cap_of(base.config)
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
