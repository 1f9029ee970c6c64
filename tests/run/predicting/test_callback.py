"""The first of several processes adds what all of them write, and waits for none that is gone."""

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predicting import callback
from amazon_desc.run.predicting.callback import PredictionFile
from amazon_desc.run.predicting.output import Output
from amazon_desc.run.predicting.parts import Joined, Parts
from amazon_desc.support.errors import PeerLostError
from tests.run.predicting.test_output import TITLES, begin, predict, texts_of, titles_in

WRITTEN = list("abcdefg")
"""the titles that texts are written for"""


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output.of(RunFolder(tmp_path), "titles.txt")


@pytest.fixture
def parts(output: Output) -> Parts:
    return Parts(output.parts)


def files_of(output: Output, parts: Parts, held: ExitStack, first: int = 0) -> list[PredictionFile]:
    """What two processes write to."""
    lines = begin(output)
    assert lines is not None
    of = [held.enter_context(parts.begin(rank)) for rank in range(2)]
    joined = Joined(parts.before, [parts.path(rank) for rank in range(2)], first)
    return [PredictionFile(lines, part=of[0], joined=joined), PredictionFile(part=of[1])]


def write(file: PredictionFile, numbers: list[int]) -> None:
    file.keep(numbers, texts_of([WRITTEN[number] for number in numbers]))


def test_the_file_grows_in_order_by_what_both_have_and_ends_as_that_of_one(
    output: Output, parts: Parts, tmp_path: Path
):
    with ExitStack() as held:
        first, second = files_of(output, parts, held)
        first.add([])
        write(second, [2, 3])
        assert titles_in(output.partial) == []
        write(first, [0, 1])
        assert titles_in(output.partial) == ["a", "b", "c", "", "d"]
        write(second, [6])
        second.finish()
        write(first, [4, 5])
        first.finish()
    assert first.lines is not None
    first.lines.close()
    assert titles_in(output.partial) == [of.title for of in TITLES]
    assert first.summary.num_texts == 7
    predict(one := Output(tmp_path / "one.jsonl"))
    assert output.partial.read_bytes() == one.path.read_bytes()


def test_texts_of_before_are_added_and_not_counted_as_written_now(output: Output, parts: Parts):
    with ExitStack() as held:
        _, second = files_of(output, parts, held)
        write(second, [2, 3, 4])
    assert parts.gather(0, 7) == [(0, 2), (5, 7)]
    with ExitStack() as held:
        first, second = files_of(output, parts, held)
        write(first, [0, 1])
        write(second, [5, 6])
        second.finish()
        first.finish()
    assert titles_in(output.partial) == [of.title for of in TITLES]
    assert (first.summary.num_texts, first.summary.num_repeated) == (4, 2)


def test_a_process_that_has_ended_before_it_was_through_is_not_waited_for(
    output: Output, parts: Parts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(callback, "LOST_AFTER_SECONDS", 0.2)
    with ExitStack() as held:
        first, _ = files_of(output, parts, held)
    with pytest.raises(PeerLostError, match="process 1 has ended before it was through"):
        first.finish()


def test_a_process_that_takes_long_is_waited_for(
    output: Output, parts: Parts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(callback, "LOST_AFTER_SECONDS", 0)
    with ExitStack() as held:
        first, second = files_of(output, parts, held)
        write(second, [2, 3])
        write(first, [0, 1])
        threading.Timer(0.6, second.finish).start()
        first.finish()
    assert titles_in(output.partial) == ["a", "b", "c", "", "d"]
