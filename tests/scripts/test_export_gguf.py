"""A finished run as GGUF, by the command, to llama.cpp."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amazon_desc import Describer
from amazon_desc.describer import opened
from tests.conftest import SCRIPTS, Ended, exit_code
from tests.export.llama_cpp import LlamaCpp

TITLES = ["Red Mug", "Blue Lamp & Shade, Set of 2", "Girls Ballet Tutu Neon Pink"]
SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "4"),
    *("--data.validation_fraction", "0.1", "--model.lora.r", "4"),
    *("--model.optimizer.init_args.lr", "0.02", "--model.decoding.max_new_tokens", "16"),
    *("--model.decoding.no_repeat_ngram_size", "0", "--model.decoding.frequency_penalty", "0"),
    *("--trainer.accelerator", "cpu"),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "runs" / "shop"
    assert exit_code(["fit", *SMALL, "--trainer.default_root_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def export(run_program: Callable[..., Ended], run: Path) -> Callable[..., Ended]:
    def call(*arguments: Any) -> Ended:
        command = [str(run), "--to", "gguf", *map(str, arguments)]
        return run_program(str(SCRIPTS / "export.py"), *command, cwd=run.parent)

    return call


def prompts_of(run: Path) -> list[list[int]]:
    _, data = opened(run, accelerator="cpu", precision="32-true")
    return [data.encoder.prompt_ids(title) for title in TITLES]


def test_a_folder_has_what_llama_cpp_and_ollama_need(run: Path, export: Callable[..., Ended]):
    done = export("--type", "f32")
    folder = run / "exports" / "shop-gguf"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"Written: {folder}")
    names = ["Modelfile", "README.md", "export.json", "shop-f32.gguf"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert "\nFROM ./shop-f32.gguf\n" in (folder / "Modelfile").read_text()
    card = (folder / "README.md").read_text()
    for line in ("ollama create shop -f Modelfile", "llama-completion -m shop-f32.gguf"):
        assert line in card
    assert {*json.loads((folder / "export.json").read_text())["files"]} == {*names} - {
        "export.json"
    }
    llama = LlamaCpp(folder / "shop-f32.gguf")
    texts = [llama.greedy(ids, 16)[0].strip() for ids in prompts_of(run)]
    assert texts == Describer.from_run(run, accelerator="cpu")(TITLES)
    assert export("--type", "f32").stdout.splitlines()[-1].startswith("There already, and whole:")
    refused = export("--type", "q8_0")
    assert "another export there (its card, type differs)" in refused.stderr


def test_lora_alone_is_added_to_its_base(run: Path, export: Callable[..., Ended], tmp_path: Path):
    """Beside a base as GGUF of float32, in which the run was not trained: so not word for word."""
    done = export("--adapter-only", "--type", "f32", "--output", tmp_path / "lora")
    assert done.returncode == 0, done.stderr
    names = ["README.md", "export.json", "shop-lora-f32.gguf"]
    assert sorted(file.name for file in (tmp_path / "lora").iterdir()) == names
    assert "--lora shop-lora-f32.gguf" in (tmp_path / "lora" / "README.md").read_text()


def test_what_llama_cpp_has_no_file_for_is_refused(
    run: Path, export: Callable[..., Ended], tmp_path: Path
):
    refused = export("--adapter-only", "--type", "q4_0", "--output", tmp_path / "lora")
    assert refused.returncode == 2
    assert "wanted a type of weights out of f32, f16, bf16, q8_0, found q4_0" in refused.stderr
    assert not (tmp_path / "lora").exists()
