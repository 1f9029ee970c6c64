"""Which path trains: the fused one of kernels/, or transformers' and PEFT's own layers.

In come a model and what is asked for, out goes a FusedStep or None, and a sentence that says why.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.cost.memory import SHARE_OF_CARD, memory
from amazon_desc.model.kernels import supported
from amazon_desc.model.recomputation import Recompute, RecomputeOption
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

    from amazon_desc.model.kernels.step import FusedStep

Kernels = Literal["auto", "fused", "plain"]

OLDEST_CAPABILITY = (8, 0)  # of cards with bf16, and the shared memory that the kernels take
WEIGHTS = {
    ("nf4", True): "dense beside their 4 bits",
    ("nf4", False): "in 4 bits only",
    ("none", True): "once more in one matrix with LoRA's",
    ("none", False): "as they are",
}
MADE_AGAIN: dict[Recompute, str] = {
    "none": "activations kept",
    "parts": "what is quick to make made again",
    "mlp": "what is quick to make and the MLP's first product made again",
    "layers": "layers made again",
}


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
    recompute: RecomputeOption = "auto",
) -> Path:
    """Chooses how to train.

    Args:
        dtype: of the products
        longest: no example has more tokens
        num_tokens: of a micro-batch, padding counted
        recompute: what is made again; auto: as little as the memory that is free allows

    Raises:
        UserError: what is asked for cannot be.
    """
    if kernels == "plain":
        return plain_path(model, recompute, ", as asked for")
    why_not = obstacle(model, device, dtype)
    if why_not is None:
        return fused_path(model, device, dtype, longest, num_tokens, recompute)
    if kernels == "fused":
        raise UserError(f"--model.kernels fused: {why_not}. Set it to auto or plain.")
    return plain_path(model, recompute, f": {why_not}")


def dtype_of(precision: Any) -> torch.dtype:
    """Returns in what products are computed, by the name of the trainer's precision."""
    if str(precision).startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if str(precision).startswith("16") else torch.float32


def obstacle(model: PeftModel, device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns what is in the way of the fused path, or None."""
    return device_obstacle(device, dtype) or supported.obstacle(model)


def device_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns what about this machine is in the way of the fused path, or None."""
    if device.type != "cuda":
        return f"the device is {device.type}, not cuda"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is too old for them"
    if dtype == torch.float32:
        return "they compute in bf16 or fp16, not in float32"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def fused_path(
    model: PeftModel,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
    num_tokens: int,
    recompute: RecomputeOption,
) -> Path:
    from amazon_desc.model.kernels import from_peft as collecting
    from amazon_desc.model.kernels.step import FusedStep

    base: Any = model.get_base_model()
    lora = lora_of(model)
    counted: dict[str, Any] = {"quantization": quantization_of(base)}
    loaded = memory(base.config, lora, num_tokens, "parts", **counted).loaded
    free = SHARE_OF_CARD * (torch.cuda.mem_get_info(device)[0] + loaded)
    way = fastest_way(base.config, lora, num_tokens, free, recompute, **counted)
    seed = torch.zeros((), dtype=torch.int64, device=device)
    decoder = collecting.collect(model, dtype, seed, longest, *way)
    head = base.get_output_embeddings().weight.detach()
    cap = getattr(base.config, "final_logit_softcapping", None)
    step = FusedStep(decoder, head, cap, seed, captures=True)
    weights = WEIGHTS[counted["quantization"], way.is_dense]
    return Path(step, f"Kernels: fused; weights {weights}, {MADE_AGAIN[way.recompute]}.")


def plain_path(model: PeftModel, recompute: RecomputeOption, reason: str) -> Path:
    """Returns transformers' and PEFT's layers, which autograd has whole ones of made again.

    Raises:
        UserError: parts of layers are asked to be made again, which only fused kernels do.
    """
    base: Any = model.get_base_model()
    if recompute in ("parts", "mlp"):
        raise UserError(
            f"--model.recompute {recompute}: only fused kernels can do that, but they are "
            f"plain{reason}. Set it to none or layers."
        )
    if recompute == "layers":  # in transformers 5.17 it has its older name
        is_old = not hasattr(base, "activation_checkpointing_enable")
        name = f"{'gradient' if is_old else 'activation'}_checkpointing_enable"
        getattr(base, name)({"use_reentrant": False})
    made_again = f"; {MADE_AGAIN['layers']}" if recompute == "layers" else ""
    return Path(None, f"Kernels: plain{reason}{made_again}.")


def quantization_of(base: Any) -> Literal["nf4", "none"]:
    return "nf4" if getattr(base, "is_loaded_in_4bit", False) else "none"


def lora_of(model: PeftModel) -> LoraSettings:
    """Returns the settings that a model's LoRA was attached or loaded with."""
    config: Any = model.peft_config[supported.ADAPTER]
    # PEFT turns all-linear into the names of all modules.
    targets = sorted({name.rsplit(".", 1)[-1] for name in config.target_modules})
    return LoraSettings(
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=targets,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )


class Way(NamedTuple):
    """How the fused path trains."""

    is_dense: bool
    recompute: Recompute


FASTEST_FIRST = (
    Way(True, "none"),
    Way(False, "none"),
    Way(False, "parts"),
    Way(False, "mlp"),
    Way(False, "layers"),
)


def fastest_way(
    config: Any,
    lora: LoraSettings,
    num_tokens: int,
    free: float,
    recompute: RecomputeOption = "auto",
    **counted: Any,
) -> Way:
    """Returns the fastest way of the fused path that fits, or else the leanest.

    Args:
        free: bytes for all that is counted, as they are before a base is loaded
        recompute: what is made again, if that is decided
        counted: further arguments of memory()
    """
    ways = FASTEST_FIRST
    if recompute != "auto":
        ways = (Way(True, recompute), Way(False, recompute))
    for way in ways:
        needed = memory(config, lora, num_tokens, way.recompute, is_dense=way.is_dense, **counted)
        if needed.total <= free:
            return way
    return ways[-1]
