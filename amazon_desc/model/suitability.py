"""Whether a base can be trained here, found out from its configuration before anything is loaded.

In comes a base's folder, out goes its configuration, or a refusal that says what the base is. What
shows only when it computes is found in probe.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import Backbone, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Left open, transformers would ask on the terminal whether to run code that comes with a base.
NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def read_config(base: Backbone) -> PretrainedConfig:
    """Returns the configuration of a base.

    Raises:
        UserError: transformers does not know the architecture, or only with code of the base's own;
            it is an encoder-decoder; or it is no model that writes text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    option = f"--model.backbone {base.name}"
    try:
        config: Any = AutoConfig.from_pretrained(base.folder, **NO_CODE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{option}: it comes with code of its own, which is never run here. Name a base "
                f"of a family that transformers has, such as Llama or Gemma 3."
            ) from error
        raise UserError(
            f"{option}: its config.json cannot be used by the transformers that is installed "
            f"({first_line(error)}). Install a newer transformers, or name another base."
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{option}: it is an encoder-decoder ({config.model_type}), which reads with one half "
            f"and writes with the other. Wanted a decoder, such as Llama or Gemma 3: name another "
            f"base."
        )
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{option}: transformers has no language model of the family {config.model_type} that "
            f"stands alone. Wanted a decoder, such as Llama or Gemma 3: name another base."
        )
    return config


def refuse_quantized(base: Backbone, config: PretrainedConfig, quantization: str) -> None:
    """Refuses weights that are quantised already in another way than the run asks for."""
    found: Any = getattr(config, "quantization_config", None)
    if found is None:
        return
    settings = found if isinstance(found, dict) else found.to_dict()
    method = str(settings.get("quant_method", "unknown"))
    is_nf4 = method == "bitsandbytes" and settings.get("bnb_4bit_quant_type") == "nf4"
    option = f"--model.backbone {base.name}"
    if not (is_nf4 and settings.get("load_in_4bit")):
        raise UserError(
            f"{option}: its weights are quantised already ({method}), in a form that is not "
            f"trained on here. Name the base that they were made from."
        )
    if quantization == "none":
        raise UserError(
            f"{option}: its weights are in 4 bits (NF4) already, and --model.quantization is none. "
            f"Set it to nf4, or name the base that they were made from."
        )


def refuse_too_long(
    base: Backbone, config: PretrainedConfig, max_seq_length: int, most_written: int
) -> str | None:
    """Refuses sequences that a base has no positions for; returns what is said of untrained ones.

    Positions begin anew with each example, so a packed row may be longer than a base's positions.

    Args:
        most_written: tokens of the longest prompt and of what is generated for it
    """
    text = config.get_text_config(decoder=True)
    limit = getattr(text, "max_position_embeddings", None)
    if limit is None or max(max_seq_length, most_written) <= limit:
        return None
    option = f"--model.backbone {base.name}"
    if getattr(text, "rope_parameters", None):
        return (
            f"{option} was trained with up to {limit} tokens; with --data.max_seq_length "
            f"{max_seq_length} sequences reach {max(max_seq_length, most_written)}, where it "
            f"writes worse."
        )
    if max_seq_length > limit:
        raise UserError(
            f"--data.max_seq_length {max_seq_length}: {option} has learnt {limit} positions, and "
            f"none beyond them. Lower --data.max_seq_length to {limit} or less."
        )
    raise UserError(
        f"--model.decoding.max_new_tokens: after the longest prompt of --data.max_seq_length "
        f"{max_seq_length} a text would end at position {most_written}, and {option} has learnt "
        f"{limit}. Lower --data.max_seq_length by {most_written - limit}, or "
        f"--model.decoding.max_new_tokens."
    )
