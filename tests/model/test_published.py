"""An adapter has the names of the published model on the disk, and those of the text model here."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from amazon_desc.model import adapter
from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.adapter_folder import unused_in
from amazon_desc.model.backbone import keep_quantized_layout, load_backbone
from amazon_desc.model.families import FAMILIES, text_part_of
from amazon_desc.model.published import named_by_us, pattern_of
from amazon_desc.model.skeleton import skeleton
from amazon_desc.model.suitability import read_config
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import find_backbone
from tests.gemma_base import full_gemma, text_gemma

IDS = torch.arange(20, 70).unsqueeze(0)  # more than a window
PART: Any = FAMILIES["gemma3_text"].text_part
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PUBLISHED = "base_model.model.model.language_model."


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_gemma(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def full_new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_gemma(tmp_path_factory.mktemp("full_new"), "new")


@pytest.fixture(scope="module")
def text_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_gemma(tmp_path_factory.mktemp("text"))


def text_model(folder: Path, quantization: Any = "none") -> Any:
    base = find_backbone(str(folder))
    return load_backbone(base, quantization, torch.float32, torch.device("cpu"))


def published_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def randomised(model: Any) -> Any:
    """Gives all that is trainable random numbers: untrained LoRA changes nothing."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * noise.to(parameter.dtype)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    keep_quantized_layout(model)
    return model.eval()(input_ids=IDS).logits


@pytest.fixture
def no_warning() -> Iterator[None]:
    """PEFT only warns of matrices that it does not find."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        yield


# What is trained here


@pytest.mark.parametrize("layout", ["full", "full_new"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.usefixtures("no_warning")
def test_plain_peft_computes_our_logits_on_the_published_model(
    layout: str, quantization: Any, request: pytest.FixtureRequest, tmp_path: Path
):
    base: Path = request.getfixturevalue(layout)
    ours = randomised(adapter.attach(text_model(base, quantization), LoraSettings(r=4, alpha=8)))
    adapter.save(
        ours, tmp_path, str(base), None, text_part_of(read_config(find_backbone(str(base))))
    )
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["target_modules"] == (
        r"model\.language_model\.(?:.*\.)?"
        r"(?:down_proj|gate_proj|k_proj|o_proj|q_proj|up_proj|v_proj)"
    )
    names = set(load_file(tmp_path / WEIGHTS))
    assert len(names) == 2 * 7 * 3
    assert all(name.startswith(f"{PUBLISHED}layers.") for name in names)

    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path, **options)
    assert type(theirs.get_base_model()).__name__ == "Gemma3ForConditionalGeneration"
    with_lora = [name for name, m in theirs.named_modules() if hasattr(m, "lora_A")]
    assert len(with_lora) == 21
    assert not [name for name in with_lora if "language_model" not in name]
    assert torch.equal(logits(theirs), logits(ours))
    with theirs.disable_adapter():
        effect = (logits(theirs) - logits(ours)).abs().max()
    assert effect > 0.1

    again = adapter.load(text_model(base, quantization), tmp_path, 0.0)
    assert torch.equal(logits(again), logits(ours))
    assert list(adapter.overruled(tmp_path, LoraSettings(r=4, alpha=8))) == []


def test_memory_and_checkpoints_keep_the_names_of_the_text_model(full: Path, tmp_path: Path):
    ours = adapter.attach(text_model(full), LoraSettings(r=4))
    before = set(adapter.trainable_state(ours))
    assert "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight" in before
    adapter.save(ours, tmp_path, str(full), None, PART)
    assert set(adapter.trainable_state(ours)) == before
    loaded = adapter.load(text_model(full), tmp_path, 0.0)
    assert set(adapter.trainable_state(loaded)) == before
    adapter.check_shapes(adapter.trainable_state(loaded), adapter.trainable_state(ours))
    adapter.save(ours, tmp_path, str(full), None, PART)  # a second validation does the same
    assert all(name.startswith(PUBLISHED) for name in load_file(tmp_path / WEIGHTS))


@pytest.mark.usefixtures("no_warning")
def test_a_gemma_that_is_text_alone_keeps_plain_names(text_alone: Path, tmp_path: Path):
    ours = randomised(adapter.attach(text_model(text_alone), LoraSettings(r=4)))
    part = text_part_of(read_config(find_backbone(str(text_alone))))
    assert part is None
    adapter.save(ours, tmp_path, str(text_alone), None, part)
    assert "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" in load_file(
        tmp_path / WEIGHTS
    )
    names = json.loads((tmp_path / CONFIG).read_text())["target_modules"]
    assert names[:2] == ["down_proj", "gate_proj"]
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(theirs), logits(ours))
    again = adapter.load(text_model(text_alone), tmp_path, 0.0)
    assert torch.equal(logits(again), logits(ours))


@pytest.mark.usefixtures("no_warning")
def test_an_adapter_of_before_in_the_names_of_the_text_model_loads_and_is_saved_in_the_others(
    full: Path, tmp_path: Path
):
    ours = randomised(adapter.attach(text_model(full), LoraSettings(r=4)))
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, part in ((old, None), (new, PART)):
        folder.mkdir()
        loaded = ours if part is None else adapter.load(text_model(full), old, 0.0)
        assert torch.equal(logits(loaded), logits(ours))
        adapter.save(loaded, folder, str(full), None, part)
    theirs = AutoPeftModelForCausalLM.from_pretrained(new, dtype=torch.float32)
    assert torch.equal(logits(theirs), logits(ours))


def test_a_dora_adapter_has_its_norms_in_the_published_names_too(full: Path, tmp_path: Path):
    ours = randomised(adapter.attach(text_model(full), LoraSettings(r=4, use_dora=True)))
    adapter.save(ours, tmp_path, str(full), None, PART)
    assert f"{PUBLISHED}layers.2.mlp.up_proj.lora_magnitude_vector" in load_file(tmp_path / WEIGHTS)
    theirs = PeftModel.from_pretrained(published_model(full), str(tmp_path))
    assert torch.equal(logits(theirs), logits(ours))
    assert torch.equal(logits(adapter.load(text_model(full), tmp_path, 0.0)), logits(ours))


# What others trained on the published model

LINEARS = "q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2|gate_proj|up_proj|down_proj"
PARTS = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"


def unsloth(parts: str) -> str:
    """Returns a pattern of layers as Unsloth writes it into adapter_config.json."""
    return (
        rf"(?:.*?(?:{parts}).*?(?:{PARTS}).*?(?:{LINEARS}).*?)|"
        rf"(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{PARTS})\.(?:(?:{LINEARS})))"
    )


FOREIGN = {
    "trl": {"target_modules": ["q_proj", "v_proj", "up_proj"]},
    "trl all-linear": {"target_modules": "all-linear"},
    "unsloth text": {"target_modules": unsloth("language|text")},
    "unsloth both": {"target_modules": unsloth("vision|image|visual|patch|language|text")},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "exclude_modules": ["vision_tower.encoder.layers.0.self_attn.q_proj"],
        "rank_pattern": {r"language_model\.layers\.1\.self_attn\.q_proj": 2, "down_proj": 3},
        "alpha_pattern": {"model.language_model.layers.0.mlp.down_proj": 40},
    },
    "rslora": {"target_modules": ["q_proj", "o_proj"], "use_rslora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "saved": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["multi_modal_projector", "model.language_model.norm"],
    },
    "guide": {"target_modules": "all-linear", "modules_to_save": ["lm_head", "embed_tokens"]},
    "guide, tied": {
        "target_modules": "all-linear",
        "modules_to_save": ["lm_head", "embed_tokens"],
        "ensure_weight_tying": True,
    },
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [30, 31]},
    "bias": {"target_modules": ["q_proj"], "lora_bias": True},
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"]},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
}
WITH_VISION = {"trl", "trl all-linear", "unsloth both", "patterns", "rslora", "head", "saved"}
WITH_VISION |= {"one layer", "tokens", "bias", "dora", "guide", "guide, tied", "parameters"}


def of_others(base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """Trains, as it were, on the published model, as TRL and Unsloth do; returns the logits."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings})
    model = randomised(get_peft_model(published_model(base), config))
    model.save_pretrained(str(folder))
    return logits(model)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.usefixtures("no_warning")
def test_an_adapter_that_was_trained_on_the_published_model_computes_its_logits_here(
    name: str, full: Path, tmp_path: Path
):
    wanted = of_others(full, tmp_path / "theirs", **FOREIGN[name])
    loaded = adapter.load(text_model(full), tmp_path / "theirs", 0.05)
    torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=1e-5)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), logits(text_model(full)))

    config = read_config(find_backbone(str(full))).get_text_config()
    said = unused_in(tmp_path / "theirs", config)
    assert (said is not None) == (name in WITH_VISION)
    if said is not None:
        assert re.search(r"has \d+ matrices for images too \(first: .*(vision|modal)", said)
    planned = skeleton(config, LoraSettings(), tmp_path / "theirs")
    assert adapter.settings_of(planned) == adapter.settings_of(loaded)

    if name in ("saved", "tokens", "bias", "guide", "guide, tied"):
        return  # not trained on here, so never saved
    (tmp_path / "ours").mkdir()
    adapter.save(loaded, tmp_path / "ours", str(full), None, PART)
    theirs = PeftModel.from_pretrained(published_model(full), str(tmp_path / "ours"))
    torch.testing.assert_close(logits(theirs), wanted, rtol=0, atol=1e-5)
    again = adapter.load(text_model(full), tmp_path / "ours", 0.0)
    assert torch.equal(logits(again), logits(loaded))


@pytest.mark.parametrize("name", ["trl", "unsloth text", "patterns", "saved"])
def test_adapters_in_the_names_that_the_published_model_had_before_load_too(
    name: str, full: Path, tmp_path: Path
):
    """transformers of before called its layers language_model.model.layers..."""
    wanted = of_others(full, tmp_path, **FOREIGN[name])
    tensors = load_file(tmp_path / WEIGHTS)
    old = {
        key.replace(".model.language_model.", ".language_model.model.")
        .replace(".model.vision_tower.", ".vision_tower.vision_model.")
        .replace(".model.multi_modal", ".multi_modal"): tensor
        for key, tensor in tensors.items()
    }
    assert "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in old
    save_file(old, tmp_path / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text())
    for field in ("alpha_pattern", "modules_to_save"):
        text = json.dumps(config[field]).replace("model.language_model.", "language_model.model.")
        config[field] = json.loads(text)
    if name == "patterns":
        config["rank_pattern"] = {
            "language_model.model.layers.1.self_attn.q_proj": 2,
            "down_proj": 3,
        }
    (tmp_path / CONFIG).write_text(json.dumps(config))
    loaded = adapter.load(text_model(full), tmp_path, 0.0)
    torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=1e-5)


def test_an_adapter_for_images_alone_is_refused(full: Path, tmp_path: Path):
    of_others(full, tmp_path, target_modules=r".*vision_tower.*\.q_proj")
    for use in (
        lambda: adapter.load(text_model(full), tmp_path, 0.0),
        lambda: unused_in(tmp_path, text_model(full).config),
    ):
        with pytest.raises(UserError, match=r"found those of other parts .*vision_tower"):
            use()


def test_a_matrix_that_is_lacking_is_missed_under_published_names_too(full: Path, tmp_path: Path):
    of_others(full, tmp_path, target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors[f"{PUBLISHED}layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="1 matrices missing, 0 unknown"):
        adapter.load(text_model(full), tmp_path, 0.0)


# Names


def test_a_pattern_names_what_it_was_made_of_and_nothing_else():
    pattern = pattern_of(PART, ["v_proj", "q_proj"])
    assert pattern == r"model\.language_model\.(?:.*\.)?(?:q_proj|v_proj)"
    assert named_by_us(pattern) == ["q_proj", "v_proj"]
    assert re.fullmatch(pattern, "model.language_model.layers.0.self_attn.q_proj")
    for other in ("model.vision_tower.layers.0.q_proj", "model.layers.0.q_proj", "lm_head"):
        assert not re.fullmatch(pattern, other)
    of_layer = pattern_of(PART, ["model.layers.1.mlp.up_proj", "lm_head"])
    assert re.fullmatch(of_layer, "model.language_model.layers.1.mlp.up_proj")
    assert re.fullmatch(of_layer, "lm_head")
    assert not re.fullmatch(of_layer, "model.language_model.layers.10.mlp.up_proj")
    assert named_by_us(unsloth("text")) == named_by_us(["q_proj"]) == named_by_us(None) == []


@pytest.mark.parametrize(
    ("published", "text"),
    [
        ("model.language_model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("language_model.model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head", "lm_head"),
        ("model.layers.0", "model.layers.0"),
    ],
)
def test_names_of_either_side(published: str, text: str):
    assert PART.text_name(published) == text
    assert PART.is_published(published) == (published != text)
    if published.startswith("model.language_model."):
        assert PART.published_name(text) == published
