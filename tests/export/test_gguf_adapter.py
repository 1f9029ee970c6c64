"""llama.cpp with a base and the adapter's file computes what PEFT computes with both."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from amazon_desc.export.gguf.adapter import matrices_in, name_in_text_model, write_adapter_gguf
from amazon_desc.support.errors import UserError
from tests.export.llama_cpp import LlamaCpp
from tests.export.test_gguf import (
    IDS,
    OF_GEMMA,
    SHAPE,
    TOKENS,
    farthest,
    log_probabilities,
    random_model,
    written,
)


def tuned(model: Any, folder: Path, **settings: Any) -> Any:
    """Returns the model with LoRA that changes what it computes, saved in `folder`."""
    torch.manual_seed(5)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        **{"target_modules": "all-linear", "r": 4, "lora_alpha": 6, **settings},
    )
    peft_model = get_peft_model(model, config)
    for name, weight in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    peft_model.save_pretrained(folder)
    return peft_model.eval()


@pytest.mark.parametrize(
    ("kind", "changes", "settings"),
    [
        ("llama", {"head_dim": 32}, {}),
        ("llama", {}, {"use_rslora": True}),
        ("llama", {}, {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"k_proj": 30}}),
        ("llama", {}, {"target_modules": ["q_proj", "lm_head"]}),
        ("gemma3_text", OF_GEMMA, {}),
    ],
    ids=["llama", "rslora", "ranks and scales", "head", "gemma 3"],
)
def test_base_and_adapter_are_the_tuned_model(
    kind: str, changes: dict[str, Any], settings: dict[str, Any], tmp_path: Path
):
    model = random_model(kind, **changes)
    base = written(model, tmp_path / "base.gguf")
    before = log_probabilities(model, IDS)
    peft_model = tuned(model, tmp_path / "adapter", **settings)
    expected = log_probabilities(peft_model, IDS)
    write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "lora.gguf", "f32", {})
    found = LlamaCpp(base, tmp_path / "lora.gguf").log_probabilities(IDS, TOKENS)
    assert (expected - before).abs().max() > 1
    assert farthest(expected, found) < (0.02 if kind == "gemma3_text" else 5e-3)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_an_adapter_of_fewer_bits_is_nearly_the_same(kind: str, tmp_path: Path):
    model = random_model("llama")
    base = written(model, tmp_path / "base.gguf")
    before = log_probabilities(model, IDS)
    expected = log_probabilities(tuned(model, tmp_path / "adapter", r=32), IDS)
    write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "lora.gguf", kind, {})
    found = LlamaCpp(base, tmp_path / "lora.gguf").log_probabilities(IDS, TOKENS)
    error = farthest(expected, found)
    assert 0 < error < (expected - before).abs().max() / 10


def test_what_could_not_be_quantised_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = random_model("llama")
    tuned(model, tmp_path / "adapter")
    capsys.readouterr()
    write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "lora.gguf", "q8_0", {})
    said = capsys.readouterr().out
    assert said.startswith("q8_0: rows that are no whole blocks of 32 weights stay f16: ")
    assert "attn_q.weight.lora_b (2)" in said
    assert "lora_a" not in said


def test_both_namings_of_gemmas_layers_are_read(tmp_path: Path):
    model = random_model("gemma3_text", **OF_GEMMA)
    tuned(model, tmp_path / "adapter")
    files = []
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for prefix in ("model.", "model.language_model.", "language_model.model."):
        renamed = {
            name.replace("base_model.model.model.", f"base_model.model.{prefix}"): tensor
            for name, tensor in tensors.items()
        }
        save_file(renamed, tmp_path / "adapter" / "adapter_model.safetensors")
        file = tmp_path / f"{len(files)}.gguf"
        write_adapter_gguf(tmp_path / "adapter", model.config, file, "f16", {})
        files.append(file.read_bytes())
    assert files[0] == files[1] == files[2]
    assert name_in_text_model("model.layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"


def test_the_file_says_that_it_is_a_lora(tmp_path: Path):
    model = random_model("llama")
    tuned(model, tmp_path / "adapter")
    facts = {"name": "Shop", "base_model": "TinyLlama"}
    write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "l.gguf", "f16", facts)
    reader = gguf.GGUFReader(tmp_path / "l.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.type"] == "adapter"
    assert said["adapter.type"] == "lora"
    assert said["adapter.lora.alpha"] == 6
    assert said["general.base_model.0.name"] == "TinyLlama"
    assert [tensor.name for tensor in reader.tensors][-1] == "blk.1.attn_v.weight.lora_b"
    assert len(reader.tensors) == 2 * 7 * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_A"),
    ],
)
def test_what_is_more_than_lora_is_refused(settings: dict[str, Any], said: str, tmp_path: Path):
    model = random_model("llama")
    tuned(model, tmp_path / "adapter", **settings)
    with pytest.raises(UserError, match=said):
        write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "l.gguf", "f16", {})
    assert not (tmp_path / "l.gguf").exists()


def test_an_adapter_of_another_base_is_refused(tmp_path: Path):
    tuned(random_model("llama"), tmp_path / "adapter")
    for changes in ({"intermediate_size": 128}, {"num_hidden_layers": 1}):
        config = AutoConfig.for_model("llama", **{**SHAPE, **changes})
        with pytest.raises(UserError, match=r"does not fit its base: model\.layers"):
            write_adapter_gguf(tmp_path / "adapter", config, tmp_path / "l.gguf", "f16", {})


def test_an_adapter_on_a_head_that_is_tied_is_refused(tmp_path: Path):
    model = random_model("llama", tie_word_embeddings=False)
    tuned(model, tmp_path / "adapter", target_modules=["lm_head"])
    model.config.tie_word_embeddings = True
    with pytest.raises(UserError, match=r"lm_head has matrices.*no such layer"):
        write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "l.gguf", "f16", {})


def test_half_a_pair_or_another_method_is_refused(tmp_path: Path):
    model = random_model("llama")
    tuned(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, file)
    with pytest.raises(UserError, match="wanted pairs of LoRA matrices"):
        matrices_in(tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps({"peft_type": "LOHA"}))
    with pytest.raises(UserError, match="found LOHA"):
        write_adapter_gguf(tmp_path / "adapter", model.config, tmp_path / "l.gguf", "f16", {})


def test_q4_0_is_no_type_of_an_adapter(tmp_path: Path):
    with pytest.raises(UserError, match="f32, f16, bf16, q8_0, found q4_0"):
        write_adapter_gguf(tmp_path, AutoConfig.for_model("llama"), tmp_path / "l", "q4_0", {})
