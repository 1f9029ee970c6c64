"""Each weight of the tuned model once, under transformers' name, LoRA merged in float32."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from amazon_desc.export.weights import merged_weights, weights_of
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import find_backbone
from tests.model.bases import SMALL

IDS = torch.tensor([[1, 5, 9, 3, 7, 2, 11]])


def with_lora(base: Any, **settings: Any) -> Any:
    """Returns a model whose LoRA changes what it computes."""
    torch.manual_seed(7)
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", **{"target_modules": "all-linear", **settings})
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def small(kind: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, vocab_size=60, **{**SMALL[kind], **changes})
    model = AutoModelForCausalLM.from_config(config)
    for name, buffer_or_weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(buffer_or_weight)
    return model


def reloaded(model: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns transformers' own model with these weights; no name may be left over or missing."""
    config = model.get_base_model().config
    fresh = AutoModelForCausalLM.from_config(config).eval()
    lost = fresh.load_state_dict(tensors, strict=False)
    fresh.tie_weights()
    assert lost.unexpected_keys == []
    assert set(lost.missing_keys) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    return fresh


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "qwen2", "opt", "mistral"])
def test_transformers_own_model_with_these_weights_computes_what_the_tuned_one_does(kind: str):
    model = with_lora(small(kind))
    tensors = dict(merged_weights(weights_of(model)))
    with torch.no_grad():
        expected = model(IDS).logits
        with model.disable_adapter():
            base = model(IDS).logits
        found = reloaded(model, tensors)(IDS).logits
    assert (expected - base).abs().max() > 1e-2
    assert (found - expected).abs().max() < 1e-5
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_names_are_those_of_transformers_and_a_tied_head_is_left_out():
    for is_tied in (True, False):
        model = with_lora(small("llama", tie_word_embeddings=is_tied))
        names = [weight.name for weight in weights_of(model)]
        assert names[0] == "model.embed_tokens.weight"
        assert "model.layers.0.self_attn.q_proj.weight" in names
        assert ("lm_head.weight" in names) is not is_tied
        assert len(set(names)) == len(names) == 2 * 9 + (2 if is_tied else 3)


def test_shapes_are_known_before_a_matrix_is_made():
    for kind in ("llama", "gpt2"):
        weights = weights_of(with_lora(small(kind)))
        assert [tuple(weight.make().shape) for weight in weights] == [w.shape for w in weights]
        assert sum(w.num_elements for w in weights) == small(kind).num_parameters()


def test_a_base_in_4_bits_is_merged_in_float32():
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    model = with_lora(base)
    tensors = dict(merged_weights(weights_of(model)))
    with torch.no_grad():
        expected = model(IDS).logits
        found = reloaded_plain(base.config, tensors)(IDS).logits
    assert (found - expected).abs().max() < 2e-4
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (
        base.config.hidden_size,
        base.config.intermediate_size,
    )


def reloaded_plain(config: Any, tensors: dict[str, Tensor]) -> Any:
    config = type(config)(**{k: v for k, v in config.to_dict().items() if "quant" not in k})
    fresh = AutoModelForCausalLM.from_config(config).eval()
    assert fresh.load_state_dict(tensors, strict=False).unexpected_keys == []
    fresh.tie_weights()
    return fresh


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"use_dora": True}, "model.layers.0.self_attn.q_proj.*found DoRA"),
        ({"lora_bias": True}, "q_proj.*found a bias of LoRA"),
        ({"modules_to_save": ["norm"]}, "layernorm.*found a whole copy of the layer"),
        ({"trainable_token_indices": [3]}, "embed_tokens.*found trained rows of the embedding"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head.*head that is tied"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens.*class Embedding"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_more_than_plain_lora_is_refused_by_name(settings: dict[str, Any], found: str):
    bias = {"attention_bias": True, "mlp_bias": True} if "lora_bias" in settings else {}
    model = with_lora(small("llama", tie_word_embeddings=True, **bias), **settings)
    with pytest.raises(UserError, match=f"{found}.*--to adapter"):
        weights_of(model)


def test_the_model_stays_as_it_was():
    model = with_lora(small("llama"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for weight in weights_of(model):
        weight.make()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_names_are_those_of_the_bases_own_file():
    base = load_backbone(find_backbone("tiny"), "none", torch.float32, torch.device("cpu"))
    model = adapter.attach(base, adapter.LoraSettings(r=4))
    names = {weight.name for weight in weights_of(model)}
    with safe_open(find_backbone("tiny").folder / "model.safetensors", framework="pt") as file:
        assert names == set(file.keys())
