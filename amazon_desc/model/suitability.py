"""Whether a base can be trained here, found out from its configuration before anything is loaded.

In comes a base's folder, out goes its configuration, or a refusal that says what the base is. What
a family does is tried, not looked up by its name: on a miniature of the base with random weights.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amazon_desc.model import attention
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import Backbone, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Left open, transformers would ask on the terminal whether to run code that comes with a base.
NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

PROBE_TOKENS = 16
# Of the miniature; with fewer pieces its embedding is small, and every family takes as many.
PROBE_VOCABULARY = 64
NARROWED = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner")
# Nothing that comes later may change what a token sees; rounding may, in the last digits.
TOLERANCE = 1e-5


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
        f"--model.max_new_tokens: after the longest prompt of --data.max_seq_length "
        f"{max_seq_length} a text would end at position {most_written}, and {option} has learnt "
        f"{limit}. Lower --data.max_seq_length by {most_written - limit}, or "
        f"--model.max_new_tokens."
    )


@functools.cache
def refuse_family(base: Backbone) -> bool:
    """Tries a miniature of the base: refuses a family whose tokens see what follows them.

    Returns whether one could be made; if not, what the family does shows on the loaded base.
    """
    config = read_config(base)
    try:
        refuse_later_tokens_seen(base.name, miniature(config))
    except UserError:
        raise
    except Exception as error:  # of what class is up to each family
        if is_of_attention(error):
            raise UserError(unknown_attention(base.name, config.model_type)) from error
        return False
    return True


def refuse_loaded(base: Backbone, model: Any) -> None:
    """Refuses what `refuse_family` does, of a base that is loaded."""
    try:
        refuse_later_tokens_seen(base.name, model)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of what class is up to each family
        raise UserError(unknown_attention(base.name, model.config.model_type)) from error


def is_of_attention(error: Exception) -> bool:
    """Whether transformers says that a family's attention cannot be given a function of ours."""
    return "attention" in str(error) or attention.NAME in str(error)


def unknown_attention(name: str, family: str) -> str:
    return (
        f"--model.backbone {name}: the attention of {family} cannot be kept to one example of a "
        f"packed row. Name a base of another family, such as Llama or Gemma 3."
    )


def miniature(config: PretrainedConfig) -> Any:
    """Returns a model of the same family and layers, as few, thin and random as they can be."""
    from transformers import AutoModelForCausalLM

    small: Any = copy.deepcopy(config.get_text_config(decoder=True))
    num_layers, kinds = 1, getattr(small, "layer_types", None)
    if kinds:  # one layer of each kind at least
        num_layers = 1 + max(kinds.index(kind) for kind in set(kinds))
        small.layer_types = kinds[:num_layers]
    small.num_hidden_layers = num_layers
    small.vocab_size = PROBE_VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    if hasattr(small, "quantization_config"):
        del small.quantization_config
    for name in NARROWED:
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, PROBE_VOCABULARY)
    with torch.random.fork_rng(devices=[]):  # a run's own random numbers stay as they are
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            small, attn_implementation=attention.register(), dtype=torch.float32
        )


@torch.no_grad()
def refuse_later_tokens_seen(name: str, model: Any) -> None:
    """Refuses a model in which the last of some tokens changes what those before it become.

    Raises:
        UserError: it would learn to copy what it should write.
    """
    was_training = model.training
    model.eval()
    embeddings = model.get_input_embeddings().weight
    ids = torch.arange(PROBE_TOKENS, device=embeddings.device)[None] + 3
    other = ids.clone()
    other[0, -1] += 1
    early, changed = (outputs(model, each)[0, :-1].float() for each in (ids, other))
    model.train(was_training)
    if (early - changed).abs().max() > TOLERANCE * early.abs().max():
        raise UserError(
            f"--model.backbone {name}: {model.config.model_type} is not causal here: a token sees "
            f"those that follow, so it would learn to copy a description instead of writing one. "
            f"Name a base of another family, such as Llama or Gemma 3."
        )


def outputs(model: Any, ids: Tensor) -> Tensor:
    """Returns the last hidden states, as training computes them: (1, tokens, hidden)."""
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    return model.get_decoder()(
        input_ids=ids,
        position_ids=positions,
        attention_mask=None,
        use_cache=False,
        packed=attention.Layout(positions, positions),
    ).last_hidden_state
