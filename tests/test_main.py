"""`python -m amazon_desc` answers what it can at once, and leaves with an exit code."""

import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amazon_desc.cli import main as run_cli
from amazon_desc.support.printing import show_traceback
from amazon_desc.support.resources import PACKAGE
from tests.conftest import Ended


def test_the_help_names_every_command_and_all_configs():
    command = [sys.executable, "-m", "amazon_desc", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0
    for word in ("fit ", "validate ", "test ", "predict ", "quickstart.yaml", "qlora.yaml"):
        assert word in done.stdout
    for config in ("configs/quickstart.yaml", "configs/qlora.yaml", "configs/gemma3.yaml"):
        assert config in done.stdout
        assert Path(PACKAGE.parent / config).is_file()


def test_a_page_of_options_may_be_read_by_a_program_that_ends_early():
    command = f"{sys.executable} -m amazon_desc fit --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, cwd=PACKAGE.parent, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def run_main(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "amazon_desc", *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
        cwd=tmp_path,
        timeout=120,
    )


@pytest.mark.slow
def test_configs_and_arguments_are_utf_8_in_every_locale(
    tmp_path: Path, run_program: Callable[..., Ended]
):
    """qlora.yaml has letters that ASCII has not; of the option, the bytes are what counts."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ("fit", "--config", "qlora.yaml", "--print_config", "--data.title_column", "Título")
    done = run_main(tmp_path, *options, **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"Gere uma descri\xe7\xe3o criativa" in done.stdout
    assert rb"title_column: T\xedtulo" in done.stdout
    done = run_main(tmp_path, *options, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"title_column: T\xedtulo" in done.stdout
    assert "title_column: Título" in run_program("-m", "amazon_desc", *options, cwd=tmp_path).stdout


@pytest.mark.slow
def test_a_notebook_s_settings_of_matplotlib_and_a_read_only_home_change_nothing(tmp_path: Path):
    odd = {"MPLBACKEND": "of_a_notebook", "HOME": "/proc"}
    options = ("fit", "--config", "quickstart.yaml", "--print_config")
    done = run_main(tmp_path, *options, **odd)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"backbone: tiny" in done.stdout


def test_a_traceback_of_our_own_mistakes_holds_nothing_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "neverToBeShown")
    try:
        raise ValueError("of neverToBeShown")
    except ValueError as error:
        show_traceback(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith("ValueError: of ***\n")
    assert "neverToBeShown" not in shown.splitlines()[-1]


def test_a_command_that_does_not_exist_leaves_with_2_and_names_those_that_do(
    run_program: Callable[..., Ended],
):
    done = run_program("-m", "amazon_desc", "frobnicate", cwd=PACKAGE.parent)
    assert done.returncode == 2
    assert "'frobnicate' (choose from 'fit', 'validate', 'test', 'predict')" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_a_command_has_imported_is_kept_and_garbage_is_looked_for_again():
    program = importlib.import_module("amazon_desc.__main__")
    del sys.modules[program.__name__]  # other tests run it
    try:
        assert program.imported_cli() is run_cli
        assert gc.isenabled()
        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()
