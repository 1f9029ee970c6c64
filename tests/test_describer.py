"""Describer writes what predict writes, and leaves the process and the run as they were."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amazon_desc import Describer
from amazon_desc.support.errors import UserError
from tests.conftest import exit_code

TITLES = ["Red Mug", "<b>Blue</b> Lamp &amp; Shade", "Girls Ballet Tutu Neon Pink"]
SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "2"),
    *("--data.validation_fraction", "0.1", "--model.lora.r", "4"),
    *("--model.decoding.max_new_tokens", "12", "--trainer.accelerator", "cpu"),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("describer") / "run"
    titles = folder.parent / "three.txt"
    titles.write_text("".join(f"{title}\n" for title in TITLES))
    options = [*SMALL, "--trainer.default_root_dir", str(folder)]
    assert exit_code(["fit", *options]) == 0
    assert exit_code(["predict", *options, "--data.titles", str(titles)]) == 0
    return folder


@pytest.fixture(scope="module")
def describer(run: Path) -> Describer:
    return Describer.from_run(run, accelerator="cpu")


def test_texts_are_those_of_predict(run: Path, describer: Describer):
    lines = (run / "predictions/three.txt.jsonl").read_text("utf-8").splitlines()
    assert describer(TITLES) == [json.loads(line)["description"] for line in lines]
    assert describer(TITLES[:1]) == describer(TITLES)[:1]
    assert describer([]) == []


def test_settings_may_be_given_over_the_runs_own(describer: Describer):
    found = describer.predictions(TITLES, max_new_tokens=4, temperature=1.0, num_candidates=2)
    assert [p.description.num_tokens for p in found] == [4] * 3
    assert [len(p.others) for p in found] == [1] * 3
    assert describer.decoding.max_new_tokens == 12
    with pytest.raises(UserError, match="top_p"):
        describer(TITLES, top_p=0.5)


def test_a_text_grows_to_that_of_predict(run: Path, describer: Describer):
    """Whoever was left before its end, and with whatever settings it was written."""
    line = (run / "predictions/three.txt.jsonl").read_text("utf-8").splitlines()[0]
    next(describer.stream(TITLES[2], has_lora=False, temperature=2.0))
    *parts, whole = describer.stream(TITLES[0])
    assert whole.description.text == json.loads(line)["description"]
    assert [part.description.num_tokens for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) > 3
    for settings in ({}, {"max_new_tokens": 5}, {"num_beams": 2}, {"temperature": 1.0, "seed": 4}):
        for has_lora in (True, False):
            (expected,) = describer.write(
                [(TITLES[1], "")],
                replace(describer.decoding, **settings),
                describer.data.clean_title,
                has_lora=has_lora,
            )
            *_, whole = describer.stream(TITLES[1], has_lora=has_lora, **settings)
            assert whole == expected


def test_what_a_text_is_written_with_is_kept(describer: Describer):
    list(describer.stream(TITLES[0], num_beams=1))
    kept = describer.kept[True]
    list(describer.stream(TITLES[1], max_new_tokens=3))
    assert describer.kept[True] is kept
    list(describer.stream(TITLES[1], num_beams=2))
    assert describer.kept[True] is not kept


def test_another_text_ends_the_one_before(describer: Describer):
    before = describer.stream(TITLES[0])
    next(before)
    *_, whole = describer.stream(TITLES[1])
    assert list(before) == []
    assert whole == describer.predictions(TITLES[1:2])[0]
    with pytest.raises(UserError, match="top_p"):
        describer.stream(TITLES[0], top_p=0.5)


def test_one_text_is_not_taken_for_many_titles(describer: Describer):
    with pytest.raises(UserError, match=r"wanted a list of titles.*\[title\]"):
        describer("Red Mug")  # pyright: ignore[reportArgumentType]


def test_random_states_and_the_run_stay_as_they_were(run: Path):
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    Describer.from_run(run, accelerator="cpu")(TITLES, temperature=1.0)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == files


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"wanted a run folder, found no config\.yaml"):
        Describer.from_run(tmp_path)


def test_a_run_that_was_started_from_an_adapter_writes_with_its_own(run: Path, tmp_path: Path):
    """Its configuration names the adapter that it began with."""
    begun = tmp_path / "begun"
    options = [*SMALL, "--model.adapter", str(run / "adapter"), "--seed_everything", "5"]
    assert exit_code(["fit", *options, "--trainer.default_root_dir", str(begun)]) == 0
    describer = Describer.from_run(begun, accelerator="cpu")
    assert describer.model.adapter == str(begun / "adapter")
