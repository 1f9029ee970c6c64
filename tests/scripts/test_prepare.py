"""scripts/prepare.py prepares what fit then finds, and shows exactly what is learnt."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from amazon_desc.data.cleaning.cleaner import Cleaner
from amazon_desc.data.loading.batches import collate_rows
from amazon_desc.data.reading.records import Fault, Product
from tests.conftest import SCRIPTS, Ended, load_script

PREPARE = str(SCRIPTS / "prepare.py")


def test_the_data_is_prepared_where_fit_finds_it_and_examples_are_shown(
    run_program: Callable[..., Ended], tmp_path: Path
):
    options = ["--config", "configs/quickstart.yaml", "--data.num_products", "200"]
    done = run_program(PREPARE, *options, "--show", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (path for path in (tmp_path / "runs" / "corpora").iterdir() if path.is_dir())
    report = json.loads((folder / "data_report.json").read_text())
    assert report["num_pairs"] == 200
    assert f"data_report.json: runs/corpora/{folder.name}" not in done.stdout
    assert f"runs/corpora/{folder.name}/data_report.json" in done.stdout
    records, examples = (done.stdout.split("\n\n")[1:4], done.stdout.split("\n\n")[4:])
    assert [record.splitlines()[0] for record in records] == [
        f"sample.json.gz, line {number}" for number in (1, 2, 3)
    ]
    assert len(examples) == 3
    for number, example in enumerate(examples, start=1):
        assert example.startswith(f"{number}: ")
        prompt, target = example.split("»")
        assert "<s> Write a description for the product:\nTitle: " in prompt
        assert prompt.endswith("\nDescription:")
        assert target.rstrip("\n").endswith("</s>«")
    again = run_program(PREPARE, *options, cwd=tmp_path)
    assert again.returncode == 0
    assert "Preparing " not in again.stdout
    assert "200 usable pairs" in again.stdout
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "corpora"]


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            Product("Mug &amp; saucer", "A <b>clay</b> mug, with its saucer.", "a.csv, line 2"),
            "a.csv, line 2\n"
            "  title        'Mug &amp; saucer'\n"
            "   -> cleaned  'Mug & saucer'\n"
            "  description  'A <b>clay</b> mug, with its saucer.'\n"
            "   -> cleaned  'A clay mug, with its saucer.'",
        ),
        (
            Product("Red Mug", "Fast shipping from USA", "a.csv, line 3"),
            "a.csv, line 3\n"
            "  title        'Red Mug'\n"
            "  description  'Fast shipping from USA'\n"
            "   -> left out: shipping_note",
        ),
        (
            Fault("a.csv, line 4", "not valid UTF-8"),
            "a.csv, line 4\n  cannot be read: not valid UTF-8",
        ),
        (
            Product("Mug", "A mug with a red glaze. " + "x" * 300, "a.csv, line 5"),
            "a.csv, line 5\n"
            "  title        'Mug'\n"
            f"  description  'A mug with a red glaze. {'x' * 176}…'",
        ),
    ],
)
def test_a_record_is_shown_as_it_was_read_and_as_it_is_learnt(record: Product | Fault, text: str):
    assert load_script("prepare").before_and_after(record, Cleaner()) == text


def test_a_wrong_option_is_told_without_a_traceback(
    run_program: Callable[..., Ended], tmp_path: Path
):
    options = ["--config", "configs/quickstart.yaml", "--data.train_file", "no.json"]
    done = run_program(PREPARE, *options, cwd=tmp_path)
    assert done.returncode == 3
    assert "--data.train_file no.json: no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_markers_are_warned_of_with_the_line_that_show_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The line of the warning has a title of its own in it."""
    monkeypatch.chdir(tmp_path)
    options = ["--config", "quickstart.yaml", "--data.num_products", "60", "--show", "1"]
    options += ["--data.validation_fraction", "0.1", "--data.test_fraction", "0.1"]
    template = r"Describe:\n<|im_start|> {title}\nText:"
    load_script("prepare").main([*options, "--data.prompt.template", template])
    said = capfd.readouterr().out
    assert said.count("Warning: the prompt holds markers of a chat format") == 1
    (warned,) = re.findall(r"a prompt's line 2: (.*)\n", said)
    (shown,) = re.findall(r"<s> Describe:\n(.*)\nText:»", said)
    assert warned == "<|im_start|> Navy Rubber Yoga Mat, 6 mm"
    assert shown.startswith("<|im_start|> ")


@pytest.mark.parametrize(
    ("loss_on", "text"),
    [
        ("completion", "<s> describe: red mug»a mug.</s>«"),
        ("all", "<s>»describe: red mug a mug.</s>«"),
    ],
)
def test_what_is_learnt_is_set_off(toy_tokenizer: PreTrainedTokenizerBase, loss_on: str, text: str):
    """<s> ▁describe : ▁red ▁mug, then ▁a ▁mug . </s>, and padding that is not shown."""
    row = {
        "input_ids": [1, 10, 11, 12, 13, 20, 13, 21, 2],
        "lengths": [9],
        "prompt_lengths": [5],
    }
    batch = collate_rows([row], 16, 0, loss_on)  # type: ignore[arg-type, list-item]
    script = load_script("prepare")
    shown = script.text_of(batch, toy_tokenizer, is_terminal=False)
    assert shown.replace("<s> ", "<s>") == text.replace("<s> ", "<s>")
    on_a_terminal = script.text_of(batch, toy_tokenizer, is_terminal=True)
    assert on_a_terminal.replace("\033[1m", "").replace("\033[0m", "") == shown
    assert on_a_terminal.count("\033[") == 2


def test_stretches_of_the_docstring():
    found = load_script("prepare").stretches(
        torch.tensor([1, 7, 4, 2]), torch.tensor([False, False, True, True])
    )
    assert [(ids.tolist(), learnt) for ids, learnt in found] == [([1, 7], False), ([4, 2], True)]
