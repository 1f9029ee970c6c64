"""Attention of one new token to those before it, on a CPU.

In come the query of a token, keys and values of its text, out goes what it attends to. torch's own
kernel multiplies one text after the other; here two products do it for all texts at once. A prompt,
and all that is not in float32, is attended by transformers' own function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from amazon_desc.model import attention

NAME = "amazon_desc_cached"


def for_writing(model: Any, device: torch.device) -> str:
    """Returns the attention that a model should write with, made known to transformers.

    Ours stands for torch's own: a family that needs another one keeps it.
    """
    mine = model.config._attn_implementation
    if mine not in (attention.NAME, "sdpa") or device.type != "cpu":
        return mine
    if model.dtype != torch.float32:
        return mine
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, cached_attention)
    AttentionMaskInterface.register(NAME, cached_mask)
    return NAME


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attends to all that is kept; query, key and value are (B, heads, tokens, dim).

    Returns (B, tokens, heads, dim).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    num_texts, num_heads, num_queries, dim = query.shape
    if num_queries > 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    if options.get("softcap") is not None:  # as in model/attention.py
        raise NotImplementedError("sdpa attention has no soft cap")
    # heads that share a key are rows of one product
    scale = dim**-0.5 if scaling is None else scaling
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    grouped = query.reshape(len(keys), -1, dim)
    if attention_mask is None:
        scores = torch.bmm(grouped, keys.mT).mul_(scale)
    else:  # scaled and masked within the product, which is one pass over all scores
        mask = attention_mask
        if mask.shape[1] > 1:  # of each head its own (Doge)
            mask = mask.reshape(num_texts, key.shape[1], -1, mask.shape[-1])
        mask = mask.expand(-1, key.shape[1], grouped.shape[1], -1).flatten(0, 1)
        scores = torch.baddbmm(mask, grouped, keys.mT, alpha=scale)
    attended = torch.bmm(scores.softmax(-1), values)
    return attended.view(num_texts, 1, num_heads, value.shape[-1]), None


def cached_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor | None:
    """Returns what is added to the scores of one new token: (B, 1, 1, tokens), -inf for padding.

    The mask of a prompt is that of transformers.
    """
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    sees_all = mask_function is causal_mask_function and kv_offset == 0
    if q_length > 1 or not sees_all or attention_mask is None:
        more = {"q_offset": q_offset, "kv_offset": kv_offset, "mask_function": mask_function}
        mask = sdpa_mask(
            batch_size, q_length, kv_length, attention_mask=attention_mask, **more, **options
        )
        return mask if mask is None or q_length > 1 else added(mask)
    return None if attention_mask.all() else added(attention_mask[:, None, None, :kv_length])


def added(is_seen: Tensor) -> Tensor:
    """Returns 0 where a token is seen and -inf where not."""
    return torch.zeros(is_seen.shape).masked_fill_(~is_seen, -torch.inf)
