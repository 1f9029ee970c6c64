"""What bench_predict_cards.py says of cards is what predict took, and wrote, on them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.conftest import load_script

bench = load_script("bench_predict_cards")

SAID = "Texts written: 1,200 in 1,020.5 s: 1.2 titles/s, 150.0 tokens/s. 0.0 % ended\n"


def finished(devices: int, titles: int, seconds: float, output: Path, text: str) -> Any:
    output.write_text(text)
    return bench.Run(devices, titles, seconds, output)


def test_seconds_are_those_that_predict_says_for_all_titles():
    assert bench.seconds_in(f"Kernels: fused\n{SAID}", 1_200) == 1020.5
    with pytest.raises(SystemExit, match="1,300 texts were wanted"):
        bench.seconds_in(SAID, 1_300)


def test_what_each_run_takes_whatever_its_titles_does_not_count(tmp_path: Path):
    few = finished(1, 24_000, 20.0, tmp_path / "few", "")
    many = finished(1, 48_000, 40.0, tmp_path / "many", "")
    assert bench.speed_of(few, many) == 1_200
    with pytest.raises(SystemExit, match="too few"):
        bench.speed_of(few, many._replace(seconds=20.0))


def test_files_of_the_same_titles_are_compared_byte_by_byte(tmp_path: Path):
    runs = [
        finished(1, 10, 1, tmp_path / "a", "x"),
        finished(1, 20, 2, tmp_path / "b", "xy"),
        finished(2, 20, 1, tmp_path / "c", "xz"),
    ]
    assert list(bench.differences(runs)) == [
        f"{tmp_path / 'c'} and {tmp_path / 'b'} are not the same."
    ]
    assert not list(bench.differences(runs[:2]))


def test_titles_are_all_different(tmp_path: Path):
    products = tmp_path / "products.jsonl"
    products.write_text('{"title": "a mug"}\n{"title": "a cap"}\n')
    assert list(bench.titles_of(products, 3)) == ["a mug 0", "a cap 1", "a mug 2"]


@pytest.mark.slow
def test_one_and_two_processes_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    num_called = 0

    def called(arguments: list[str], folder: Path) -> str:
        """Runs a command in forks; a text takes so long that speeds are above nothing."""
        nonlocal num_called
        num_called += 1
        size = 2 if "--trainer.devices=2" in arguments else 1
        logs = tmp_path / f"logs-{num_called}"
        codes = worlds.run(arguments, size, logs)
        printed = (logs / "0.log").read_text()
        assert codes == [0] * size, printed[-2000:]
        return printed

    monkeypatch.setattr(bench, "called", called)
    monkeypatch.setattr(bench, "speed_of", lambda few, many: 10.0 * many.devices)
    options = ["--base", "tiny", "--titles", "12", "--new-tokens", "4", "--json"]
    small = ["--data.row_tokens=256", "--data.max_seq_length=256", "--data.rows_per_step=2"]
    found = tmp_path / "found.json"
    assert bench.main([*options, str(found), "--folder", str(tmp_path), "--", *small]) == 0
    printed = capsys.readouterr().out
    assert "2 cards: 24 titles" in printed
    assert "2.000 times one" in printed
    assert "The same titles have the same texts." in printed
    runs = json.loads(found.read_text())["runs"]
    assert [of[:2] for of in runs] == [[1, 12], [1, 24], [2, 24], [2, 48]]
    lines = Path(runs[-1][3]).read_text().splitlines()
    assert [json.loads(line)["num_tokens"] for line in lines] == [4] * 48
