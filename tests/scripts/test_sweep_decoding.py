"""Promises of scripts/sweep_decoding.py: what is given is compared, and the lines say how."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from amazon_desc.data.loading.prompts import Pairs
from amazon_desc.generation.decoding import GREEDY, DecodingSettings
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.support.errors import UserError
from tests.conftest import exit_code, load_script

LOOP = "on and on and on and on and on"
REFERENCES = ["A red mug with a handle.", "A blue cup for tea and milk."]


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    return load_script("sweep_decoding")


def test_settings_are_read_from_the_command_line_and_from_a_file(sweep: ModuleType, tmp_path: Path):
    expected = {"temperature": 0.7, "trim": True}
    typed = sweep.read_settings(["temperature=0.7 trim=true"], None)
    assert typed == {"temperature=0.7 trim=true": expected}
    listed = tmp_path / "list.yaml"
    listed.write_text("- {temperature: 0.7, trim: true}\n")
    assert sweep.read_settings([], listed) == {"temperature=0.7 trim=True": expected}
    named = tmp_path / "named.yaml"
    named.write_text("warm: {temperature: 0.7, trim: true}\n")
    assert sweep.read_settings(["top_k=5"], named) == {"warm": expected, "top_k=5": {"top_k": 5}}


@pytest.mark.parametrize("text", ["just words", "- 7", "{broken"])
def test_a_file_that_holds_no_settings_is_refused(sweep: ModuleType, tmp_path: Path, text: str):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match="wanted"):
        sweep.read_settings([], tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "given", [{"temprature": 0.7}, {"temperature": "warm"}, {"temperature": None}, {"top_p": 0.9}]
)
def test_settings_that_are_none_are_refused_before_anything_is_loaded(
    sweep: ModuleType, given: dict
):
    with pytest.raises(UserError):
        sweep.over(DecodingSettings(), given)


def test_settings_stand_over_greedy_ones_of_the_runs_lengths(sweep: ModuleType):
    """Whatever the run has: the table's names say all that decides."""
    own = DecodingSettings(96, min_new_tokens=4, repetition_penalty=1.2, seed=3, trim=True)
    found = sweep.over(own, {"temperature": 1, "top_k": None})
    lengths = {"max_new_tokens": 96, "min_new_tokens": 4, "seed": 3, "trim": True}
    assert found == replace(GREEDY, **lengths, temperature=1)


def test_a_line_says_what_was_written(sweep: ModuleType):
    written = [Description(REFERENCES[0], "stop", 7), Description(LOOP, "length", 9)]
    line = sweep.line_of("greedy", written, REFERENCES, 1.25)
    assert (line.loops, line.ends, line.words, line.seconds) == (0.5, 0.5, 7.5, 1.25)
    assert line.rouge1 > 0.5
    assert sweep.shown(line).startswith("| greedy | 50.0 % | 50 % | 0.5")
    perfect = [Description(text, "stop", 7) for text in REFERENCES]
    line = sweep.line_of("perfect", perfect, REFERENCES, 1.0)
    assert line.chrf == pytest.approx(100)
    assert line.bleu == pytest.approx(100)


def test_the_first_line_is_of_the_references_and_the_next_of_each_setting(sweep: ModuleType):
    class Describer:
        def write(self, pairs: Pairs, settings: DecodingSettings) -> list[Prediction]:
            text = Description(LOOP, "length", settings.max_new_tokens)
            return [Prediction(title, text) for title, _ in pairs]

    pairs = [("Mug", REFERENCES[0]), ("Cup", REFERENCES[1])]
    named = {"a": DecodingSettings(9), "b": DecodingSettings(8)}
    found = list(sweep.lines(Describer(), pairs, named))
    assert [line.name for line, _ in found] == ["references", "a", "b"]
    assert found[0][1] == REFERENCES
    assert found[1][1] == [LOOP, LOOP]
    assert sweep.shown(found[0][0]) == "| references | 0.0 % | – | – | – | – | – | 1.00 | 6 | – |"
    columns = sweep.HEADING.splitlines()[0].count("|")
    assert {sweep.shown(line).count("|") for line, _ in found} == {columns}


@pytest.mark.slow
def test_a_finished_run_is_written_with_as_it_scores(
    sweep: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    small = [
        *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
        *("--data.num_products", "60", "--data.num_scored", "4", "--trainer.max_steps", "2"),
        *("--data.validation_fraction", "0.1", "--model.lora.r", "4"),
        *("--model.decoding.max_new_tokens", "12", "--trainer.accelerator", "cpu"),
    ]
    assert exit_code(["fit", *small, "--trainer.default_root_dir", str(run)]) == 0
    scores = json.loads((run / "metrics.json").read_text())["validate"]["tuned"]
    capsys.readouterr()
    sweep.main([str(run), "--set", "temperature=0.9", "--json", str(tmp_path / "found.json")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        *("| settings", "| references", "| the run's own", "| greedy", "| temperature=0.9")
    ]
    references, own, _, drawn = json.loads((tmp_path / "found.json").read_text())
    assert {name: own[name] for name in ("rouge1", "rougeL", "bleu")} == {
        name: scores[name] for name in ("rouge1", "rougeL", "bleu")
    }
    assert len(references["texts"]) == len(own["texts"]) == 4
    assert drawn["texts"] != own["texts"]
