"""Which path trains: the fused one of kernels/, or transformers' and PEFT's own layers.

In come a model and what is asked for, out goes a FusedStep or None, and a sentence that says why.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from amazon_desc.errors import UserError
from amazon_desc.model.kernels import known

if TYPE_CHECKING:
    from peft import PeftModel

    from amazon_desc.model.kernels.step import FusedStep

Kernels = Literal["auto", "fused", "plain"]

OLDEST_CAPABILITY = (8, 0)  # of cards with bf16 and FlashAttention
# Of the memory that is free, what dense weights and kept activations may take.
SHARE = 0.6


class Path(NamedTuple):
    """The path that was chosen, and why."""

    fused: FusedStep | None
    reason: str


def choose_path(
    model: PeftModel,
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
    num_tokens: int,
) -> Path:
    """Chooses how to train.

    Args:
        dtype: of the products
        longest: no example has more tokens
        num_tokens: of a micro-batch, padding counted

    Raises:
        UserError: `fused` is asked for, and cannot be.
    """
    if kernels == "plain":
        return Path(None, "Kernels: plain, as asked for.")
    why_not = obstacle(model, device, dtype)
    if why_not is None:
        return fused_path(model, device, dtype, longest, num_tokens)
    if kernels == "fused":
        raise UserError(f"--model.kernels fused: {why_not}. Set it to auto or plain.")
    return Path(None, f"Kernels: plain: {why_not}.")


def obstacle(model: PeftModel, device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns what is in the way of the fused path, or None."""
    if device.type != "cuda":
        return f"the device is {device.type}, not cuda"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is too old for FlashAttention"
    if dtype == torch.float32:
        return "they compute in bf16 or fp16, not in float32"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return known.obstacle(model)


def fused_path(
    model: PeftModel, device: torch.device, dtype: torch.dtype, longest: int, num_tokens: int
) -> Path:
    from amazon_desc.model.kernels import collecting
    from amazon_desc.model.kernels.step import FusedStep

    base: Any = model.get_base_model()
    free = SHARE * torch.cuda.mem_get_info(device)[0]
    dense, kept = known.memory(model, num_tokens)
    is_resident, recompute = dense + kept < free, "none" if kept < free else "parts"
    seed = torch.zeros((), dtype=torch.int64, device=device)
    decoder = collecting.collect(model, dtype, seed, longest, is_resident, recompute)
    head = base.get_output_embeddings().weight.detach()
    cap = getattr(base.config, "final_logit_softcapping", None)
    step = FusedStep(decoder, head, cap, seed, captures=True)
    weights = "dense beside their 4 bits" if is_resident else "in 4 bits only"
    activations = "kept" if recompute == "none" else "partly made again"
    return Path(step, f"Kernels: fused; weights {weights}, activations {activations}.")
