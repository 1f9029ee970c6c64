"""The loss of packed rows: the plain way, through transformers' own layers.

In come a model and a RowBatch, out go the summed negative log-likelihood of the target tokens and
their number. Sums, not means: only the caller knows over which tokens of a step to average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amazon_desc.data.batches import RowBatch
from amazon_desc.model.attention import Layout

if TYPE_CHECKING:
    from peft import PeftModel


def target_loss(model: PeftModel, batch: RowBatch) -> tuple[Tensor, int]:
    """Returns the loss in nats summed over the targets (float32 scalar) and the number of targets.

    The head and the cross-entropy see only the positions before a target: with completions as
    targets that is about two thirds of the row, and never the padding.
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
    logits = base.get_output_embeddings()(hidden.flatten(0, 1)[places]).float()  # (targets, vocab)
    soft_cap = getattr(base.config, "final_logit_softcapping", None)
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    targets = batch.input_ids.flatten()[places + 1]
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return loss, len(places)
