"""LoRA alone is trained, in float32; a folder is loaded whole or refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file, save_file

from amazon_desc.model import adapter
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.cost.shape import num_lora_weights, shape_of
from amazon_desc.model.loss import target_loss
from amazon_desc.model.machine import Machine
from amazon_desc.model.plan import plan, task_of
from amazon_desc.model.probe import miniature
from amazon_desc.model.skeleton import skeleton
from amazon_desc.model.suitability import read_config
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import find_backbone
from tests.model.bases import base_of
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


def test_dora_trains_a_norm_for_each_row_as_well_and_nothing_else() -> None:
    model = adapter.attach(tiny_base(), adapter.LoraSettings(r=4, use_dora=True))
    trainable = adapter.trainable_state(model)
    kinds = Counter(name.split("lora_")[1].split(".")[0] for name in trainable)
    assert kinds == {"A": 28, "B": 28, "magnitude_vector": 28}
    assert {tensor.dtype for tensor in trainable.values()} == {torch.float32}
    norms = model.get_base_model().model.layers[0].mlp.down_proj.lora_magnitude_vector["default"]
    assert norms.weight.shape == (128,)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_dora_is_what_its_paper_says(quantization: Any, use_rslora: bool) -> None:
    """y = x (m / |V| V)', V = W + scale B A, whose norm is a constant to autograd."""
    base = load_backbone(find_backbone("tiny"), quantization, torch.float32, torch.device("cpu"))
    settings = adapter.LoraSettings(r=4, alpha=8, dropout=0.0, use_rslora=use_rslora, use_dora=True)
    layer: Any = adapter.attach(base, settings).get_base_model().model.layers[1].mlp.down_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    norms = layer.lora_magnitude_vector["default"].weight
    torch.manual_seed(1)
    torch.nn.init.normal_(b, std=0.05)
    norms.data *= 1.1
    dense = dequantize_module_weight(layer.base_layer).detach()
    x = torch.randn(5, 384, requires_grad=True)

    def outcome(y: torch.Tensor) -> list[torch.Tensor]:
        return [y, *torch.autograd.grad(y.square().sum(), [x, a, b, norms])]

    turned = dense + {False: 2.0, True: 4.0}[use_rslora] * (b @ a)
    wanted = x @ ((norms / turned.norm(dim=1).detach())[:, None] * turned).T
    for found, expected in zip(outcome(layer(x)), outcome(wanted), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    """The fused path reads the scale where this does."""
    for use_rslora, scale in ((False, 32 / 16), (True, 32 / 4)):
        model = adapter.attach(tiny_base(), adapter.LoraSettings(use_rslora=use_rslora))
        scales = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
        assert scales == {scale}


def test_lora_matrices_are_float32_and_the_head_has_none(build) -> None:
    trainable = adapter.trainable_state(build())
    assert {tensor.dtype for tensor in trainable.values()} == {torch.float32}
    assert not any("lm_head" in name or "embed" in name for name in trainable)


@pytest.mark.parametrize(("use_dora", "within"), [(False, 0.0), (True, 1e-4)])
def test_a_fresh_adapter_changes_nothing(use_dora: bool, within: float) -> None:
    """DoRA's norms are found anew in each pass, with a rounding of their own."""
    ids = torch.arange(50, 70).unsqueeze(0)
    model = adapter.attach(tiny_base(), adapter.LoraSettings(dropout=0.0, use_dora=use_dora))
    tuned = model(input_ids=ids).logits
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, tuned, rtol=0, atol=within)


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


@pytest.mark.parametrize("lacking", ["lora_A", "lora_magnitude_vector"])
def test_a_dora_adapter_loads_with_its_own_settings_and_whole(lacking: str, tmp_path: Path) -> None:
    settings = adapter.LoraSettings(r=4, alpha=8, use_rslora=True, use_dora=True)
    model = adapter.attach(tiny_base(), settings)
    for tensor in adapter.trainable_state(model).values():
        tensor += 0.01
    adapter.save(model, tmp_path, "some/base", None)
    loaded = adapter.load(tiny_base(), tmp_path, dropout=0.1)
    saved = adapter.trainable_state(model)
    assert len(saved) == 84
    found = adapter.trainable_state(loaded)
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    layer: Any = loaded.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling == {"default": 8 / 4**0.5}
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(name for name in sorted(weights) if lacking in name))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit the base: 1 matrices missing"):
        adapter.load(tiny_base(), tmp_path, dropout=0.1)


def test_an_adapter_overrules_what_decides_its_shape_and_scale(tmp_path: Path) -> None:
    adapter.save(adapter.attach(tiny_base(), adapter.LoraSettings(use_dora=True)), tmp_path, "", "")
    assert list(adapter.overruled(tmp_path, adapter.LoraSettings(use_dora=True))) == []
    asked = adapter.LoraSettings(r=4, dropout=0.3, use_rslora=True)
    assert list(adapter.overruled(tmp_path, asked)) == [
        f"--model.lora.r is 16, as the adapter {tmp_path} has it, not 4.",
        f"--model.lora.use_rslora is False, as the adapter {tmp_path} has it, not True.",
        f"--model.lora.use_dora is True, as the adapter {tmp_path} has it, not False.",
    ]


REGEX = r".*\.layers\.\d+\.(self_attn\.[qv]|mlp\.down)_proj"


@pytest.fixture
def with_regex(tmp_path: Path) -> Path:
    """An adapter of PEFT's whose layers are named by a regular expression."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, target_modules=REGEX, exclude_modules=["k_proj", "lm_head"], task_type="CAUSAL_LM"
    )
    base: Any = tiny_base()
    get_peft_model(base, config).save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == REGEX
    return tmp_path


def test_layers_that_an_adapter_names_by_a_regular_expression_are_all_counted(
    with_regex: Path,
) -> None:
    model = adapter.load(tiny_base(), with_regex, dropout=0.0)
    trained = sum(tensor.numel() for tensor in adapter.trainable_state(model).values())
    config = model.get_base_model().config
    for built in (model, skeleton(config, adapter.LoraSettings(), with_regex)):
        settings = adapter.settings_of(built)
        assert settings.target_modules == ["down_proj", "q_proj", "v_proj"]
        assert num_lora_weights(shape_of(config), settings) == trained > 0
        task = task_of(built, torch.float32, 256, "nf4")
        assert plan(task, Machine(64 << 30), 1).memory.lora == 4 * trained


def test_a_regular_expression_stays_one_and_is_said_to_overrule_names(
    with_regex: Path, tmp_path: Path
) -> None:
    written = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        loaded = adapter.load(tiny_base(), with_regex, dropout=0.0)
        adapter.save(loaded, tmp_path / name, "some/base", None)
        written.append((tmp_path / name / "adapter_config.json").read_bytes())
    assert written[0] == written[1]
    saved = json.loads(written[0])
    assert (saved["target_modules"], saved["exclude_modules"]) == (REGEX, ["k_proj", "lm_head"])

    def said(*names: str) -> list[str]:
        asked = adapter.LoraSettings(r=4, alpha=8, target_modules=list(names) or "all-linear")
        return list(adapter.overruled(with_regex, asked))

    assert said() == []
    assert said("q_proj", "k_proj") == [
        f"--model.lora.target_modules is {REGEX}, as the adapter {with_regex} has it, not q_proj, "
        f"k_proj."
    ]


def test_an_adapter_overrules_the_names_of_layers_too(tmp_path: Path) -> None:
    settings = adapter.LoraSettings(target_modules=["v_proj", "q_proj"])
    adapter.save(adapter.attach(tiny_base(), settings), tmp_path, "", "")
    assert list(adapter.overruled(tmp_path, settings)) == []
    assert list(adapter.overruled(tmp_path, adapter.LoraSettings())) == []
    (line,) = adapter.overruled(tmp_path, adapter.LoraSettings(target_modules=["q_proj"]))
    assert line == (
        f"--model.lora.target_modules is q_proj, v_proj, as the adapter {tmp_path} has it, not "
        f"q_proj."
    )


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


def test_what_peft_has_no_lora_for_is_refused_in_a_sentence(tmp_path: Path):
    """The experts of a mixture are one parameter, for which PEFT knows no dropout."""
    model = miniature(read_config(base_of(tmp_path, "qwen3_next")))
    with pytest.raises(UserError) as error:
        attach(model, LoraSettings())
    assert "--model.lora: PEFT cannot add it to qwen3_next (ValueError: lora" in str(error.value)
    assert "Set --model.lora.dropout to 0, or" in str(error.value)
    attach(miniature(read_config(base_of(tmp_path, "qwen3_next"))), LoraSettings(dropout=0.0))
