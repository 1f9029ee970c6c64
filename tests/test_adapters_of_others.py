"""An adapter that another tool trained, through whole commands: the texts are those of PEFT."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import commands_in
from tests.gemma_base import full_gemma

pytestmark = pytest.mark.slow

TITLES = ["Red Mug", "Girls Ballet Tutu Neon Pink"]
NEW_TOKENS = 12
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "40", "--data.num_scored", "2", "--data.test_fraction", "0"),
    *("--data.validation_fraction", "0.1", "--model.quantization", "none"),
    *("--model.decoding.max_new_tokens", str(NEW_TOKENS), "--trainer.precision", "32-true"),
    *("--model.decoding.frequency_penalty", "0", "--model.decoding.no_repeat_ngram_size", "0"),
]
Call = Callable[..., int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("others")
    (folder / "titles.txt").write_text("\n".join(TITLES) + "\n")
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    return commands_in(place, SMALL)


@pytest.fixture(scope="module")
def gemma(place: Path) -> Path:
    return full_gemma(place / "gemma")


def loaded(base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def trained(base: Path, folder: Path, **settings: Any) -> Path:
    """Saves an adapter of PEFT's of whose numbers none is that of an untrained one."""
    torch.manual_seed(1)
    targets = settings.pop("target_modules", ["q_proj", "down_proj"])
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(loaded(base), config)  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(str(folder))
    return folder


def texts_by_peft(base: Path, adapter: Path) -> list[str]:
    """Returns what PEFT writes greedily on the base as it was published."""
    tokenizer = load_tokenizer(base)
    encoder = Encoder(tokenizer, PromptSettings(), 256)
    model = PeftModel.from_pretrained(loaded(base), str(adapter)).eval()
    ends, texts = [encoder.end_id, encoder.eos_id], []
    for ids in encoder.prompts(TITLES):
        written = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        new = written[0, len(ids) :]
        text = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        texts.append(text.rstrip("\ufffd").strip())
    return texts


KINDS: dict[str, dict[str, Any]] = {
    "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "bias": {"lora_bias": True},
    "dora": {"use_dora": True},
    "tokens": {"trainable_token_indices": [300, 301, 302]},
    "head": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "ranks": {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"down_proj": 30}},
    "parameters": {"target_parameters": ["mlp.up_proj.weight"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_predict_writes_and_validate_scores_what_plain_peft_does(
    kind: str, call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    adapter = trained(TINY_BASE, place / f"of_{kind}", **KINDS[kind])
    options = ("--model.adapter", str(adapter))
    assert call("predict", kind, *options) == 0
    lines = (place / kind / "predictions" / "titles.txt.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line)["description"] for line in lines]
    assert found == texts_by_peft(TINY_BASE, adapter)
    assert len(set(found)) == 2

    assert call("validate", kind, *options) == 0
    scores = json.loads((place / kind / "metrics.json").read_text("utf-8"))["validate"]
    assert abs(scores["tuned"]["loss"] - scores["base"]["loss"]) > 1e-3

    if kind in ("saved", "bias", "tokens"):
        capfd.readouterr()
        assert call("fit", f"on {kind}", *options) == 2
        assert "wanted matrices of LoRA alone to train on from, found " in capfd.readouterr().err
    if kind == "head":
        assert call("fit", f"on {kind}", *options, "--trainer.max_steps", "1") == 0


def test_an_adapter_that_covers_images_too_writes_the_published_models_texts(
    call: Call, place: Path, gemma: Path, capfd: pytest.CaptureFixture[str]
):
    adapter = trained(gemma, place / "of_images", target_modules="all-linear")
    options = ("--model.adapter", str(adapter), "--model.backbone", str(gemma))
    assert call("predict", "images", *options) == 0
    said = capfd.readouterr().out
    assert f"The adapter {adapter} has 24 matrices for images too (first: base_model" in said
    lines = (place / "images" / "predictions" / "titles.txt.jsonl").read_text("utf-8")
    found = [json.loads(line)["description"] for line in lines.splitlines()]
    assert found == texts_by_peft(gemma, adapter)


def test_training_goes_on_from_an_adapter_of_the_published_model_and_leaves_in_its_names(
    call: Call, place: Path, gemma: Path
):
    adapter = trained(gemma, place / "of_trl", target_modules=["q_proj", "v_proj"])
    options = ("--model.adapter", str(adapter), "--model.backbone", str(gemma))
    assert call("fit", "trl", *options, "--trainer.max_steps", "1") == 0
    ours = place / "trl" / "adapter"
    assert call("predict", "trl", "--model.backbone", str(gemma)) == 0
    lines = (place / "trl" / "predictions" / "titles.txt.jsonl").read_text("utf-8")
    found = [json.loads(line)["description"] for line in lines.splitlines()]
    assert found == texts_by_peft(gemma, ours)
    config = json.loads((ours / "adapter_config.json").read_text("utf-8"))
    assert config["target_modules"] == r"model\.language_model\.(?:.*\.)?(?:q_proj|v_proj)"
    assert config["r"] == 4
