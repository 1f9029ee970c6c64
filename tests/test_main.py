"""`python -m amazon_desc` answers what it can at once, and leaves with an exit code."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from amazon_desc.support.resources import PACKAGE
from tests.conftest import Ended


def test_the_help_names_every_command_and_both_configs():
    command = [sys.executable, "-m", "amazon_desc", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0
    for word in ("fit ", "validate ", "test ", "predict ", "quickstart.yaml", "qlora.yaml"):
        assert word in done.stdout
    for config in ("configs/quickstart.yaml", "configs/qlora.yaml"):
        assert config in done.stdout
        assert Path(PACKAGE.parent / config).is_file()


def test_a_command_that_does_not_exist_leaves_with_2_and_names_those_that_do(
    run_program: Callable[..., Ended],
):
    done = run_program("-m", "amazon_desc", "frobnicate", cwd=PACKAGE.parent)
    assert done.returncode == 2
    assert "'frobnicate' (choose from 'fit', 'validate', 'test', 'predict')" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
