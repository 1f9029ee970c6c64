"""`python -m amazon_desc` answers what it can at once, and leaves with an exit code."""

import subprocess
import sys
from pathlib import Path

from amazon_desc.support.resources import PACKAGE


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=120,
        check=False,
    )


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
