"""The page of options: what the parser has, in columns, without waiting for torch."""

import json
import re
from pathlib import Path

import pytest

from amazon_desc.cli import build
from amazon_desc.run.options.described import sections
from amazon_desc.run.options.help import COMMANDS, asks_for_help, lines, page
from amazon_desc.support.resources import OPTIONS_IN_WORDS
from tests.conftest import load_script

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "README.md"


def test_the_page_is_that_of_the_options_as_they_are_declared():
    found = sections(build([], run=False).parser)
    assert json.loads(OPTIONS_IN_WORDS.read_text("utf-8")) == found, "run scripts/make_help.py"
    assert OPTIONS_IN_WORDS.read_text("utf-8") == load_script("make_help").as_text(found)


def test_our_options_come_by_subject_and_lightnings_are_those_of_the_table():
    shown = page("fit", 100)
    titles = re.findall(r"^(\S.*):\n  -", shown, re.MULTILINE)
    assert titles == [
        *("The run", "The data", "The prompt", "What is cleaned away, and what is not learnt from"),
        *("The model", "LoRA", "How texts are written", "Checkpoints"),
    ]
    of_trainer = re.findall(r"^  --(trainer\.\w+)", shown, re.MULTILINE)
    table = CONFIGS.read_text("utf-8").split("## Options")[1].split("\n## ")[0]
    cells = "".join(line.split("|")[1] for line in table.splitlines() if "`--trainer." in line)
    told = {f"trainer.{name}" for name in re.findall(r"`(?:--trainer)?\.(\w+)`", cells)}
    assert set(of_trainer) == told
    assert len(told) == 11


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_what_an_option_does_stands_in_a_column_of_its_own(command: str, columns: int):
    shown = page(command, columns).splitlines()
    assert (
        shown[0] == f"usage: python -m amazon_desc {command} [--config FILE] [--OPTION VALUE ...]"
    )
    options = shown[shown.index("The run:") + 1 : shown.index("More:")]
    assert len(options) > 100
    for line in options:
        starts = re.match(r"$|\S.*:$|  -[\w., -]+$|  -[\w., -]{,27} {2,}\S| {32}\S", line)
        assert starts, line
        assert len(line) <= max(min(columns, 110), 62), line


def test_a_line_says_what_an_option_does_takes_and_is_by_default():
    row = {"name": "--data.row_tokens", "does": "tokens of a row", "wanted": "a number"}
    row["default"] = "default 2"
    assert list(lines(row, 100)) == [
        "  --data.row_tokens             tokens of a row (a number; default 2)"
    ]
    assert list(lines(row, 56)) == [
        "  --data.row_tokens             tokens of a row (a",
        "                                number; default 2)",
    ]
    name = "--model.decoding.no_repeat_ngram_size"
    assert list(lines({"name": name, "does": "let it be"}, 100)) == [
        *(f"  {name}", "                                let it be")
    ]


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("--config mine.yaml fit --help", "fit"),  # the worked example
        ("predict -h", "predict"),
        ("validate --config a.yaml --help --model.lora.r 3", "validate"),
        ("fit", None),
        ("fit --data.title=--help", None),
        ("serve --help", None),
        ("fit --help.trainer", None),
        ("fit --model.optimizer.help AdamW", None),
        ("", None),
    ],
)
def test_a_page_is_shown_to_who_asks_for_it(typed: str, command: str | None):
    assert asks_for_help(typed.split()) == command
