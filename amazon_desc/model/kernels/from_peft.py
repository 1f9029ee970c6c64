"""A PEFT model -> what its decoder is made of, and the decoder that the fused path trains.

The parameters stay PEFT's: the decoder reads them at each step and adds to their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from amazon_desc.model.cost.shape import head_dim
from amazon_desc.model.families import FAMILIES, Family, activation_of, windows_of
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


LINEARS = ("qkv", "out", "gate_up", "down")  # of LayerParts


class LayerParts(NamedTuple):
    """What a layer is made of; projections of one input are modules of PEFT or transformers."""

    attention_norm: Norm
    mlp_norm: Norm
    qkv: tuple[Any, ...]
    out: tuple[Any, ...]
    gate_up: tuple[Any, ...]
    down: tuple[Any, ...]
    heads: Heads
    attention_scale: float
    window: int | None
    rotation: str
    is_gelu: bool

    def with_linears(self, linear: Callable[[tuple[Any, ...]], Any]) -> dict[str, Any]:
        """Returns the parts by name, `linear` of the modules in place of each group of them."""
        return self._asdict() | {name: linear(getattr(self, name)) for name in LINEARS}

    def linears(self) -> list[tuple[Any, ...]]:
        return [getattr(self, name) for name in LINEARS]


class Parts(NamedTuple):
    """What a decoder is made of."""

    embedding: Tensor
    """(V, H)"""
    embedding_scale: float
    layers: list[LayerParts]
    last_norm: Norm
    tables: dict[str, tuple[Tensor, Tensor]]
    """cosines and sines of the positions by the kind of rotation, (positions, dim / 2) float32"""


def parts_of(model: PeftModel, dtype: torch.dtype, num_positions: int) -> Parts:
    """Returns what the decoder of a model is made of, for which supported.obstacle() finds none.

    Args:
        dtype: of the products
        num_positions: how many positions the rotary tables have
    """
    base: Any = model.get_base_model()
    config, core = base.config, base.get_decoder()
    family = FAMILIES[config.model_type]

    def norm(module: Any, post: Any) -> Norm:
        post_weight = None if post is None else post.weight.detach()
        return Norm(module.weight.detach(), config.rms_norm_eps, post_weight, family.norm_offset)

    layers, post = [], None
    for layer, window in zip(core.layers, windows_of(config), strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        after_attention, before_mlp = None, layer.post_attention_layernorm
        if family.has_post_norms:  # only then it is what it is called
            after_attention, before_mlp = before_mlp, layer.pre_feedforward_layernorm
        layers.append(
            LayerParts(
                attention_norm=norm(layer.input_layernorm, post),
                mlp_norm=norm(before_mlp, after_attention),
                qkv=(attention.q_proj, attention.k_proj, attention.v_proj),
                out=(attention.o_proj,),
                gate_up=(mlp.gate_proj, mlp.up_proj),
                down=(mlp.down_proj,),
                heads=heads_of(config, family, attention),
                attention_scale=attention.scaling,
                window=window,
                rotation=getattr(attention, "layer_type", None) or "full_attention",
                is_gelu=activation_of(config) == "gelu_pytorch_tanh",
            )
        )
        post = layer.post_feedforward_layernorm if family.has_post_norms else None
    scale = config.hidden_size**0.5 if family.is_embedding_scaled else 1.0
    kinds = {layer.rotation for layer in layers}
    return Parts(
        core.embed_tokens.weight.detach(),
        float(torch.tensor(scale, dtype=dtype)),
        layers,
        norm(core.norm, post),
        {kind: rotary_table(core, kind, num_positions) for kind in kinds},
    )


def collect(
    model: PeftModel,
    dtype: torch.dtype,
    seed: Tensor,
    longest: int,
    is_dense: bool,
    recompute: Recompute,
) -> Decoder:
    """Returns the decoder that trains the LoRA of a model.

    Args:
        seed: () int64 on the device: decides the dropout masks of a micro-batch
        longest: positions of the longest example
        is_dense: keep the weights dense beside their 4 bits
        recompute: what of the forward pass is recomputed
    """
    parts = parts_of(model, dtype, longest)
    workspace = None if is_dense else Workspace(dtype, parts.embedding.device)
    salts = count()

    def linear(modules: tuple[Any, ...]) -> LoraLinear:
        shares = {dropout_of(module) for module in modules} - {0.0}
        dropout = Dropout(max(shares), seed, next(salts)) if shares else None
        return LoraLinear([projection_of(m) for m in modules], dtype, workspace, dropout)

    layers = [Layer(**layer.with_linears(linear)) for layer in parts.layers]
    return Decoder(
        parts.embedding, parts.embedding_scale, layers, parts.last_norm, parts.tables, recompute
    )


def heads_of(config: Any, family: Family, attention: Any) -> Heads:
    norms = None
    if family.has_head_norms:
        norms = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
    num_q, num_kv = config.num_attention_heads, config.num_key_value_heads
    eps, offset = config.rms_norm_eps, family.norm_offset
    return Heads(num_q, num_kv, head_dim(config), norms, eps, offset)


def projection_of(module: Any) -> Projection:
    if not hasattr(module, "lora_A"):
        return Projection(module.weight, module.bias, None, None, 0.0)
    base = module.base_layer
    a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return Projection(base.weight, base.bias, a, b, module.scaling[ADAPTER])


def rotary_table(core: Any, kind: str, longest: int) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of the positions, (longest, dim / 2) float32 each."""
    device = core.embed_tokens.weight.device
    positions = torch.arange(longest, device=device)[None]
    states = torch.zeros(1, dtype=torch.float32, device=device)
    arguments = (kind,) if hasattr(core.rotary_emb, "layer_types") else ()
    cos, sin = core.rotary_emb(states, positions, *arguments)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()
