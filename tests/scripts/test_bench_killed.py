"""Promises of scripts/bench_killed.py: killed files end equal, and others are found out."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from tests.conftest import exit_code, load_script
from tests.scripts.test_killed_files import write
from tests.shallow_base import shallow_base

ROOT = Path(__file__).resolve().parents[2]
FORMS = ("jsonl", "csv", "parquet")
TITLES = ("Red Mug", "Teal Lamp", "Oak Desk")

each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench_killed")


def records_of(titles: list[str]) -> list[dict[str, Any]]:
    """The texts have ends of lines and quotes, as a cell of a table may."""
    return [
        {"row": row, "title": title, "description": f'"{title}"\nby us, {len(title)}'}
        for row, title in enumerate(titles, 1)
    ]


# What a command does in place of writing its file


def changes_a_line(file: Path, records: list[dict[str, Any]]) -> None:
    write(file, [*records[:1], {**records[1], "description": "A mug."}, *records[2:]])


def leaves_out_the_last(file: Path, records: list[dict[str, Any]]) -> None:
    write(file, records[:-1])


def swaps_two(file: Path, records: list[dict[str, Any]]) -> None:
    write(file, [*records[:-2], records[-1], records[-2]])


def tears_it(file: Path, records: list[dict[str, Any]]) -> None:
    write(file, records)
    file.write_bytes(file.read_bytes()[:-20])


def adds_a_column(file: Path, records: list[dict[str, Any]]) -> None:
    write(file, [{**record, "sku": 7} for record in records])


def leaves_its_lines(file: Path, records: list[dict[str, Any]]) -> None:
    write(file, records)
    file.with_name(f"{file.name}.partial").touch()


def removes_it(file: Path, records: list[dict[str, Any]]) -> None:
    file.unlink(missing_ok=True)


class Written:
    """In place of a run: it writes its file at once, but for the faults that a test wants.

    One that is faulty when it is killed waits for that, with all of its lines beside the file.
    """

    at_last: Any = staticmethod(write)
    when_killed: Any = None
    start_killed: int = 0
    """which start of a trial is killed"""
    titles: ClassVar[list[list[str]]] = []

    def __init__(self, arguments: list[str], log: Path) -> None:
        def after(option: str) -> Path:
            return Path(arguments[arguments.index(option) + 1])

        file, lines = after("--data.output"), after("--data.titles").read_text().splitlines()
        start = len(log.read_text()) if log.exists() else 0
        log.write_text("." * (start + 1))
        is_untouched = log.stem == "untouched"
        self.code: int | None = 0
        partial = file.with_name(f"{file.name}.partial")
        if self.when_killed is not None and start == self.start_killed and not is_untouched:
            self.code = None
            partial.write_text("\n" * len(lines))
            self.when_killed(file, records_of(lines))
            return
        partial.unlink(missing_ok=True)
        self.titles.append(lines)
        (write if is_untouched else self.at_last)(file, records_of(lines))

    def send(self, number: int) -> None:
        self.code = -number

    def wait(self, seconds: float | None = None) -> int | None:
        return self.code


class Tried:
    """What the script does with such runs.

    Args:
        bench: the script
    """

    def __init__(self, bench: ModuleType, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.bench, self.folder, self.patch = bench, folder, patch
        patch.setattr(bench, "import_once", lambda: None)
        (folder / "run").mkdir()
        (folder / "titles.txt").write_text("Red Mug\nTeal Lamp\n\nOak Desk\n")

    def __call__(self, *options: str, **faults: Any) -> tuple[int, list[list[str]]]:
        """Returns the exit code, and the titles of each file that was written whole."""
        static = {n: f if isinstance(f, int) else staticmethod(f) for n, f in faults.items()}
        written = type("Run", (Written,), {"titles": [], **static})
        self.patch.setattr(self.bench, "Run", written)
        given = [str(self.folder / "run"), "--titles", str(self.folder / "titles.txt")]
        code = self.bench.main([*given, "--trials", "2", "--kills", "1", *options])
        assert not any((self.folder / "run").iterdir()), "the run is left as it was"
        return code, written.titles


@pytest.fixture
def tried(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    return Tried(bench, tmp_path, monkeypatch)


# At the end


@each_form
@pytest.mark.parametrize("options", [(), ("--append",), ("--in-order",)], ids=str)
def test_files_of_other_orders_that_have_the_same_lines_are_equal(
    options: tuple[str, ...], form: str, tried: Tried, capsys: pytest.CaptureFixture[str]
):
    code, _ = tried("--form", form, *options)
    assert code == 0
    same = "record" if form == "parquet" else "byte"
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("untouched: 7 records of 3 titles")
    assert last.startswith(f"2 of 2 equal in every {same} (0 kills")


FAULTS = {
    changes_a_line: "1 other lines, first 2",
    leaves_out_the_last: "6 lines in place of 7",
    swaps_two: "2 other lines, first 6",
    tears_it: r"cannot be read|\d (other lines|lines in place of 7)",
    adds_a_column: "other columns|7 other lines, first 1",
    leaves_its_lines: "left over: trial0.[a-z]+.partial",
    removes_it: "cannot be read",
}


@each_form
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_file_at_last_is_found(
    fault: Any, form: str, tried: Tried, capsys: pytest.CaptureFixture[str]
):
    code, _ = tried("--form", form, at_last=fault)
    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.match(f"trial 0: ({FAULTS[fault]})", lines[1])
    assert lines[-1].startswith("0 of 2 equal in every ")


# When it is killed


@each_form
@pytest.mark.parametrize("fault", [changes_a_line, leaves_out_the_last, tears_it])
def test_what_has_the_name_when_it_is_killed_must_be_whole(
    fault: Any, form: str, tried: Tried, capsys: pytest.CaptureFixture[str]
):
    code, _ = tried("--form", form, when_killed=fault)
    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.match(f"trial 0: under its name when it was killed: ({FAULTS[fault]})", lines[1])
    assert lines[-1].startswith("0 of 2 equal")
    assert "(2 kills, 0 of them between the first line and the last, 2 after it)" in lines[-1]


@each_form
@pytest.mark.parametrize("goes_on", [write, lambda file, records: None], ids=["new", "old"])
@pytest.mark.parametrize("append", [True, False])
def test_a_whole_file_or_that_of_before_may_have_the_name(
    append: bool, goes_on: Any, form: str, tried: Tried
):
    options = ["--append"] * append
    code, _ = tried("--form", form, *options, when_killed=goes_on, start_killed=int(append))
    assert code == 0


@each_form
@pytest.mark.parametrize(
    ("fault", "said"),
    [(removes_it, "gone when it was killed"), (tears_it, "under its name when it was killed: ")],
)
def test_the_file_of_before_must_stay_while_it_is_added_to(
    fault: Any, said: str, form: str, tried: Tried, capsys: pytest.CaptureFixture[str]
):
    code, _ = tried("--form", form, "--append", when_killed=fault, start_killed=1)
    assert code == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f"trial 0: {said}")


# What is written for


def test_titles_come_in_other_orders_with_repeats_and_blank_lines(tried: Tried):
    _, written = tried()
    assert len({tuple(lines) for lines in written}) == 3, "the untouched one, and two trials"
    for lines in written:
        of_titles = Counter(line for line in lines if line.strip())
        assert sorted(of_titles) == sorted(TITLES)
        assert (of_titles.total(), lines.count(""), lines.count(" ")) == (5, 1, 1)


def test_titles_that_are_added_come_after_half_of_them(tried: Tried):
    _, written = tried("--append")
    assert [len(lines) for lines in written[1:3]] == [3, 7]
    assert written[2][:3] == written[1]


def test_in_order_all_files_have_the_same_lines(tried: Tried):
    _, (untouched, *others) = tried("--in-order")
    assert others
    assert all(lines == untouched for lines in others)


# Real ones


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    base = shallow_base(folder / "base")
    small = [
        *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
        *("--data.num_products", "40", "--data.num_scored", "2", "--trainer.max_steps", "1"),
        *("--model.backbone", str(base), "--model.lora.r", "4", "--trainer.accelerator", "cpu"),
        *("--model.decoding.max_new_tokens", "24", "--trainer.default_root_dir"),
    ]
    assert exit_code(["fit", *small, str(folder / "run")]) == 0
    return folder / "run"


# Both forms in one process, which imports what they need once.
REAL = """
import json, sys
from tests.conftest import load_script
bench = load_script("bench_killed")
for options in json.loads(sys.argv[1]):
    print("exit code", bench.main(options), flush=True)
"""


@pytest.mark.slow
def test_real_predictions_are_killed_while_they_are_written(real_run: Path, tmp_path: Path):
    titles = tmp_path / "titles.txt"
    titles.write_text("".join(f"Red Mug {number}\n" for number in range(40)))
    common = [str(real_run), "--titles", str(titles), "--trials", "1", "--kills", "3"]
    common += ["--seed", "4"]  # which kills at 14, 37 and 44 of 48 lines, or later where they grow
    predict = ["--", "--data.generation_batch_size", "1"]
    forms = [["--form", "csv", "--append"], ["--form", "parquet"]]
    calls = [[*common, *form, *predict] for form in forms]
    done = subprocess.run(
        [sys.executable, "-c", REAL, json.dumps(calls)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    ends = [number for number, line in enumerate(lines) if line.startswith("exit code")]
    assert [lines[end] for end in ends] == ["exit code 0", "exit code 0"], done
    for end, same in zip(ends, ("byte", "record"), strict=True):
        equal = rf"1 of 1 equal in every {same} \([1-3] kills, [1-3] of them between the first"
        assert re.match(equal, lines[end - 1]), done
