"""On a CPU, in float32, a title's text does not depend on the titles beside it.

Hundreds of titles are written in batches of several sizes, in another order, and by a command that
was killed at any line and run again: each has the same text, and equal files have equal bytes.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predicting.callback import PredictionFile
from tests.conftest import commands_in, exit_code

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NUM_TITLES = 250
WORDS = ["Red", "small", "lamp", "of", "oak", "Mug", "for", "two", "girls", "with", "tin", "box"]
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "2"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0", "--model.lora.r", "4"),
    *("--model.decoding.max_new_tokens", "12", "--trainer.accelerator", "cpu"),
]
WAYS = {
    "greedy": ["--model.decoding.no_repeat_ngram_size", "2"],
    "drawn": [
        *("--model.decoding.temperature", "0.9", "--model.decoding.top_p", "0.95"),
        *("--model.decoding.repetition_penalty", "1.1", "--model.decoding.seed", "3"),
    ],
}


@pytest.fixture(scope="module")
def titles() -> list[str]:
    """Titles of 2 to 17 words, each of them once."""
    chosen = random.Random(0)
    return [
        " ".join([str(number), *chosen.choices(WORDS, k=chosen.randint(1, 16))])
        for number in range(NUM_TITLES)
    ]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a small run that is finished."""
    place = tmp_path_factory.mktemp("many")
    assert commands_in(place, SMALL)("fit", "run") == 0
    return [*SMALL, "--trainer.default_root_dir", str(place / "run")]


class Predict:
    """`predict` for a list of titles, in the finished run."""

    def __init__(self, options: list[str], name: str, titles: list[str], size: int, way: str):
        run = RunFolder(Path(options[-1]))
        file = run.path.parent / f"{name}.txt"
        file.write_text("".join(f"{title}\n" for title in titles))
        self.output = run.predictions / f"{name}.txt.jsonl"
        self.partial = run.predictions / f"{name}.txt.jsonl.partial"
        asked = ["--data.titles", str(file), "--data.generation_batch_size", str(size)]
        self.arguments = ["predict", *options, *asked, *WAYS[way]]

    def __call__(self) -> bytes:
        assert exit_code(self.arguments) == 0
        return self.output.read_bytes()

    def num_lines(self) -> int:
        return self.partial.read_bytes().count(b"\n") if self.partial.exists() else 0


def texts_of(written: bytes) -> dict[str, tuple[str, int]]:
    records = [json.loads(line) for line in written.splitlines()]
    return {record["title"]: (record["description"], record["num_tokens"]) for record in records}


def kill_at_a_line(predict: Predict) -> int:
    """Kills the command after some number of lines; returns how many are kept."""
    last = random.SystemRandom().randrange(1, NUM_TITLES - 100)
    log = predict.output.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "amazon_desc", *predict.arguments],
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and predict.num_lines() < last:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL, log.read_text()
    return predict.num_lines()


def test_greedy_texts_depend_on_their_titles_alone(options: list[str], titles: list[str]):
    """Written 100 at a time; 64 in another order; 7 by a command that is killed and run again."""
    whole = Predict(options, "whole", titles, 100, "greedy")()
    assert list(texts_of(whole)) == titles
    assert len(set(texts_of(whole).values())) > NUM_TITLES / 20
    shuffled = random.Random(1).sample(titles, NUM_TITLES)
    in_another_order = texts_of(Predict(options, "shuffled", shuffled, 64, "greedy")())
    assert list(in_another_order) == shuffled
    assert in_another_order == texts_of(whole)
    killed = Predict(options, "killed", titles, 7, "greedy")
    num_kept = kill_at_a_line(killed)
    assert 0 < num_kept < NUM_TITLES
    assert killed() == whole, num_kept


def test_drawn_texts_depend_on_their_titles_and_rows_alone(
    options: list[str], titles: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Written 100 at a time; 64 at a time until something breaks, then 7 at a time."""
    whole = Predict(options, "drawn", titles, 100, "drawn")()
    assert len(set(texts_of(whole).values())) > NUM_TITLES / 2
    broken = Predict(options, "broken", titles, 64, "drawn")
    last = random.SystemRandom().randrange(1, NUM_TITLES - 100)
    written = PredictionFile.on_predict_batch_end

    def breaks(callback: PredictionFile, *arguments: Any, **named: Any) -> None:
        if callback.num_new >= last:
            raise RuntimeError("broken")
        written(callback, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "on_predict_batch_end", breaks)
        with pytest.raises(RuntimeError, match="broken"):
            broken()
    num_kept = broken.num_lines()
    assert 0 < num_kept < NUM_TITLES
    goes_on = Predict(options, "broken", titles, 7, "drawn")
    assert goes_on() == whole, num_kept
