"""Promises of scripts/bench_killed.py: killed files end equal, and others are found out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import exit_code, load_script
from tests.shallow_base import shallow_base

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench_killed")


class Written:
    """In place of a run: it writes its file, in the order of its titles, as a test wants."""

    spoilt: str = ""

    def __init__(self, arguments: list[str], log: Path) -> None:
        def after(option: str) -> Path:
            return Path(arguments[arguments.index(option) + 1])

        titles = after("--data.titles")
        lines = [
            json.dumps({"title": title, "description": title.lower()}) + "\n"
            for title in titles.read_text().splitlines()
        ]
        if titles.stem != "untouched" and self.spoilt == "a line":
            lines[1] = lines[1].replace('"description": "', '"description": "a ')
        if titles.stem != "untouched" and self.spoilt == "the end":
            lines.pop()
        file = after("--trainer.default_root_dir") / "predictions" / f"{titles.stem}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(lines))
        log.touch()

    def wait(self, seconds: float | None = None) -> int | None:
        return 0


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [("", []), ("a line", ["1 other lines, first 2"]), ("the end", ["2 lines in place of 3"])],
)
def test_a_file_of_another_order_must_have_the_same_lines(
    spoilt: str,
    said: list[str],
    bench: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(bench, "Run", type("Run", (Written,), {"spoilt": spoilt}))
    monkeypatch.setattr(bench, "import_once", lambda: None)
    (tmp_path / "run").mkdir()
    titles = tmp_path / "titles.txt"
    titles.write_text("Red Mug\nTeal Lamp\n\nOak Desk\n")
    given = [str(tmp_path / "run"), "--titles", str(titles), "--trials", "2"]
    assert bench.main(given) == bool(said)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[:-1] == [f"trial {number}: {words}" for number in range(2) for words in said]
    equal = 0 if said else 2
    assert lines[-1].startswith(f"{equal} of 2 equal in every byte (0 kills")
    assert not (tmp_path / "run/predictions").exists(), "the run is left as it was"


@pytest.mark.slow
def test_real_predictions_are_killed_while_they_are_written(tmp_path: Path):
    run, titles = tmp_path / "run", tmp_path / "titles.txt"
    base = shallow_base(tmp_path / "base")
    small = [
        *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
        *("--data.num_products", "40", "--data.num_scored", "2", "--trainer.max_steps", "1"),
        *("--model.backbone", str(base), "--model.lora.r", "4", "--trainer.accelerator", "cpu"),
        *("--model.decoding.max_new_tokens", "24", "--trainer.default_root_dir", str(run)),
    ]
    assert exit_code(["fit", *small]) == 0
    titles.write_text("".join(f"Red Mug {number}\n" for number in range(40)))
    command = [sys.executable, str(ROOT / "scripts/bench_killed.py"), str(run)]
    command += ["--titles", str(titles), "--trials", "1", "--kills", "3"]
    done = subprocess.run(
        [*command, "--", "--data.generation_batch_size", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("1 of 1 equal in every byte (3 kills"), done
