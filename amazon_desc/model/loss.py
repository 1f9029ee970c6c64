"""The loss of packed rows: the plain way, through transformers' own layers.

In come a model and a RowBatch, out go the summed negative log-likelihood of the target tokens and
their number. Sums, not means: only the caller knows over which tokens of a step to average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.model.attention import Layout
from amazon_desc.model.cost.memory import SCORED_LOGITS, positions_at_a_time
from amazon_desc.model.families import logit_cap_of

if TYPE_CHECKING:
    from peft import PeftModel


def target_loss(model: PeftModel, batch: RowBatch) -> tuple[Tensor, int]:
    """Returns the loss in nats summed over the targets (float32 scalar) and the number of targets.

    The head and the cross-entropy see only the positions before a target: with completions as
    targets that is about two thirds of the row, and never the padding. Without gradients, as for
    scores, they see a part of these at a time: logits are most of what scores would take.
    """
    base: Any = model.get_base_model()
    hidden = base.get_decoder()(  # (B, T, hidden)
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        # Exactly this keeps packed examples apart: with a mask of ones, or a cache, they would
        # attend to each other without a warning.
        attention_mask=None,
        use_cache=False,
        packed=Layout(batch.example_tokens, batch.token_places),
    ).last_hidden_state
    places = batch.before_targets
    hidden, targets = hidden.flatten(0, 1)[places], batch.input_ids.flatten()[places + 1]
    if torch.is_grad_enabled():
        return head_loss(base, hidden, targets), len(places)
    size = positions_at_a_time(base.get_output_embeddings().weight.shape[0], SCORED_LOGITS)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.stack([head_loss(base, *part) for part in parts]).sum(), len(places)


def head_loss(base: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed loss of targets (M) by the hidden states before them, (M, hidden)."""
    logits = base.get_output_embeddings()(hidden).float()  # (M, vocabulary)
    soft_cap = logit_cap_of(base.config)
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
