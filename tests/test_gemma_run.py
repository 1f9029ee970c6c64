"""configs/gemma3.yaml as it ships: a Gemma 3 with a part for images, off a gated hub, to its texts.

The base comes from a stand-in of the hub, small and random, in its published form; the products are
invented ones in the data set's own zip.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from amazon_desc.cli import main
from amazon_desc.data.encoding.markers import TITLE_SHOWN
from amazon_desc.model.identity import read_record
from amazon_desc.run.checkpoints import read_checkpoint
from amazon_desc.run.folder import RunFolder
from tests.conftest import forget_downloads
from tests.gemma_base import END_OF_TURN, EOS, full_gemma
from tests.hub_stand_in import StandInHub
from tests.test_reference_run import write_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NAME, TOKEN = "google/gemma-3-4b-it", "hf_secretsecretsecretsecretsecretse"
FIT = [
    *("fit", "--config", "configs/gemma3.yaml", "--trainer.val_check_interval", "4"),
    *("--checkpoint.every_n_steps", "2", "--trainer.max_steps", "10", "--data.num_scored", "4"),
    *("--model.decoding.max_new_tokens", "12", "--data.num_workers", "0"),
    *("--data.row_tokens", "512"),
]


def killed_fit(hub: StandInHub, run: RunFolder, after: int) -> None:
    """Runs the fit in a process of its own, which is killed when it has so many checkpoints."""
    there = {**os.environ, **hub.environment(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "amazon_desc", *FIT],
        env=there,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        until = time.monotonic() + 240
        while len(run.checkpoint_files()) < after and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said
    assert TOKEN not in said


def test_the_commands_of_gemma_run_word_for_word(
    stand_in_hub: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    repo = stand_in_hub.publish(NAME, full_gemma(tmp_path / "published"), access="gated")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    write_data(place / "LF-Amazon-1.3M.raw.zip")
    (place / "titles.txt").write_text(f"{TITLE_SHOWN}\nRed Mug\n")
    run = RunFolder(place / "runs" / "gemma3")

    with pytest.raises(SystemExit) as exit_:
        main(FIT)
    assert exit_.value.code == 2
    licence = f"accept the licence on {stand_in_hub.endpoint}/{NAME}, and set HF_TOKEN"
    assert licence in capfd.readouterr().err

    stand_in_hub.accept(TOKEN, NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forget_downloads()
    killed_fit(stand_in_hub, run, after=2)
    capfd.readouterr()
    main(FIT)
    ended = capfd.readouterr()
    said = ended.out + ended.err
    assert f"Resuming from {run.path.relative_to(place)}/checkpoints/" in said
    assert "UNEXPECTED" not in said  # transformers' table of the weights for images
    assert run.is_finished()
    assert run.read_record()["num_steps"] == 10
    scores = json.loads(run.metrics.read_text("utf-8"))["validate"]
    assert scores["tuned"]["loss"] < scores["base"]["loss"]

    with safe_open(run.adapter / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert len(names) == 2 * 7 * 3
    assert all(n.startswith("base_model.model.model.language_model.layers.") for n in names)
    weights = read_checkpoint(run.checkpoint_files()[0])["state_dict"]
    assert not [name for name in weights if "language_model" in name]
    record = read_record(run.adapter)
    assert record is not None
    assert record["is_chat"]
    assert record["frame"][2] == "<end_of_turn>\n"

    main(["predict", *FIT[1:], "--data.titles", "titles.txt"])
    lines = (run.predictions / "titles.txt.jsonl").read_text("utf-8").splitlines()
    text = json.loads(lines[0])["description"]
    assert len(text) > 10
    capfd.readouterr()
    assert the_card_writes(run.adapter, capfd) == text + "\n"
    card = (run.adapter / "README.md").read_text("utf-8")
    assert f'revision="{repo.commit}"' in card
    assert f"eos_token_id=[{END_OF_TURN}, {EOS}]" in card
    for file in (f for f in run.path.rglob("*") if f.is_file()):
        assert TOKEN.encode() not in file.read_bytes()


def the_card_writes(adapter: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Runs the Python of the model card, word for word; returns what it prints."""
    card = (adapter / "README.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    base = names["model"].get_base_model()
    assert type(base).__name__ == "Gemma3ForConditionalGeneration"
    with_lora = [n for n, layer in names["model"].named_modules() if hasattr(layer, "lora_A")]
    assert len(with_lora) == 21
    assert not [name for name in with_lora if "vision" in name]
    return capfd.readouterr().out
