"""Several processes write the file that one would have written, in every byte, whoever is killed.

On a base of two layers, on a CPU: real processes, as `--trainer.devices` starts them. Most are
forks of one that has imported all.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from amazon_desc.support.locks import alone
from tests.conftest import exit_code
from tests.several import SECONDS, Forking
from tests.shallow_base import shallow_base
from tests.test_predict import SMALL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NUM_TITLES = 80
NUMBERS = count()

# Has the titles of a file come from a pipe.
PIPED = """
import os, subprocess
titles = subprocess.Popen(["cat", {!r}], stdout=subprocess.PIPE)
os.dup2(titles.stdout.fileno(), 0)
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a finished run."""
    folder = tmp_path_factory.mktemp("processes")
    base = shallow_base(folder / "base")
    options = [*SMALL, "--model.backbone", str(base), "--model.decoding.max_new_tokens", "16"]
    options += ["--trainer.default_root_dir", str(folder / "run")]
    assert exit_code(["fit", *options]) == 0
    return options


@pytest.fixture(scope="module")
def titles(options: list[str]) -> Path:
    """Titles of which some are blank and some are there twice, in any order."""
    lines = []
    for number in range(NUM_TITLES):
        lines.append(f"Mug {number} for {'tea and ' * (number % 7)}coffee")
        lines += [lines[number // 2]] * (number % 5 == 3) + [""] * (number % 11 == 2)
    file = Path(options[-1]).parent / "titles.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def whole(options: list[str], titles: Path) -> dict[str, Path]:
    """What one process writes, by its form."""
    files = {form: titles.with_name(f"whole.{form}") for form in ("jsonl", "csv")}
    for file in files.values():
        assert exit_code(arguments(options, titles, file)) == 0
    return files


def arguments(options: list[str], titles: str | Path, output: Path) -> list[str]:
    asked = ["--data.titles", str(titles), "--data.output", str(output)]
    return ["predict", *options, *asked]


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    with Forking() as forking:
        yield forking


class Command:
    """A command in processes of its own, as forks of one that has imported all."""

    def __init__(
        self, forking: Forking, arguments: list[str], num_processes: int, patch: str = ""
    ) -> None:
        self.output, self.forking = Path(arguments[-1]), forking
        several = ["--trainer.devices", str(num_processes)]
        self.run = {
            "name": arguments[arguments.index("--trainer.default_root_dir") + 1],
            "log": f"said-{next(NUMBERS)}",
            "patch": patch,
            "commands": [{"arguments": [*arguments, *several]}],
        }
        forking.start(self.run)

    def wait(self, code: int = 0) -> str:
        """Returns what it has said, once it has left with a code."""
        result = self.forking.result()
        (said,) = result["said"]
        assert result["codes"] == [code], said
        assert result["has_ended"]
        assert "Traceback" not in said
        return said

    def wait_for_lines(self, rank: int, num: int) -> psutil.Process:
        """Waits until a process has written so many lines; returns it."""
        parts = self.output.with_name(f"{self.output.name}.parts")
        deadline = time.monotonic() + SECONDS
        while (
            not (part := parts / f"{rank}.jsonl").exists() or part.read_bytes().count(b"\n") < num
        ):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        (found,) = re.findall(r"process (\d+) on", (parts / f".lock-{rank}.jsonl").read_text())
        return psutil.Process(int(found))


def is_like(output: Path, whole: Path) -> bool:
    """Whether an output is that of one process, and nothing else of it is there."""
    there = {path.name for path in output.parent.glob(f"*{output.name}*")}
    settings = [path.with_name(f"{path.name}.settings.json") for path in (output, whole)]
    assert there == {output.name, settings[0].name}
    assert settings[0].read_bytes() == settings[1].read_bytes()
    return output.read_bytes() == whole.read_bytes()


def test_processes_write_what_one_writes(options: list[str], titles: Path, whole: dict[str, Path]):
    """Here each imports all itself, as where a user starts them."""
    output = titles.with_name("of_two.jsonl")
    command = [sys.executable, "-m", "amazon_desc", *arguments(options, titles, output)]
    done = subprocess.run(
        [*command, "--trainer.devices", "2"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert is_like(output, whole["jsonl"])
    assert done.stdout.count(f"Texts written: {NUM_TITLES} in ") == 1
    assert done.stdout.count("All records (") == 1


def test_processes_of_which_one_is_killed_go_on_with_any_number_of_them(
    options: list[str], titles: Path, whole: dict[str, Path], forking: Forking
):
    output = titles.with_name("killed.csv")
    command = Command(forking, arguments(options, titles, output), 2)
    command.wait_for_lines(1, 8).kill()
    said = command.wait(128 + signal.SIGKILL)
    assert "process 1 of 2 was ended by SIGKILL" in said
    assert not output.exists()
    there = sorted(titles.parent.glob("killed.csv*"))
    assert [path.suffix for path in there] == [".partial", ".parts", ".json"]
    (one := titles.parent / "one").mkdir()
    for path in there:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, one / path.name)
    said = Command(forking, arguments(options, titles, output), 3).wait()
    num_new = int(re.findall(r"Texts written: (\d+) in ", said)[0])
    assert 0 < num_new <= NUM_TITLES - 8, "what was done is not done again"
    assert is_like(output, whole["csv"])
    assert exit_code(arguments(options, titles, one / "killed.csv")) == 0
    assert is_like(one / "killed.csv", whole["csv"])


def test_a_file_that_one_process_began_and_titles_that_are_added_are_gone_on_with(
    options: list[str], titles: Path, whole: dict[str, Path], forking: Forking
):
    """Also from standard input, which one process alone can read."""
    lines = titles.read_bytes().splitlines(keepends=True)
    (shorter := titles.with_name("shorter.txt")).write_bytes(b"".join(lines[:50]))
    output = titles.with_name("longer.jsonl")
    limit = ["--trainer.limit_predict_batches", "4"]
    assert exit_code([*arguments(options, shorter, output), *limit]) == 0
    assert exit_code(arguments(options, shorter, output)) == 0
    shorter.write_bytes(titles.read_bytes())
    Command(forking, arguments(options, shorter, output), 2).wait()
    assert output.read_bytes() == whole["jsonl"].read_bytes()
    piped = titles.with_name("piped.jsonl")
    Command(forking, arguments(options, "-", piped), 2, PIPED.format(str(titles))).wait()
    assert piped.read_bytes() == whole["jsonl"].read_bytes()


def test_processes_that_are_asked_to_leave_leave_what_is_written(
    options: list[str], titles: Path, whole: dict[str, Path], forking: Forking
):
    output = titles.with_name("left.csv")
    with alone(output, "written"):
        said = Command(forking, arguments(options, titles, output), 2).wait(75)
    assert "left.csv is in use: written by process" in said
    command = Command(forking, arguments(options, titles, output), 2)
    launcher = command.wait_for_lines(0, 4).parent()
    assert launcher is not None
    launcher.send_signal(signal.SIGINT)
    said = command.wait(130)
    assert "stopped by SIGINT. The same command resumes from here." in said
    assert exit_code(arguments(options, titles, output)) == 0
    assert is_like(output, whole["csv"])


def test_titles_that_are_typed_need_one_process(
    options: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def launch(*_: object) -> None:
        raise AssertionError("processes are started")

    monkeypatch.setattr("amazon_desc.cli.launch", launch)
    typed: Callable[..., int] = lambda *more: exit_code(  # noqa: E731
        ["predict", *options, "--data.title", "Mug", "--data.title", "Lamp", *more]
    )
    assert typed() == 0
    wanted = capfd.readouterr().out
    assert wanted.count("\n") == 2
    assert typed("--trainer.devices", "2") == 0
    assert capfd.readouterr().out == wanted
