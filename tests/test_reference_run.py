"""configs/qlora.yaml as it ships, word for word, on a base and a data set in their published form.

The base comes from a stand-in of the hub, small and random; the products are invented ones in the
data set's own zip.
"""

import gzip
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from amazon_desc.cli import main
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.resources import SAMPLE_PRODUCTS
from tests import published_layouts
from tests.conftest import forget_downloads
from tests.hub_stand_in import StandInHub

pytestmark = pytest.mark.slow

NAME = "TinyLlama/TinyLlama_v1.1"
NUM_PRODUCTS = 300
TITLES = ["Red Mug", "Girls Ballet Tutu Neon Pink"]


def write_data(file: Path) -> None:
    """Writes the zip that the data set comes in, with some of the products that ship."""
    with gzip.open(SAMPLE_PRODUCTS, "rt", encoding="utf-8") as lines:
        products = [line for line, _ in zip(lines, range(NUM_PRODUCTS), strict=False)]
    with zipfile.ZipFile(file, "w") as archive:
        member = gzip.compress("".join(products).encode())
        archive.writestr("LF-Amazon-1.3M/trn.json.gz", member)


def test_the_reference_commands_run_word_for_word(
    stand_in_hub: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    published = published_layouts.one_bin(tmp_path / "published")
    repo = stand_in_hub.publish(NAME, published)
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    write_data(place / "LF-Amazon-1.3M.raw.zip")
    (place / "titles.txt").write_text("\n".join(TITLES) + "\n")
    run = RunFolder(place / "runs" / "qlora")

    main(["fit", "--config", "configs/qlora.yaml"])
    said = capsys.readouterr().out
    assert said.count(f"Converting the weights of {NAME} to safetensors, once: 0.0") == 1
    assert run.is_finished()
    num_steps = run.read_record()["num_steps"]
    rows = re.search(r"in (\d+) rows of 2048", said)
    assert rows is not None
    assert num_steps == int(rows[1]) > 10  # a row a step, one epoch
    card = (run.adapter / "README.md").read_text(encoding="utf-8")
    assert f"base_model: {NAME}" in card
    assert f'revision="{repo.commit}"' in card
    assert "pytorch_model.bin" in stand_in_hub.fetched(NAME)

    forget_downloads()
    main(["validate", "--config", "configs/qlora.yaml"])
    scores = json.loads(run.metrics.read_text(encoding="utf-8"))["validate"]
    assert scores["tuned"]["loss"] < scores["base"]["loss"]

    from_the_hub = predicted_by_an_adapter_of_the_hub(run, stand_in_hub, tmp_path)
    said = capsys.readouterr().out
    assert f"was trained on the base some/other, this run has {NAME}." in said

    stand_in_hub.close()  # what is in the cache suffices
    forget_downloads()
    main(["predict", "--config", "configs/qlora.yaml", "--data.titles", "titles.txt"])
    descriptions = (run.predictions / "titles.txt.jsonl").read_bytes()
    assert [json.loads(line)["title"] for line in descriptions.splitlines()] == TITLES
    assert capsys.readouterr().out.count("Converting") == 0
    assert from_the_hub == descriptions


def predicted_by_an_adapter_of_the_hub(run: RunFolder, hub: StandInHub, folder: Path) -> bytes:
    """Publishes the run's adapter as PEFT would have written it for a base of another name."""
    adapter = Path(shutil.copytree(run.adapter, folder / "adapter"))
    (adapter / "amazon_desc.json").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "some/other"
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    hub.publish("some/adapter", adapter)
    main(
        [
            *("predict", "--config", "configs/qlora.yaml", "--data.titles", "titles.txt"),
            *("--model.adapter", "some/adapter", "--trainer.default_root_dir", "runs/other"),
        ]
    )
    return (RunFolder(Path("runs/other")).predictions / "titles.txt.jsonl").read_bytes()
