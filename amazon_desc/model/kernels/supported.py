"""What the fused path knows: which models it can train.

In comes a PEFT model, or only its configuration, out goes what is in its way. No kernel is needed
to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from amazon_desc.model.cost.shape import head_dim

if TYPE_CHECKING:
    from peft import PeftModel

FAMILIES = {"llama": "silu", "gemma3_text": "gelu_pytorch_tanh"}
ROTARY_KINDS = ("default", "linear", "llama3")
ADAPTER = "default"
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def obstacle(model: PeftModel) -> str | None:
    """Returns what about a model, loaded or its skeleton, the fused path does not know, or None."""
    base: Any = model.get_base_model()
    if (reason := config_obstacle(base.config)) is not None:
        return reason
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if hasattr(module, "lora_A") and last not in LINEARS:
            return f"they have no LoRA on {last}"
        linear = getattr(module, "base_layer", module)
        if last in LINEARS and getattr(linear, "bias", None) is not None:
            return f"they have no bias in {last}"
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
    names = ("hidden_act", "hidden_activation", "activation_function")
    act = next((getattr(config, name) for name in names if hasattr(config, name)), None)
    if config.model_type not in FAMILIES or FAMILIES[config.model_type] != act:
        return f"they have no layers of {config.model_type} with {act}"
    kinds = {rope["rope_type"] for rope in rope_parameters(config)}
    if not kinds <= set(ROTARY_KINDS):
        return f"they have no rotary positions of the kind {', '.join(sorted(kinds))}"
    for option in ("attn_logit_softcapping", "use_bidirectional_attention"):
        if getattr(config, option, None):
            return f"they have no attention with {option}"
    dim = head_dim(config)
    if dim % 8 or dim > 256:
        return f"they have no heads of {dim} numbers"
    return None


def rope_parameters(config: Any) -> Iterator[dict[str, Any]]:
    parameters = config.rope_parameters
    yield from parameters.values() if "rope_type" not in parameters else [parameters]


def dropout_of(module: Any) -> float:
    """Returns the share of LoRA's inputs that a module zeroes; 0 where it has no LoRA."""
    dropout = getattr(module, "lora_dropout", {ADAPTER: None})[ADAPTER]
    return float(getattr(dropout, "p", 0.0))
