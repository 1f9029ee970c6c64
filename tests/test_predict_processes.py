"""Several processes write the file that one would have written, in every byte, whoever is killed.

On a base of two layers, on a CPU: real processes, as `--trainer.devices` starts them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amazon_desc.support.locks import alone
from tests.conftest import exit_code
from tests.shallow_base import shallow_base
from tests.test_predict import SMALL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NUM_TITLES = 120


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a finished run."""
    folder = tmp_path_factory.mktemp("processes")
    base = shallow_base(folder / "base")
    options = [*SMALL, "--model.backbone", str(base), "--model.decoding.max_new_tokens", "24"]
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


class Command:
    """A command in processes of its own."""

    def __init__(self, arguments: list[str], num_processes: int, titles: bytes = b"") -> None:
        self.output = Path(arguments[-1])
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "amazon_desc", *arguments),
                *("--trainer.devices", str(num_processes)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(titles)
        self.process.stdin.close()
        self.process.stdin = None

    def wait(self, code: int = 0) -> tuple[str, str]:
        """Returns what it has said, once it has left with a code."""
        out, err = (said.decode() for said in self.process.communicate(timeout=300))
        assert self.process.returncode == code, err
        assert "Traceback" not in err
        return out, err

    def wait_for_lines(self, rank: int, num: int) -> int:
        """Waits until a process has written so many lines; returns its id."""
        parts = self.output.with_name(f"{self.output.name}.parts")
        deadline = time.monotonic() + 200
        while (
            not (part := parts / f"{rank}.jsonl").exists() or part.read_bytes().count(b"\n") < num
        ):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.005)
        (found,) = re.findall(r"process (\d+) on", (parts / f".lock-{rank}.jsonl").read_text())
        return int(found)


def is_like(output: Path, whole: Path) -> bool:
    """Whether an output is that of one process, and nothing else of it is there."""
    there = {path.name for path in output.parent.glob(f"*{output.name}*")}
    settings = [path.with_name(f"{path.name}.settings.json") for path in (output, whole)]
    assert there == {output.name, settings[0].name}
    assert settings[0].read_bytes() == settings[1].read_bytes()
    return output.read_bytes() == whole.read_bytes()


def test_processes_write_what_one_writes(options: list[str], titles: Path, whole: dict[str, Path]):
    output = titles.with_name("of_two.jsonl")
    out, _ = Command(arguments(options, titles, output), 2).wait()
    assert is_like(output, whole["jsonl"])
    assert out.count(f"Texts written: {NUM_TITLES} in ") == 1
    assert out.count("All records (") == 1


def test_processes_of_which_one_is_killed_go_on_with_any_number_of_them(
    options: list[str], titles: Path, whole: dict[str, Path]
):
    output = titles.with_name("killed.csv")
    command = Command(arguments(options, titles, output), 2)
    os.kill(command.wait_for_lines(1, 8), signal.SIGKILL)
    _, err = command.wait(128 + signal.SIGKILL)
    assert "process 1 of 2 was ended by SIGKILL" in err
    assert not output.exists()
    there = sorted(titles.parent.glob("killed.csv*"))
    assert [path.suffix for path in there] == [".partial", ".parts", ".json"]
    (one := titles.parent / "one").mkdir()
    for path in there:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, one / path.name)
    out, _ = Command(arguments(options, titles, output), 3).wait()
    num_new = int(re.findall(r"Texts written: (\d+) in ", out)[0])
    assert 0 < num_new <= NUM_TITLES - 8, "what was done is not done again"
    assert is_like(output, whole["csv"])
    assert exit_code(arguments(options, titles, one / "killed.csv")) == 0
    assert is_like(one / "killed.csv", whole["csv"])


def test_a_file_that_one_process_began_and_titles_that_are_added_are_gone_on_with(
    options: list[str], titles: Path, whole: dict[str, Path]
):
    """Also from standard input, which one process alone can read."""
    lines = titles.read_bytes().splitlines(keepends=True)
    (shorter := titles.with_name("shorter.txt")).write_bytes(b"".join(lines[:50]))
    output = titles.with_name("longer.jsonl")
    limit = ["--trainer.limit_predict_batches", "4"]
    assert exit_code([*arguments(options, shorter, output), *limit]) == 0
    assert exit_code(arguments(options, shorter, output)) == 0
    shorter.write_bytes(titles.read_bytes())
    Command(arguments(options, shorter, output), 2).wait()
    assert output.read_bytes() == whole["jsonl"].read_bytes()
    piped = titles.with_name("piped.jsonl")
    Command(arguments(options, "-", piped), 2, titles.read_bytes()).wait()
    assert piped.read_bytes() == whole["jsonl"].read_bytes()


def test_processes_that_are_asked_to_leave_leave_what_is_written(
    options: list[str], titles: Path, whole: dict[str, Path]
):
    output = titles.with_name("left.csv")
    with alone(output, "written"):
        _, err = Command(arguments(options, titles, output), 2).wait(75)
    assert "left.csv is in use: written by process" in err
    command = Command(arguments(options, titles, output), 2)
    command.wait_for_lines(0, 4)
    command.process.send_signal(signal.SIGINT)
    _, err = command.wait(130)
    assert "stopped by SIGINT. The same command resumes from here." in err
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
