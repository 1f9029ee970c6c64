"""llama.cpp and Ollama's prompt write the texts that predict writes, greedily, of whole models."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from amazon_desc import Describer
from amazon_desc.export.gguf.modelfile import modelfile
from amazon_desc.export.gguf.writer import write_gguf
from amazon_desc.export.weights import merged_weights, weights_of
from tests.conftest import exit_code
from tests.export.go_template import prompt_for
from tests.export.llama_cpp import LlamaCpp
from tests.export.test_gguf import TINY
from tests.export.test_gguf_tokenizer import assert_same_ids, real_texts  # noqa: F401 (a fixture)

TITLES = [
    *("Maroon Glass Soap Dispenser by Velderane, Limited Edition", "Noonstead Bath Mat, Scarlet"),
    *("Girls Ballet Tutu Neon Pink", "Oak Chess Set", "Red Mug", "Teal Bicycle Bell, Large"),
]
# Two tokens whose logarithms of probability are this near may change places in f16.
NEARLY_TIED = 0.03

pytestmark = pytest.mark.slow


def assert_same_text(llama: LlamaCpp, prompt: list[int], expected: list[int]) -> None:
    """Each token is the one expected, or as likely as that one as far as f16 can tell."""
    _, found = llama.greedy(prompt, len(expected))
    same = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if same is not None:
        likely = llama.log_probabilities([*prompt, *expected[:same]], 8)
        assert likely[found[same]] - likely.get(expected[same], -99) < NEARLY_TIED


def written_by_transformers(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Returns what comes after the prompt, without an end token."""
    found = model.generate(torch.tensor([prompt]), max_new_tokens=num_tokens, do_sample=False)
    ids = found[0, len(prompt) :].tolist()
    return ids[:-1] if ids[-1] == model.config.eos_token_id else ids


@pytest.mark.real
def test_of_stories260k_the_published_story(real_dir: Path, tmp_path: Path):
    folder = real_dir / "stories260k"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = model.state_dict().items()
    write_gguf(weights, model.config, folder, tmp_path / "m.gguf", "f16", {"name": "stories260k"})
    text, _ = LlamaCpp(tmp_path / "m.gguf").greedy("Once upon a time", 200)
    story = (folder / "reference_greedy.txt").read_text("utf-8")
    assert len(text) > 400
    assert story.startswith("Once upon a time" + text)


@pytest.fixture(scope="module")
def describe(tmp_path_factory: pytest.TempPathFactory) -> Describer:
    """What writes with a run that is finished."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    options = (
        *("--config", "configs/quickstart.yaml", "--trainer.default_root_dir", str(run)),
        *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
        *("--data.num_products", "300", "--data.num_scored", "2", "--trainer.max_steps", "20"),
    )
    assert exit_code(["fit", *options]) == 0
    return Describer.from_run(run, accelerator="cpu")


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_of_a_tuned_run_what_predict_writes(kind: str, describe: Describer, tmp_path: Path):
    greedy = replace(describe.decoding, no_repeat_ngram_size=0, frequency_penalty=0.0)
    network, encoder = describe.model.network, describe.data.encoder
    weights = merged_weights(weights_of(network))
    file = tmp_path / "m.gguf"
    write_gguf(weights, network.config, TINY, file, kind, {}, encoder=encoder)
    llama, text = LlamaCpp(file), modelfile("m.gguf", TINY, encoder, greedy)
    found = describe.predictions(TITLES, no_repeat_ngram_size=0, frequency_penalty=0.0)
    for title, prediction in zip(TITLES, found, strict=True):
        prompt = prompt_for(text, describe.data.clean_title(title))
        written, ids = llama.greedy(prompt, greedy.max_new_tokens)
        expected = encoder.description_ids([prediction.description.text], [greedy.max_new_tokens])
        if kind == "f32":
            assert written.strip() == prediction.description.text
        assert len(ids) > 5
        assert_same_text(llama, llama.ids(prompt, with_special=True), expected[0])


@pytest.fixture(scope="module")
def smollm2() -> Path:
    named = os.environ.get("AMAZON_DESC_SMOLLM2_DIR")
    if not named:
        pytest.skip("needs SmolLM2-135M-Instruct: set AMAZON_DESC_SMOLLM2_DIR to its folder")
    return Path(named)


@pytest.mark.real
def test_of_smollm2_what_transformers_writes(
    smollm2: Path,
    tmp_path: Path,
    real_texts: list[str],  # noqa: F811
):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    weights = model.state_dict().items()
    write_gguf(weights, model.config, smollm2, tmp_path / "m.gguf", "f16", {"name": "SmolLM2"})
    llama = LlamaCpp(tmp_path / "m.gguf")
    assert_same_ids(llama, smollm2, real_texts)
    for title in TITLES:
        asked = f"<|im_start|>user\nDescribe: {title}<|im_end|>\n<|im_start|>assistant\n"
        prompt = llama.ids(asked, with_special=True)
        assert prompt.count(1) == 2  # <|im_start|> is BOS: none but the template's own
        assert_same_text(llama, prompt, written_by_transformers(model, prompt, 48))
