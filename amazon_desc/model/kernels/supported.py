"""What the fused path knows: which models it can train.

In comes a PEFT model, or only its configuration, out goes what is in its way. No kernel is needed
to tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amazon_desc.model.cost.shape import head_dim
from amazon_desc.model.families import ATTENTION, MLP, activation_of, family_of, rotary_of

if TYPE_CHECKING:
    from peft import PeftModel

ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
ROTARY_KINDS = ("default", "linear", "llama3")
ADAPTER = "default"
LINEARS = (*ATTENTION, *MLP)


def obstacle(model: PeftModel) -> str | None:
    """Returns what about a model, loaded or its skeleton, the fused path does not know, or None."""
    base: Any = model.get_base_model()
    if (reason := config_obstacle(base.config)) is not None:
        return reason
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if hasattr(module, "lora_A") and last not in LINEARS:
            return f"they have no LoRA on {last}"
        if hasattr(module, "lora_A") and hasattr(module, "parameter_name"):
            return f"they have no LoRA on a parameter ({last}.{module.parameter_name})"
        linear = getattr(module, "base_layer", module)
        if getattr(module, "lora_magnitude_vector", None):
            return "they have no DoRA"
        if (variant := getattr(module, "lora_variant", {}).get(ADAPTER)) is not None:
            return f"they have no {type(variant).__name__}"
        state = getattr(getattr(linear, "weight", None), "quant_state", None)
        if state is not None and not (state.quant_type == "nf4" and state.nested):
            return f"they read NF4 with double quantisation only, not {state.quant_type}"
    return quantization_obstacle(base.config) or untrained(model)


def quantization_obstacle(config: Any) -> str | None:
    """Returns what about a base that is published in 4 bits the fused path cannot read, or None."""
    found: Any = getattr(config, "quantization_config", None)
    settings = found if isinstance(found, dict) or found is None else found.to_dict()
    if settings and not settings.get("bnb_4bit_use_double_quant"):
        return "they read NF4 with double quantisation only"
    return None


def untrained(model: PeftModel) -> str | None:
    """Returns what is to be trained besides LoRA's two matrices, and would get no gradient."""
    if list(model.peft_config) != [ADAPTER]:
        return f"they train one adapter, not {len(model.peft_config)}"
    known = tuple(f"lora_{matrix}.{ADAPTER}.weight" for matrix in "AB")
    others = (n for n, p in model.named_parameters() if p.requires_grad and not n.endswith(known))
    other = next(others, None)
    return None if other is None else f"they train lora_A and lora_B only, not {other}"


def config_obstacle(config: Any) -> str | None:
    """Returns what about a decoder's configuration the fused path does not know, or None."""
    family, activation = family_of(config), activation_of(config)
    if family is None or activation not in ACTIVATIONS:
        return f"they have no layers of {config.model_type} with {activation}"
    kinds = {rope["rope_type"] for rope in rotary_of(config)}
    if not kinds <= set(ROTARY_KINDS):
        return f"they have no rotary positions of the kind {', '.join(sorted(kinds))}"
    if any(rope.get("partial_rotary_factor", 1) != 1 for rope in rotary_of(config)):
        return "they have no rotary positions of a part of a head"
    for setting in (family.score_cap, "use_bidirectional_attention", "attention_dropout"):
        if setting is not None and getattr(config, setting, None):
            return f"they have no attention with {setting}"
    dim = head_dim(config)
    if dim % 8 or dim > 256:
        return f"they have no heads of {dim} numbers"
    return None


def dropout_of(module: Any) -> float:
    """Returns the share of LoRA's inputs that a module zeroes; 0 where it has no LoRA."""
    dropout = getattr(module, "lora_dropout", {ADAPTER: None})[ADAPTER]
    return float(getattr(dropout, "p", 0.0))
