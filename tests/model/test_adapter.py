"""LoRA alone is trained, in float32; a folder is loaded whole or refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amazon_desc.errors import UserError
from amazon_desc.hub import find_backbone
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.loss import target_loss
from tests.model.conftest import EXAMPLES, batch_of


def tiny_base():
    return load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))


def test_only_lora_is_trained_and_frozen_weights_stay_bit_equal(build) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    for _ in range(3):
        loss, num_targets = target_loss(model, batch_of(EXAMPLES, 64))
        (loss / num_targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    lora = {name for name in after if "lora_" in name}
    assert changed == lora
    assert len(lora) == 2 * 7 * 4  # A and B for 7 linear layers in each of 4 blocks
    assert len(after) > len(lora)


def test_lora_matrices_are_float32_and_the_head_has_none(build) -> None:
    trainable = adapter.trainable_state(build())
    assert {tensor.dtype for tensor in trainable.values()} == {torch.float32}
    assert not any("lm_head" in name or "embed" in name for name in trainable)


def test_a_fresh_adapter_changes_nothing() -> None:
    ids = torch.arange(50, 70).unsqueeze(0)
    model = adapter.attach(tiny_base(), adapter.LoraSettings(dropout=0.0))
    tuned = model(input_ids=ids).logits
    with model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, tuned)


def test_a_target_that_matches_nothing_is_refused_though_another_matches() -> None:
    settings = adapter.LoraSettings(target_modules=["q_proj", "v_porj"])
    with pytest.raises(UserError, match=r"v_porj matches no linear layer.*q_proj.*v_proj"):
        adapter.attach(tiny_base(), settings)


def test_a_saved_adapter_loads_bit_equal(build, tmp_path: Path) -> None:
    model = build()
    adapter.save(model, tmp_path, "some/base", "abc123")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/base", "abc123")
    assert config["target_modules"] == sorted(config["target_modules"])
    loaded = adapter.trainable_state(adapter.load(tiny_base(), tmp_path, dropout=0.1))
    saved = adapter.trainable_state(model)
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_an_adapter_that_lacks_a_matrix_is_refused(build, tmp_path: Path) -> None:
    adapter.save(build(), tmp_path, "some/base", None)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit the base: 1 matrices missing"):
        adapter.load(tiny_base(), tmp_path, dropout=0.1)


def test_pickled_weights_are_refused(build, tmp_path: Path) -> None:
    model = build()
    adapter.save(model, tmp_path, "some/base", None)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(adapter.trainable_state(model), tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors \(pickled \.bin"):
        adapter.load(tiny_base(), tmp_path, dropout=0.1)


def test_a_merged_or_other_method_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"wanted a LoRA adapter .*, found IA3"):
        adapter.check_folder(tmp_path)
