"""`python -m amazon_desc` answers what it can at once, and leaves with an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from amazon_desc import __version__
from amazon_desc.resources import PACKAGE

LIGHT = """
import runpy, sys
sys.argv = ["amazon_desc", *{arguments!r}]
code = 0
try:
    runpy.run_module("amazon_desc", run_name="__main__")
except SystemExit as exit:
    code = exit.code
print("torch" in sys.modules, code, file=sys.stderr)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "beginning"),
    [
        (["--version"], 0, f"amazon_desc {__version__}\n"),
        (["--help"], 0, "usage: python -m amazon_desc {fit,validate,test,predict} --config FILE"),
        (["-h"], 0, "usage: python -m amazon_desc {fit,validate,test,predict} --config FILE"),
        ([], 2, "usage: python -m amazon_desc {fit,validate,test,predict} --config FILE"),
    ],
    ids=["version", "help", "h", "nothing"],
)
def test_questions_are_answered_without_torch(arguments: list[str], code: int, beginning: str):
    done = run("-c", LIGHT.format(arguments=arguments))
    assert done.stdout.startswith(beginning)
    assert done.stderr == f"False {code}\n"


def test_the_help_names_every_command_and_both_configs():
    done = run("-m", "amazon_desc", "--help")
    assert done.returncode == 0
    for word in ("fit ", "validate ", "test ", "predict ", "quickstart.yaml", "qlora.yaml"):
        assert word in done.stdout
    for config in ("configs/quickstart.yaml", "configs/qlora.yaml"):
        assert config in done.stdout
        assert Path(PACKAGE.parent / config).is_file()


def test_a_command_that_does_not_exist_leaves_with_2_and_names_those_that_do():
    done = run("-m", "amazon_desc", "frobnicate")
    assert done.returncode == 2
    assert "'frobnicate' (choose from 'fit', 'validate', 'test', 'predict')" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
