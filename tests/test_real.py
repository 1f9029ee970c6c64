"""The whole way on real rows: the real tokenizer on a random Llama, and a real tiny model."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import torch

from amazon_desc.cli import main
from amazon_desc.run.folder import RunFolder

pytestmark = [pytest.mark.real, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def random_llama(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with TinyLlama's own tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("random_llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(real_dir / "tinyllama" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def options(real_dir: Path, random_llama: Path, tmp_path_factory) -> Callable[..., list[str]]:
    """Returns the reference config pointed at the real rows and the random Llama."""
    folder = tmp_path_factory.mktemp("qlora")

    def options(name: str) -> list[str]:
        return [
            *("--config", "configs/qlora.yaml", "--model.backbone", str(random_llama)),
            *("--data.train_file", str(real_dir / "trn.json.gz"), "--data.num_products", "300"),
            *("--data.prompt.chat", "false", "--trainer.default_root_dir", str(folder / name)),
            *("--trainer.max_steps", "4", "--trainer.val_check_interval", "2"),
            *("--data.validation_fraction", "0.05", "--data.test_fraction", "0.05"),
            *("--data.num_scored", "8", "--model.decoding.max_new_tokens", "6"),
            *("--checkpoint.every_n_steps", "2", "--trainer.accelerator", "cpu"),
            *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
        ]

    return options


def run_folder(options: list[str]) -> RunFolder:
    return RunFolder(Path(options[options.index("--trainer.default_root_dir") + 1]))


def state(run: RunFolder) -> dict:
    newest = run.checkpoint_files()[0]
    assert newest is not None
    return torch.load(newest, weights_only=True)


@pytest.fixture(scope="module")
def whole(options) -> RunFolder:
    """A finished run of it."""
    with chdir(ROOT):
        main(["fit", *options("whole")])
    return run_folder(options("whole"))


def test_the_reference_config_trains_and_a_killed_run_goes_on_to_the_same_end(
    options, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    killed = options("killed")
    run = run_folder(killed)
    process = subprocess.Popen(
        [sys.executable, "-m", "amazon_desc", "fit", *killed], stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not (run.checkpoints / "step=00000002.ckpt").exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0
    assert not run.is_finished()
    main(["fit", *killed])
    expected, resumed = state(whole), state(run)
    assert expected["global_step"] == resumed["global_step"] == 4
    assert expected["DescriptionData"] == resumed["DescriptionData"]
    assert expected["state_dict"]
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name
    assert run.metrics.read_text() == whole.metrics.read_text()


def test_validate_and_predict_on_the_real_titles(
    options, whole: RunFolder, real_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    expected = whole.metrics.read_text()
    main(["validate", *options("whole")])
    assert whole.metrics.read_text() == expected
    titles = (real_dir / "titles.txt").read_text(encoding="utf-8").splitlines()[:40]
    file = tmp_path / "real_titles.txt"
    file.write_text("\n".join(titles) + "\n", encoding="utf-8")
    main(["predict", *options("whole"), "--data.titles", str(file)])
    lines = (whole.predictions / "real_titles.txt.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["title"] for line in lines] == titles


def test_a_real_pretrained_model_learns_the_real_rows(
    real_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = RunFolder(tmp_path / "stories")
    main(
        [
            *("fit", "--config", "configs/quickstart.yaml", "--trainer.max_steps", "20"),
            *("--model.backbone", str(real_dir / "stories260k")),
            *("--model.decoding.max_new_tokens", "16"),
            *("--data.train_file", str(real_dir / "trn.json.gz"), "--data.num_products", "1500"),
            *("--data.num_scored", "24", "--trainer.enable_progress_bar", "false"),
            *("--trainer.default_root_dir", str(run.path), "--trainer.val_check_interval", "10"),
        ]
    )
    scores = json.loads(run.metrics.read_text())["validate"]
    assert scores["base"]["loss"] < 6.2  # a uniform guess among its 512 pieces has 6.24
    assert scores["tuned"]["loss"] < 0.85 * scores["base"]["loss"]
