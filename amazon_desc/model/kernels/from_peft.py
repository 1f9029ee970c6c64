"""A PEFT model -> the decoder of the fused path.

The parameters stay PEFT's: the decoder reads them at each step and adds to their gradients.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amazon_desc.model.cost.shape import head_dim
from amazon_desc.model.kernels.decoder import Decoder
from amazon_desc.model.kernels.dropout import Dropout
from amazon_desc.model.kernels.layer import Layer
from amazon_desc.model.kernels.linear import LoraLinear, Projection, Workspace
from amazon_desc.model.kernels.norm import Norm
from amazon_desc.model.kernels.rotary import Heads
from amazon_desc.model.kernels.supported import ADAPTER, dropout_of
from amazon_desc.model.recomputation import Recompute

if TYPE_CHECKING:
    from peft import PeftModel


def heads_of(config: Any, norms: tuple[Tensor, Tensor] | None = None) -> Heads:
    num_q, num_kv = config.num_attention_heads, config.num_key_value_heads
    return Heads(num_q, num_kv, head_dim(config), norms, config.rms_norm_eps)


def collect(
    model: PeftModel,
    dtype: torch.dtype,
    seed: Tensor,
    longest: int,
    is_dense: bool,
    recompute: Recompute,
) -> Decoder:
    """Returns the decoder of a model for which supported.obstacle() finds none.

    Args:
        seed: () int64 on the device: decides the dropout masks of a micro-batch
        longest: positions of the longest example
        is_dense: keep the weights dense beside their 4 bits
        recompute: what of the forward pass is made again
    """
    base: Any = model.get_base_model()
    config, core = base.config, base.get_decoder()
    is_gemma = config.model_type == "gemma3_text"
    device = core.embed_tokens.weight.device
    workspace = None if is_dense else Workspace(dtype, device)
    salts = count()

    def linear(*modules: Any) -> LoraLinear:
        shares = {dropout_of(module) for module in modules} - {0.0}
        dropout = Dropout(max(shares), seed, next(salts)) if shares else None
        return LoraLinear([projection_of(m) for m in modules], dtype, workspace, dropout)

    def norm(weight: Tensor, post: Tensor | None) -> Norm:
        return Norm(weight.detach(), config.rms_norm_eps, post, float(is_gemma))

    layers, post = [], None
    for layer in core.layers:
        attention, mlp = layer.self_attn, layer.mlp
        between = layer.post_attention_layernorm.weight.detach()
        before_mlp = layer.pre_feedforward_layernorm.weight if is_gemma else between
        norms = (attention.q_norm.weight, attention.k_norm.weight) if is_gemma else None
        layers.append(
            Layer(
                attention_norm=norm(layer.input_layernorm.weight, post),
                mlp_norm=norm(before_mlp, between if is_gemma else None),
                qkv=linear(attention.q_proj, attention.k_proj, attention.v_proj),
                out=linear(attention.o_proj),
                gate_up=linear(mlp.gate_proj, mlp.up_proj),
                down=linear(mlp.down_proj),
                heads=heads_of(config, norms),
                attention_scale=attention.scaling,
                window=getattr(attention, "sliding_window", None),
                rotation=getattr(attention, "layer_type", None) or "full_attention",
                is_gelu=is_gemma,
            )
        )
        post = layer.post_feedforward_layernorm.weight.detach() if is_gemma else None
    scale = getattr(core.embed_tokens, "scalar_embed_scale", 1.0)
    return Decoder(
        core.embed_tokens.weight.detach(),
        float(torch.tensor(scale, dtype=dtype)),
        layers,
        norm(core.norm.weight, post),
        {kind: rotary_table(core, kind, longest) for kind in {x.rotation for x in layers}},
        recompute,
    )


def projection_of(module: Any) -> Projection:
    if not hasattr(module, "lora_A"):
        return Projection(module.weight, None, None, 0.0)
    weight = module.base_layer.weight
    a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return Projection(weight, a, b, module.scaling[ADAPTER])


def rotary_table(core: Any, kind: str, longest: int) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of the positions, (longest, dim / 2) float32 each."""
    device = core.embed_tokens.weight.device
    positions = torch.arange(longest, device=device)[None]
    states = torch.zeros(1, dtype=torch.float32, device=device)
    arguments = (kind,) if hasattr(core.rotary_emb, "layer_types") else ()
    cos, sin = core.rotary_emb(states, positions, *arguments)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()
