"""Promises of scripts/compare.py: runs side by side, with what differs, or a sentence."""

from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import load_script
from tests.run.test_scored import RECORDS, file_of


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return load_script("compare")


def run_of(folder: Path, better: bool = False) -> str:
    records = [{**of, "tuned": of["base"]} for of in RECORDS] if not better else RECORDS
    return str(file_of(folder, records).parents[1])


def test_each_score_has_a_line_a_run_and_its_difference_to_the_first(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one, other = run_of(tmp_path / "one"), run_of(tmp_path / "other", better=True)
    compare.main([one, other])
    blocks = capsys.readouterr().out.split("\n\n")
    assert blocks[0] == "2 titles, validate"
    assert [block.splitlines()[0] for block in blocks[1:4]] == [
        *("loss (lower is better)", "perplexity (lower is better)", "accuracy (higher is better)"),
    ]
    first, second = blocks[1].splitlines()[1:]
    assert first.split() == [one, "3.5000", "[3.0000,", "4.0000]"]
    assert second.split()[:4] == [other, "1.5000", "[1.0000,", "2.0000]"]
    assert second.split()[4:7] == ["-2.0000", "[-2.0000,", "-2.0000]"]
    assert any(block.startswith("length ratio (1 is alike)") for block in blocks)


def test_a_folder_that_was_not_scored_is_a_sentence(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as left:
        compare.main([run_of(tmp_path / "one"), str(tmp_path / "none")])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "none/scored/validate.jsonl is not there" in said
    assert said.count("\n") <= 2
