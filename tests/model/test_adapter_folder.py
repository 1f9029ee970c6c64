"""An adapter of others computes PEFT's own numbers here, or is refused by the name of its kind."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import config as lora_configs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from amazon_desc.generation.plain.merged import merged
from amazon_desc.model import adapter
from amazon_desc.model.adapter_folder import (
    REFUSED,
    USED,
    WITHOUT_EFFECT,
    check_folder,
    refuse_more_than_lora,
)
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.kernels.supported import obstacle
from amazon_desc.model.loss import target_loss
from amazon_desc.model.suitability import read_config
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import find_backbone
from tests.conftest import slow_case
from tests.model.bases import base_of, refusal
from tests.model.conftest import EXAMPLES, batch_of

CPU = torch.device("cpu")
IDS = torch.arange(50, 70).unsqueeze(0)
PLAIN = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"], "r": 4}


def tiny_base(quantization: Any = "nf4") -> Any:
    return load_backbone(find_backbone("tiny"), quantization, torch.float32, CPU)


def trained(base: Any, folder: Path, **settings: Any) -> None:
    """Saves an adapter of PEFT's of whose numbers none is that of an untrained one."""
    model = get_peft_model(base, LoraConfig(**{**PLAIN, **settings}))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def with_settings(folder: Path, **settings: Any) -> Path:
    """Returns an adapter's folder with these in its configuration."""
    if not (folder / "adapter_config.json").is_file():
        trained(tiny_base("none"), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


# What is used. The second value: what the fused kernels say of it; None: they compute it.
MORE = "they train lora_A and lora_B only"
ACCEPTED: dict[str, tuple[dict[str, Any], str | None]] = {
    "plain": ({}, None),
    "head saved": ({"modules_to_save": ["lm_head"]}, MORE),
    "embeddings saved": ({"modules_to_save": ["embed_tokens", "lm_head"]}, MORE),
    "saved as one": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, MORE),
    "norm saved": ({"modules_to_save": ["norm"]}, MORE),
    "lora_bias": ({"lora_bias": True}, MORE),
    "dora": ({"use_dora": True}, "they have no DoRA"),
    "tokens": ({"trainable_token_indices": [55, 60]}, MORE),
    "tokens of both": ({"trainable_token_indices": {"lm_head": [55], "embed_tokens": [60]}}, MORE),
    "rsLoRA": ({"use_rslora": True}, None),
    "ranks": ({"rank_pattern": {"layers.1.self_attn.q_proj": 6}}, None),
    "scales": ({"alpha_pattern": {"down_proj": 30}}, None),
    "layers": ({"layers_to_transform": [1, 2]}, None),
    "all but": ({"exclude_modules": ["layers.0.self_attn.q_proj"]}, None),
    "turned": ({"fan_in_fan_out": True}, None),  # PEFT sets it by the layer
    "parameters": (
        {"target_parameters": ["mlp.up_proj.weight"]},
        "they have no LoRA on a parameter (up_proj.weight)",
    ),
    "head": ({"target_modules": ["q_proj", "lm_head"]}, "they have no LoRA on lm_head"),
    "embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, "they have no LoRA on embed_"),
    "biases, of which the base has none": ({"bias": "all"}, None),
    **{f"begun {kind}": ({"init_lora_weights": kind}, None) for kind in ("gaussian", False, "eva")},
}


USUAL = ("head saved", "lora_bias", "dora", "tokens", "embeddings")
CASES = [
    (name, quantization)
    if quantization == "nf4" and name in USUAL
    else slow_case(name, quantization)
    for name in ACCEPTED
    for quantization in ("nf4", "none")
]


@pytest.mark.parametrize(("name", "quantization"), CASES)
def test_what_is_used_computes_what_peft_does(name: str, quantization: Any, tmp_path: Path):
    settings, why_not_fused = ACCEPTED[name]
    if (name, quantization) == ("parameters", "nf4"):
        why_not_fused = None  # there PEFT has LoRA on the layer
    trained(tiny_base(quantization), tmp_path, **settings)
    theirs = PeftModel.from_pretrained(tiny_base(quantization), str(tmp_path))
    wanted, of_base = logits(theirs), logits(tiny_base(quantization))
    assert (wanted - of_base).abs().max() > 0.05
    loaded = adapter.load(tiny_base(quantization), tmp_path, 0.0)
    assert torch.equal(logits(loaded), wanted)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), of_base)
    # as texts are written
    torch.testing.assert_close(logits(merged(loaded)), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(merged(loaded, has_lora=False)), of_base, rtol=0, atol=1e-4)
    found = obstacle(loaded)
    assert (found or "").startswith(why_not_fused or "")
    assert (found is None) == (why_not_fused is None)
    # as it is scored
    with torch.no_grad():
        loss, num_targets = target_loss(loaded, batch_of(EXAMPLES[:1], 64))
        ids, start = torch.tensor(EXAMPLES[0][0]), EXAMPLES[0][1]
        of_targets = theirs(input_ids=ids[None]).logits[0, start - 1 : -1]
    by_peft = torch.nn.functional.cross_entropy(of_targets, ids[start:], reduction="sum")
    torch.testing.assert_close(loss, by_peft, rtol=1e-4, atol=1e-4)
    assert num_targets == len(ids) - start > 0


@pytest.mark.parametrize("kind", ["orthogonal", "eva", "gaussian"])
def test_how_matrices_began_is_of_no_matter_for_a_base_in_4_bits(kind: str, tmp_path: Path):
    """PEFT would begin them anew before it reads them, which it cannot do beside 4 bits."""
    trained(tiny_base("none"), tmp_path, init_lora_weights=kind)
    with_settings(tmp_path, init_lora_weights=True)
    wanted = logits(PeftModel.from_pretrained(tiny_base(), str(tmp_path)))
    with_settings(tmp_path, init_lora_weights=kind)
    assert torch.equal(logits(adapter.load(tiny_base(), tmp_path, 0.0)), wanted)


# What is refused

VALUES: dict[str, Any] = {
    "layer_replication": [[0, 3], [1, 4]],
    "alora_invocation_tokens": [55, 56],
    "arrow_config": dataclasses.asdict(lora_configs.ArrowConfig()),
    "use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2},
    "kasa_config": dataclasses.asdict(lora_configs.KasaConfig()),
    "monteclora_config": dataclasses.asdict(lora_configs.MontecloraConfig()),
    "use_qalora": True,
    "velora_config": {"rank": 8},
    "megatron_config": {"hidden_size": 8},
}


@pytest.mark.parametrize("field", VALUES)
def test_a_kind_of_lora_that_is_not_used_here_is_refused_by_name(field: str, tmp_path: Path):
    what, remedy = REFUSED[field]
    with_settings(tmp_path, **{field: VALUES[field]})
    for use in (check_folder, lambda folder: adapter.load(tiny_base(), folder, 0.0)):
        message = refusal(use, tmp_path)
        assert message.startswith(
            f"adapter {tmp_path}: wanted LoRA that is computed here, found {field} "
        )
        assert f"in adapter_config.json: {what}. {remedy}" in message


STARTS = ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"]


@pytest.mark.parametrize("start", STARTS)
def test_matrices_that_began_with_a_change_of_the_base_are_refused(start: str, tmp_path: Path):
    """PEFT changes the base again when it loads them, if it can, and so the base's own scores."""
    message = refusal(check_folder, with_settings(tmp_path, init_lora_weights=start))
    assert f"found init_lora_weights {start!r} in adapter_config.json" in message
    assert "save_pretrained with path_initial_model_for_weight_conversion" in message


def test_mica_is_refused(tmp_path: Path):
    message = refusal(check_folder, with_settings(tmp_path, init_lora_weights="mica"))
    assert "found init_lora_weights 'mica' in adapter_config.json" in message


def test_an_adapter_for_another_task_is_refused(tmp_path: Path):
    message = refusal(check_folder, with_settings(tmp_path, task_type="SEQ_CLS"))
    assert "found task_type 'SEQ_CLS' in adapter_config.json: it was not trained to wri" in message
    check_folder(with_settings(tmp_path, task_type=None))


def test_a_field_that_nobody_knows_is_refused_where_it_asks_for_something(tmp_path: Path):
    check_folder(with_settings(tmp_path, use_xlora=False, tilora_config=None))
    message = refusal(check_folder, with_settings(tmp_path, use_xlora=True))
    assert "found use_xlora True in adapter_config.json: it is not known here what that" in message


def test_every_field_of_peft_is_decided_on_once():
    fields = sorted(field.name for field in dataclasses.fields(LoraConfig))
    assert fields == sorted([*USED, *WITHOUT_EFFECT, *REFUSED])
    assert REFUSED.keys() == VALUES.keys()


def test_trained_biases_of_the_base_are_refused(tmp_path: Path):
    """With them switched off, PEFT would still have the base compute other numbers."""
    base = base_of(tmp_path / "base", "qwen2")
    trained(AutoModelForCausalLM.from_config(read_config(base)), tmp_path / "a", bias="all")
    message = refusal(check_folder, tmp_path / "a")
    assert "found the base's own biases, trained (bias in adapter_config.json; first: " in message
    assert "k_proj.bias" in message


def test_an_enlarged_vocabulary_is_refused(tmp_path: Path):
    base = tiny_base("none")
    base.resize_token_embeddings(2050)
    trained(base, tmp_path)
    assert any(name.endswith("embed_tokens.weight") for name in load_file(weights(tmp_path)))
    message = refusal(adapter.load, tiny_base("none"), tmp_path, 0.0)
    assert re.search(r"found another (embed_tokens|lm_head) of 2050 rows in adapter_m", message)
    assert "the base's has 2048. Its vocabulary was enlarged or trained. Merge it" in message


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def test_embeddings_of_another_base_are_refused(tmp_path: Path):
    """PEFT saves the base's embeddings beside LoRA on them, and would load these."""
    trained(tiny_base("none"), tmp_path, target_modules=["q_proj", "embed_tokens"])
    tensors = load_file(weights(tmp_path))
    (name,) = (name for name in tensors if name.endswith("embed_tokens.base_layer.weight"))
    adapter.load(tiny_base("nf4"), tmp_path, 0.0)
    tensors[name] += 0.01
    save_file(tensors, weights(tmp_path))
    assert "found another embed_tokens of" in refusal(adapter.load, tiny_base(), tmp_path, 0.0)


def test_a_damaged_file_of_weights_is_refused(tmp_path: Path):
    folder = with_settings(tmp_path)
    weights(folder).write_bytes(weights(folder).read_bytes()[:500])
    assert "adapter_model.safetensors cannot be read (" in refusal(
        adapter.load, tiny_base(), folder, 0.0
    )


# What is used, but not trained on


@pytest.mark.parametrize(
    ("field", "value"),
    [("modules_to_save", ["lm_head"]), ("trainable_token_indices", [5]), ("lora_bias", True)],
)
def test_more_than_lora_is_not_trained_on(field: str, value: Any, tmp_path: Path):
    trained(tiny_base("none"), tmp_path, **{field: value})
    message = refusal(refuse_more_than_lora, tmp_path)
    assert f"wanted matrices of LoRA alone to train on from, found {field} " in message
    assert "predict, validate and test use it as it is." in message


def test_plain_lora_and_dora_are_trained_on(tmp_path: Path):
    for use_dora in (False, True):
        trained(tiny_base("none"), tmp_path / str(use_dora), use_dora=use_dora)
        refuse_more_than_lora(tmp_path / str(use_dora))


def test_a_saved_module_that_the_file_lacks_is_no_traceback(tmp_path: Path):
    trained(tiny_base("none"), tmp_path, modules_to_save=["lm_head"])
    tensors = load_file(weights(tmp_path))
    del tensors["base_model.model.lm_head.weight"]
    save_file(tensors, weights(tmp_path))
    with pytest.raises(UserError, match="does not fit the base"):
        adapter.load(tiny_base("none"), tmp_path, 0.0)
