"""How many processes share a session of pytest, by what is asked for and what is there."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.processes import pytest_cmdline_main


def shared(*arguments: str, cores: int = 2, has_card: bool = False, **config: Any) -> Any:
    """Returns a session's options as pytest-xdist meets them; it is called on `arguments`."""
    asked = {"numprocesses": None, "usepdb": False, "dist": "no", "loadscopereorder": True}
    options = SimpleNamespace(**asked | config.pop("asked", {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: cores)
        patch.setattr(torch.cuda, "is_available", lambda: has_card)
        given: Any = SimpleNamespace(option=options, args=list(arguments), **config)
        pytest_cmdline_main(given)
    return options


@pytest.mark.parametrize(("cores", "num_processes"), [(1, 2), (2, 3), (64, 4)])
@pytest.mark.parametrize("argument", ["tests", "tests/run"])
def test_all_tests_or_a_folder_of_them_are_shared_out_file_by_file(
    argument: str, cores: int, num_processes: int
):
    options = shared(argument, cores=cores)
    assert options.numprocesses == num_processes
    assert (options.dist, options.loadscopereorder) == ("loadfile", False)


@pytest.mark.parametrize(
    "alone",
    [
        {"has_card": True},
        {"workerinput": {}},
        {"asked": {"usepdb": True}},
    ],
    ids=["a GPU", "one of the processes", "a debugger"],
)
def test_one_process_runs_them_where_another_would_be_in_the_way(alone: dict[str, Any]):
    options = shared("tests", **alone)
    assert (options.numprocesses, options.dist) == (None, "no")


def test_named_files_are_run_in_this_process():
    options = shared("tests/run", "tests/test_flow.py::test_all_of_it")
    assert (options.numprocesses, options.dist) == (None, "no")


def test_a_number_that_is_asked_for_is_taken():
    assert shared("tests", asked={"numprocesses": 3}).numprocesses == 3
    assert shared("tests", asked={"numprocesses": 0}).numprocesses == 0


def test_without_xdist_nothing_is_asked_of_it():
    options = SimpleNamespace(usepdb=False)
    given: Any = SimpleNamespace(option=options, args=["tests"])
    pytest_cmdline_main(given)
    assert vars(options) == {"usepdb": False}


def test_this_session_is_run_by_what_is_tested_here(pytestconfig: pytest.Config):
    names = [p.__name__ for p in pytestconfig.pluginmanager.get_plugins() if hasattr(p, "__name__")]
    assert "tests.conftest" in names
    hook = pytestconfig.pluginmanager.hook.pytest_cmdline_main
    assert pytest_cmdline_main in [found.function for found in hook.get_hookimpls()]
