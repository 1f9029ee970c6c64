"""The quickstart on a CUDA device, in the precision of the card and in that of a T4."""

import json
from pathlib import Path

import pytest
import torch

from amazon_desc.cli import main
from amazon_desc.hub import find_backbone
from amazon_desc.model.backbone import load_backbone
from amazon_desc.run.folder import RunFolder

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_it_learns_and_writes_on_the_card(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = RunFolder(tmp_path / "run")
    options = [
        *("--config", "configs/quickstart.yaml", "--trainer.accelerator", "gpu"),
        *("--trainer.default_root_dir", str(run.path), "--trainer.precision", precision),
        *("--trainer.max_steps", "100", "--data.num_scored", "20"),
    ]
    main(["fit", *options])
    scores = json.loads(run.metrics.read_text())["validate"]
    assert scores["tuned"]["loss"] < 0.8 * scores["base"]["loss"]
    before = run.metrics.read_text()
    main(["validate", *options])
    assert json.loads(run.metrics.read_text()) == json.loads(before)
    titles = tmp_path / "titles.txt"
    titles.write_text("Teal Mug\nOak Lamp\n")
    main(["predict", *options, "--data.titles", str(titles)])
    assert len((run.predictions / "titles.jsonl").read_text().splitlines()) == 2


def test_the_four_bit_base_lies_on_the_card() -> None:
    model = load_backbone(find_backbone("tiny"), "nf4", torch.bfloat16, torch.device("cuda", 0))
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
