"""Promises of scripts/report.py: a page where it is looked for, or a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS, load_script
from tests.run.report.made_run import make_run

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    for name in ("one", "other"):
        make_run(place / name, num_points=2)
    return place


def test_a_page_is_in_its_run_and_one_of_several_beside_the_first(runs: Path, capsys):
    report = load_script("report")
    report.main([str(runs / "one")])
    report.main([str(runs / "one"), str(runs / "other")])
    assert "one and other" not in (runs / "one" / "report.html").read_text("utf-8")
    assert "one and other" in (runs / "report.html").read_text("utf-8")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"The report is in {runs / 'one' / 'report.html'}: open it in a browser.",
        f"The report is in {runs / 'report.html'}: open it in a browser.",
    ]


def test_a_page_is_where_it_is_asked_for(runs: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(runs / "other")
    load_script("report").main([".", "--output", str(tmp_path / "new" / "page.html")])
    assert "<title>Report of other</title>" in (tmp_path / "new" / "page.html").read_text("utf-8")


@pytest.mark.slow
def test_a_notebook_s_settings_of_matplotlib_and_a_read_only_home_change_nothing(runs: Path):
    load_script("report").main([str(runs / "one")])
    page = (runs / "one" / "report.html").read_bytes()
    odd = {"MPLBACKEND": "of_a_notebook", "HOME": "/proc"}
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "report.py"), str(runs / "one")],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent), **odd},
        capture_output=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (runs / "one" / "report.html").read_bytes() == page


@pytest.mark.parametrize("which", ["nowhere", "empty", "file"])
def test_what_is_no_run_is_refused_in_one_sentence(runs: Path, tmp_path: Path, capsys, which: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        load_script("report").main([str(runs / "one"), str(tmp_path / which)])
    assert exit_.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"amazon_desc: {tmp_path / which} is no run: wanted a folder in which")
    assert not list(tmp_path.rglob("*.html"))


def test_a_folder_is_no_name_of_a_page(runs: Path, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as exit_:
        load_script("report").main([str(runs / "one"), "--output", str(tmp_path)])
    assert exit_.value.code == 2
    assert f"--output {tmp_path}: wanted the name of a file, found a folder" in (
        capsys.readouterr().err
    )
