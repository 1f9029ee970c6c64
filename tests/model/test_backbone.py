"""A base is loaded whole, frozen and in training mode, and stays what it is while in use."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from amazon_desc.model import attention
from amazon_desc.model.backbone import (
    fingerprint,
    fingerprints,
    load_backbone,
    refuse_misread,
    refuse_replaced,
)
from amazon_desc.model.loss import target_loss
from amazon_desc.model.probe import attention_for, fault_of
from amazon_desc.model.suitability import read_config
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import Backbone, find_backbone
from amazon_desc.support.resources import TINY_BASE
from tests.model.bases import base_of
from tests.model.conftest import EXAMPLES, batch_of, gradients

CPU = torch.device("cpu")


@pytest.fixture
def base_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_BASE, tmp_path / "base"))


def test_the_base_is_kept_in_four_bits_with_double_quantisation() -> None:
    model = load_backbone(find_backbone("tiny"), "nf4", torch.float32, CPU)
    layer = model.get_decoder().layers[0].mlp.down_proj
    assert type(layer).__name__ == "Linear4bit"
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested) == ("nf4", True)
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == 128 * 384 // 2


@pytest.mark.slow
def test_loading_brings_no_compiler_along_and_leaves_it_as_allowed_as_it_was() -> None:
    """It takes a second, and bitsandbytes alone would want it."""
    code = (
        "import os, sys, torch\n"
        "from amazon_desc.support.hub import find_backbone\n"
        "from amazon_desc.model.backbone import load_backbone\n"
        "load_backbone(find_backbone('tiny'), 'nf4', torch.float32, torch.device('cpu'))\n"
        "print('bitsandbytes' in sys.modules, 'torch._inductor.compile_fx' in sys.modules)\n"
        "print(os.environ.get('TORCHDYNAMO_DISABLE'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["True False", "None"]


def test_the_base_is_frozen_and_in_training_mode() -> None:
    model = load_backbone(find_backbone("tiny"), "nf4", torch.float32, CPU)
    assert all(layer.training for layer in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_gradients_are_the_same_before_and_after_a_validation(build) -> None:
    model = build()
    batch = batch_of(EXAMPLES, 64)
    target_loss(model, batch)[0].backward()
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        target_loss(model, batch)
        model(input_ids=batch.input_ids)
    model.train()
    target_loss(model, batch)[0].backward()
    after = gradients(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_weight_that_is_missing_from_the_files_is_named(base_copy: Path) -> None:
    file = base_copy / "model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.2.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights .* model\.layers\.2\.mlp\.up_proj\.weight"):
        load_backbone(Backbone(base_copy, "copy"), "none", torch.float32, CPU)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_cut_weight_file_is_refused_in_a_sentence(base_copy: Path, size: int) -> None:
    with (base_copy / "model.safetensors").open("rb+") as file:
        file.truncate(size)
    with pytest.raises(UserError, match="its files cannot be read"):
        load_backbone(Backbone(base_copy, "copy"), "nf4", torch.float32, CPU)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"rms_norm_eps": 1e-3}),
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("generation_config.json", {"eos_token_id": [2, 3]}),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}),
    ],
)
def test_a_file_beside_the_weights_counts(base_copy: Path, name: str, changes: dict) -> None:
    file = base_copy / name
    if not file.is_file():
        file.write_text("{}")
    before = fingerprints(base_copy)
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    after = fingerprints(base_copy)
    assert after.weights == before.weights
    assert {n for n, of in after.files.items() if of != before.files[n]} == {name}
    with pytest.raises(UserError, match=f"when this command first read them, found other {name}"):
        refuse_replaced(Backbone(base_copy, "copy"), before)


def test_who_wrote_a_configuration_does_not_count(base_copy: Path) -> None:
    before, file = fingerprints(base_copy), base_copy / "config.json"
    config = json.loads(file.read_text())
    config |= {"transformers_version": "9.9", "_name_or_path": "/else/where", "dtype": "bfloat16"}
    file.write_text(json.dumps(config, indent=7))
    assert fingerprints(base_copy) == before
    refuse_replaced(Backbone(base_copy, "copy"), before)


def test_one_changed_weight_changes_the_fingerprint_and_a_copy_does_not(base_copy: Path) -> None:
    assert fingerprint(base_copy) == fingerprint(TINY_BASE)
    file = base_copy / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.self_attn.q_proj.weight"] *= 2
    save_file(weights, file, metadata={"format": "pt"})
    assert fingerprint(base_copy) != fingerprint(TINY_BASE)


@pytest.mark.parametrize(
    ("is_original", "prefix"), [(True, "language_model.model."), (False, "model.language_model.")]
)
def test_gemma_3_files_with_vision_give_their_text_weights(
    tmp_path: Path, is_original: bool, prefix: str
) -> None:
    """The plain call leaves every text weight random, with only a warning."""
    full = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                "vocab_size": 96,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 32,
                "sliding_window": 8,
            },
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=4,
            image_token_index=95,
        )
    ).eval()
    full.save_pretrained(tmp_path, save_original_format=is_original)
    assert f"{prefix}norm.weight" in load_file(tmp_path / "model.safetensors")
    model = load_backbone(Backbone(tmp_path, "gemma"), "none", torch.float32, CPU).eval()
    ids = torch.arange(3, 23).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=ids).logits, full(input_ids=ids).logits, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("width", [32, 48, 80, 96])
def test_four_bit_matrices_that_are_not_read_as_they_were_written_are_refused(
    width: int, tmp_path: Path
) -> None:
    """Where bitsandbytes reads them rightly (another version, another machine) they are taken."""
    base = base_of(tmp_path, "llama", hidden_size=width, intermediate_size=64)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(read_config(base))
    plain.save_pretrained(tmp_path)
    load_backbone(base, "none", torch.float32, CPU)
    written = plain.model.layers[0].self_attn.q_proj.weight.detach()
    read = dequantize_4bit(*quantize_4bit(written, quant_type="nf4"))
    if (read - written).norm() < 0.12 * written.norm():
        load_backbone(base, "nf4", torch.float32, CPU)
        return
    with pytest.raises(UserError) as error:
        load_backbone(base, "nf4", torch.float32, CPU)
    assert f"bitsandbytes reads 4-bit matrices of {width} columns wrongly on cpu" in str(
        error.value
    )
    assert "Set --model.quantization none, or use a GPU." in str(error.value)


@pytest.mark.parametrize("width", [64, 100, 128, 172, 192])
def test_four_bit_matrices_of_other_widths_are_taken(width: int, tmp_path: Path) -> None:
    base = base_of(tmp_path, "llama", hidden_size=width, intermediate_size=64)
    AutoModelForCausalLM.from_config(read_config(base)).save_pretrained(tmp_path)
    load_backbone(base, "nf4", torch.float32, CPU)


def test_a_base_is_tried_where_another_device_is_the_default(base_copy: Path) -> None:
    """As the trainer has it while it builds a model; `meta` stands for a card."""
    base = Backbone(base_copy, "copy")
    model = load_backbone(base, "nf4", torch.float32, CPU)
    attention_for.cache_clear()
    with torch.device("meta"):
        refuse_misread(model, "copy")
        assert attention_for(base) == attention.NAME
        assert fault_of(model) == ""
