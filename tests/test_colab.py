"""configs/colab.ipynb: every cell does outside Colab, on the quickstart, what it does there.

What Jupyter adds to Python is done here: `!` lines go to a shell, of `%` lines the two kinds that
the notebook has are known. Only the fields of the form are filled in; `pip` is a stand-in.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "configs" / "colab.ipynb"
CELLS: dict[str, str] = {
    cell["id"]: "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    if cell["cell_type"] == "code"
}
FIELD = re.compile(r'^([A-Z_]+) = "(.*)"  # @param', re.MULTILINE)
OUTSIDE_PYTHON = re.compile(r"^( *)([!%])((?:.*\\\n)*.*)$", re.MULTILINE)
SMALL = (
    "--data.num_products 60 --data.num_scored 2 --data.validation_fraction 0.1 --model.lora.r 4 "
    "--model.decoding.max_new_tokens 12 --trainer.enable_progress_bar false "
    "--trainer.max_epochs 4 --checkpoint.every_n_steps 1"
)
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "gc.auto=0"]
SECONDS = 300  # far more than a cell takes


def filled(cell: str, fields: dict[str, str]) -> str:
    """Returns a cell with other values in the fields of its form."""
    assert set(fields) <= {match[1] for match in FIELD.finditer(cell)}

    def value(match: re.Match[str]) -> str:
        line, name, before = match[0], match[1], match[2]
        return line.replace(f'"{before}"', json.dumps(fields.get(name, before)), 1)

    return FIELD.sub(value, cell)


def as_python(cell: str) -> str:
    """Returns a cell as Python: "  !ls {FOLDER}" -> "  outside('!', 'ls {FOLDER}')" """
    return OUTSIDE_PYTHON.sub(lambda found: f"{found[1]}outside({found[2]!r}, {found[3]!r})", cell)


class Kernel:
    """Runs cells one after the other, with what they leave behind, in a folder.

    Attributes:
        printed: what the programs of `!` lines have printed
        kill_when: asked while one runs; once it is true the program is killed, as a lost machine is
    """

    def __init__(self, place: Path, programs: Path) -> None:
        self.folder, self.printed = place, ""
        self.kill_when: Callable[[], bool] = lambda: False
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        self.environment = {**os.environ, "PATH": path + os.environ["PATH"]}
        # what pip does: the project that the notebook has put there can be imported
        self.environment["PYTHONPATH"] = str(place / "machine/amazon_desc")
        self.variables: dict[str, Any] = {"outside": self.outside}

    def run(self, name: str, **fields: str) -> None:
        program = compile(as_python(filled(CELLS[name], fields)), name, "exec")
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            exec(program, self.variables)
        finally:
            self.folder = Path.cwd()
            os.chdir(before)

    def outside(self, kind: str, line: str) -> None:
        line = line.format_map(self.variables)
        if kind == "!":
            self.shell(line)
            return
        magic, *arguments = shlex.split(line)
        if magic == "cd":
            os.chdir(*arguments)
        elif magic == "load_ext":
            __import__(f"{arguments[0]}.notebook")
        else:
            assert (magic, arguments[0]) == ("tensorboard", "--logdir")
            assert list(Path(arguments[1]).rglob("events.out.tfevents.*"))

    def shell(self, line: str) -> None:
        self.printed = ""
        process = subprocess.Popen(
            ["bash", "-c", line],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        end = time.monotonic() + SECONDS
        while process.poll() is None and not self.kill_when() and time.monotonic() < end:
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        self.printed, _ = process.communicate()
        wanted = -signal.SIGKILL if self.kill_when() else 0
        assert process.returncode == wanted, self.printed[-4000:]


# What it holds


def test_the_notebook_is_one_and_holds_no_outcome_and_no_secret():
    found = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (found["nbformat"], found["metadata"]["accelerator"]) == (4, "GPU")
    identities = [cell["id"] for cell in found["cells"]]
    assert len(set(identities)) == len(identities) > 10
    for cell in found["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    text = NOTEBOOK.read_text("utf-8")
    assert not re.search(r"\bhf_[A-Za-z]{5}|HF_TOKEN\W*=\W*[\"']", text)
    assert 'userdata.get(\\"HF_TOKEN\\")' in text
    assert "constraints.txt" not in "".join(CELLS.values())  # it would replace Colab's torch


def test_a_cell_is_python_but_for_lines_that_a_shell_or_jupyter_takes():
    assert as_python('if x:\n    !ls "{A}" \\\n      -l\n%cd {B}\n') == (
        """if x:\n    outside('!', 'ls "{A}" \\\\\\n      -l')\noutside('%', 'cd {B}')\n"""
    )
    for name, cell in CELLS.items():
        compile(as_python(cell), name, "exec")


def test_the_form_names_configs_that_are_there():
    (choices,) = re.findall(r"CONFIG = .* # @param (\[.*\])", CELLS["settings"])
    names = json.loads(choices)
    assert {"qlora", "quickstart"} < set(names)
    assert [name for name in names if not (ROOT / f"configs/{name}.yaml").is_file()] == []


# What it does


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as a git repository, of which the notebook makes a clone."""
    if shutil.which("git") is None:
        pytest.skip("needs git, and there is none here")
    folder = tmp_path_factory.mktemp("source") / "amazon_desc"
    for name in ("amazon_desc", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return folder


class Colab:
    """A Drive that stays, and machines that come and go."""

    def __init__(self, place: Path, project: Path) -> None:
        self.place = place
        self.fields = {
            "SOURCE": f"file://{project}",
            "CONFIG": "quickstart",
            "RUN": "runs/my run",
            "TRAIN_FILE": "",
            "OPTIONS": SMALL,
        }
        self.installed = place / "installed.txt"
        programs = place / "programs"
        programs.mkdir()
        pip = programs / "pip"
        pip.write_text(f'#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" >> "{self.installed}"\n')
        pip.chmod(0o755)
        self.kernel = Kernel(place, programs)

    @property
    def run(self) -> Path:
        return self.place / "drive/runs/my run"

    def new_machine(self) -> None:
        """Gives a machine on which nothing is, and runs the notebook up to its training."""
        shutil.rmtree(self.place / "machine", ignore_errors=True)
        self.kernel = Kernel(self.place, self.place / "programs")
        self.kernel.run("settings", **self.fields)
        for name in ("drive", "set-up"):
            self.kernel.run(name)


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Colab:
    return Colab(tmp_path_factory.mktemp("colab"), project)


@pytest.mark.slow
def test_a_new_machine_is_set_up_and_keeps_its_torch(colab: Colab):
    colab.new_machine()
    clone = colab.place / "machine/amazon_desc"
    assert colab.kernel.folder == clone
    assert colab.kernel.printed.startswith("amazon_desc 0.")
    assert colab.installed.read_text().split("\n")[:-1] == [
        *(str(clone), "install", "--quiet", "-e", ".[gguf]")
    ]


@pytest.mark.slow
def test_training_goes_on_after_the_machine_went_away(colab: Colab):
    colab.new_machine()
    kernel = colab.kernel
    kernel.kill_when = lambda: len(list(colab.run.glob("checkpoints/*.ckpt"))) > 1
    kernel.run("train")
    assert not (colab.run / "metrics.json").exists()
    assert list((colab.place / "machine/corpora").iterdir())

    colab.new_machine()
    colab.kernel.run("train")
    assert "Resum" in colab.kernel.printed
    assert (colab.run / "adapter/adapter_model.safetensors").is_file()
    assert list((colab.place / "machine/corpora").iterdir()), "on the machine's own disk"
    assert not (colab.run.parent / "corpora").exists()


@pytest.mark.slow
def test_scores_and_curves_are_shown(colab: Colab, capsys: pytest.CaptureFixture[str]):
    colab.kernel.run("scores")
    assert json.loads(capsys.readouterr().out)
    colab.kernel.run("curves")


@pytest.mark.slow
def test_each_title_of_a_file_has_its_description(colab: Colab, capsys: pytest.CaptureFixture[str]):
    """Titles of an example where there is no file; the cell shows some texts."""
    colab.kernel.run("predict")
    assert capsys.readouterr().out.startswith("Girls Ballet Tutu Neon Pink\n    ")
    lines = (colab.run / "predictions/titles.txt.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == len((colab.place / "drive/titles.txt").read_text().splitlines()) == 2
    assert all(json.loads(line)["description"] for line in lines)


@pytest.mark.slow
def test_the_model_is_exported(colab: Colab):
    colab.kernel.run("export-merged")
    assert (colab.run / "exports/merged/config.json").is_file()
    assert list((colab.run / "exports/merged").glob("*.safetensors"))
    colab.kernel.run("export-gguf")
    assert len(list((colab.run / "exports/gguf").glob("*.gguf"))) == 1


def test_drive_and_token_are_colabs_own_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The cell's other branch; what it makes is kept below this test's folder."""
    mounted: list[str] = []
    google, colab_module = ModuleType("google"), ModuleType("google.colab")
    secrets = {"HF_TOKEN": "of the secrets"}
    colab_module.drive = type("drive", (), {"mount": mounted.append})  # pyright: ignore
    colab_module.userdata = type("userdata", (), {"get": secrets.__getitem__})  # pyright: ignore
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab_module)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(Path, "mkdir", lambda self, **options: made.append(self))
    made: list[Path] = []
    kernel = Kernel(tmp_path, tmp_path)
    kernel.run("settings")
    kernel.run("drive")
    assert mounted == ["/content/drive"]
    assert made == [Path("/content"), Path("/content/drive/MyDrive/runs/qlora")]
    assert os.environ["HF_TOKEN"] == "of the secrets"
    assert kernel.variables["CORPORA"] == Path("/content/corpora")
    assert kernel.variables["DATA"] == (
        '--data.train_file "/content/drive/MyDrive/LF-Amazon-1.3M.raw.zip"'
    )
    assert "of the secrets" not in capsys.readouterr().out

    secrets.clear()
    kernel.run("drive")  # once more: nothing is put below itself
    assert kernel.variables["RUN"] == Path("/content/drive/MyDrive/runs/qlora")
    said = capsys.readouterr().out
    assert "No HF_TOKEN from Colab's Secrets (KeyError). Only gated bases need one." in said
