"""What bench_predict_cards.py says of cards is what predict took, and wrote, on them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.conftest import load_script

bench = load_script("bench_predict_cards")

SAID = "Texts written: 1,200 in 1,020.5 s: 1.2 titles/s, 150.0 tokens/s. 0.0 % ended\n"


def finished(titles: int, output: Path, text: str) -> Any:
    output.write_text(text)
    return bench.Run(0, titles, 1.0, 1.0, output)


def growth(*seen: tuple[float, int]) -> Any:
    found = bench.Growth()
    for at, size in seen:
        found.add(at, size)
    return found


def test_seconds_are_those_that_predict_says_for_all_titles():
    assert bench.seconds_in(f"Kernels: fused\n{SAID}", 1_200) == 1020.5
    with pytest.raises(SystemExit, match="1,300 texts were wanted"):
        bench.seconds_in(SAID, 1_300)


def test_what_comes_before_the_first_text_and_after_the_last_does_not_count():
    of_one = growth((8.0, 0), (9.0, 100), (12.0, 1_100), (14.0, 2_500), (90.0, 2_500))
    assert of_one.seconds == 5.0
    assert of_one.share == 0.96
    assert bench.speed_of([of_one], 1_000) == 192.0


def test_the_slowest_of_several_decides():
    quick, slow = growth((0.0, 100), (5.0, 2_500)), growth((1.0, 100), (9.0, 2_500))
    assert bench.speed_of([quick, slow], 2_000) == 240.0


@pytest.mark.parametrize("seen", [[], [(1.0, 100)]])
def test_texts_that_come_at_once_are_too_few(seen: list[tuple[float, int]]):
    with pytest.raises(SystemExit, match="1,000 titles came at once: too few"):
        bench.speed_of([growth((0.0, 1), (1.0, 2)), growth(*seen)], 1_000)


@pytest.mark.parametrize(
    "names", [["o.jsonl.partial"], ["o.jsonl.parts/0.jsonl", "o.jsonl.parts/1.jsonl"]]
)
def test_the_file_of_each_process_is_watched(names: list[str], tmp_path: Path):
    paths = [tmp_path / name for name in names]
    with bench.watched(tmp_path / "o.jsonl", len(names)) as growing:
        for size in (10, 30):
            for path in paths:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"x" * size)
            until = time.monotonic() + 30
            while not all(of.seen and of.seen[-1][1] == size for of in growing):
                assert time.monotonic() < until
                time.sleep(0.001)
        for path in paths:
            path.unlink()
    assert [of.seen[-1][1] for of in growing] == [30] * len(names)
    assert all(of.seconds > 0 for of in growing)


def test_lines_of_titles_that_two_runs_have_are_compared(tmp_path: Path):
    runs = [
        finished(1, tmp_path / "a", "x\n"),
        finished(2, tmp_path / "b", "x\ny\n"),
        finished(2, tmp_path / "c", "x\nz\n"),
    ]
    assert list(bench.differences(runs)) == [
        f"{tmp_path / 'b'} and {tmp_path / 'c'} have other texts for the same titles."
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

    def called(arguments: list[str], folder: Path, card: int | None) -> str:
        """Runs a command in forks."""
        nonlocal num_called
        num_called += 1
        size = 2 if "--trainer.devices=2" in arguments else 1
        assert (card is None) == (size == 2)
        logs = tmp_path / f"logs-{num_called}"
        codes = worlds.run(arguments, size, logs)
        printed = (logs / "0.log").read_text()
        assert codes == [0] * size, printed[-2000:]
        return printed

    monkeypatch.setattr(bench, "called", called)
    monkeypatch.setattr(bench, "speed_of", lambda growing, num_titles: 10.0 * len(growing))
    options = ["--base", "tiny", "--titles", "12", "--new-tokens", "4", "--json"]
    small = ["--data.row_tokens=256", "--data.max_seq_length=256", "--data.rows_per_step=2"]
    found = tmp_path / "found.json"
    assert bench.main([*options, str(found), "--folder", str(tmp_path), "--", *small]) == 0
    printed = capsys.readouterr().out
    assert "card 1 alone: 12 titles" in printed
    assert "2 cards: 24 titles" in printed
    assert "80 tokens/s, 2.000 times card 0, 2.000 times the mean of all alone" in printed
    assert "The same titles have the same texts." in printed
    runs = json.loads(found.read_text())
    assert [(of["card"], of["titles"]) for of in runs] == [(0, 12), (1, 12), (None, 24)]
    lines = Path(runs[-1]["output"]).read_text().splitlines()
    assert [json.loads(line)["num_tokens"] for line in lines] == [4] * 24
