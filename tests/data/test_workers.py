"""Processes: results in order, failures as themselves, and never one left behind.

The function is often `eval`, which any process can import, and the items say what it is to do.
"""

import json
import operator
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.data.corpus import workers
from amazon_desc.data.corpus.workers import map_in_order
from amazon_desc.support.errors import DataError, UserError

PROCESS_ID = "__import__('os').getpid()"
BIG = 10_000_000


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every item done by another process."""
    monkeypatch.setattr(workers, "NUM_ITEMS_HERE", 0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """The processes that the test has started."""
    processes = []

    class Noted(subprocess.Popen):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return processes


class Taken:
    """Numbers from 0 on, and how many were taken."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.num_taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.end):
            self.num_taken += 1
            yield number


def are_gone(processes: list[subprocess.Popen]) -> bool:
    """Says whether all have ended and were waited for, so that no entry of theirs is left."""
    return all(process.returncode is not None for process in processes)


# Results


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_come_in_the_items_order_however_long_each_takes(num_workers: int):
    """The first of each three is the last to be done."""
    sleep = "__import__('time').sleep({}) or {}"
    items = [sleep.format(0.02 * (2 - number % 3), number) for number in range(20)]
    assert list(map_in_order(eval, items, num_workers)) == list(range(20))


@pytest.mark.parametrize(("num_items", "num_workers"), [(0, 3), (1, 3), (8, 1), (9, 3), (10, 1)])
def test_few_items_are_all_done(num_items: int, num_workers: int):
    results = list(map_in_order(operator.neg, range(num_items), num_workers))
    assert results == [-number for number in range(num_items)]


def test_the_first_items_are_done_here_and_the_others_by_so_many_processes(
    started: list[subprocess.Popen],
):
    process_ids = list(map_in_order(eval, repeat(PROCESS_ID, 20), 3))
    assert set(process_ids[:8]) == {os.getpid()}
    assert set(process_ids[8:]) == {process.pid for process in started}
    assert len(started) == 3


def test_no_process_is_started_for_few_items_or_for_none(started: list[subprocess.Popen]):
    assert list(map_in_order(operator.neg, range(8), 3)) == [0, -1, -2, -3, -4, -5, -6, -7]
    assert len(list(map_in_order(operator.neg, range(20), 0))) == 20
    assert len(started) == 0


@pytest.mark.parametrize("num_workers", [1, 3])
def test_no_more_items_are_taken_than_there_are_processes(num_workers: int):
    items = Taken(40)
    for number, result in enumerate(map_in_order(operator.neg, items, num_workers)):
        assert result == -number
        assert items.num_taken <= number + 1 + (0 if number < 8 else num_workers)
    assert items.num_taken == 40


@pytest.mark.usefixtures("nothing_here")
def test_processes_work_at_the_same_time():
    now = "__import__('time').monotonic()"
    item = f"({now}, __import__('time').sleep(0.3), {now})"
    times = sorted(map_in_order(eval, repeat(item, 4), 2))
    assert any(times[n + 1][0] < times[n][2] for n in range(3))


@pytest.mark.usefixtures("nothing_here")
def test_big_items_and_big_results_do_not_block():
    assert list(map_in_order(len, [b"x" * BIG, b"y" * (BIG + 1)] * 2, 2)) == [BIG, BIG + 1] * 2
    assert list(map(len, map_in_order(bytes, [BIG, BIG + 1] * 2, 2))) == [BIG, BIG + 1] * 2
    big = bytes(range(256)) * (BIG // 256)
    assert list(map_in_order(bytes.swapcase, [big] * 3, 2)) == [big.swapcase()] * 3


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(
    "loud",
    [
        "print('no result', flush=True)",
        "__import__('os').write(1, b'no result')",  # as a library written in C does
        "__import__('subprocess').call(['echo', 'no result'])",
    ],
)
def test_what_a_function_prints_is_no_result(loud: str, capfd: pytest.CaptureFixture[str]):
    assert list(map_in_order(eval, [f"[{loud}] and 1", "1 + 1"], 1)) == [1, 2]
    out, err = capfd.readouterr()
    assert (out, err.count("no result")) == ("", 1)


@pytest.mark.usefixtures("nothing_here")
def test_processes_find_the_modules_that_this_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "halves.py").write_text("def half(number):\n    return number / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    from halves import half  # pyright: ignore[reportMissingImports]

    assert list(map_in_order(half, [1, 2, 3], 2)) == [0.5, 1.0, 1.5]


@pytest.mark.usefixtures("nothing_here")
def test_ctrl_c_is_for_the_one_who_started_the_processes():
    """A terminal sends it to all of them."""
    interrupted = "__import__('signal').raise_signal(2) or 1"
    assert list(map_in_order(eval, [interrupted, "2"], 1)) == [1, 2]


# Failures


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("bad", [2, 12])
def test_what_the_function_raises_is_raised_in_its_turn(bad: int, num_workers: int):
    """Item 2 is done here, item 12 by another process."""
    divisors = [1] * 16
    divisors[bad] = 0
    results: list[float] = []
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        results.extend(map_in_order(partial(operator.truediv, 6), divisors, num_workers))
    assert results == [6.0] * bad


RAISING = "(_ for _ in ()).throw({})"


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(
    ("error", "wanted", "text"),
    [
        (
            "__import__('amazon_desc.support.errors').support.errors.DataError('no title.')",
            DataError,
            "no title.",
        ),
        ("KeyError('title')", KeyError, "'title'"),
        ("FileNotFoundError(2, 'No such file', 'a.gz')", FileNotFoundError, "[Errno 2] No such"),
        ("UnicodeDecodeError('utf-8', b'\\xff', 0, 1, 'odd')", UnicodeDecodeError, "'utf-8' codec"),
    ],
)
def test_failures_keep_their_class_and_their_words(error: str, wanted: type, text: str):
    with pytest.raises(wanted) as raised:
        list(map_in_order(eval, [RAISING.format(error)], 1))
    assert type(raised.value) is wanted
    assert str(raised.value).startswith(text)


@pytest.mark.usefixtures("nothing_here")
def test_a_failure_says_where_in_the_function_it_happened():
    """What is our own mistake keeps its traceback, in another process too."""
    with pytest.raises(ValueError, match="Expecting property name") as raised:
        list(map_in_order(json.loads, ["{1}"], 1))
    assert "in raw_decode" in "\n".join(getattr(raised.value, "__notes__", []))


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(
    "item",
    [
        RAISING.format("type('Odd', (Exception,), {})('too few titles')"),
        "type('too few titles', (), {})()",
    ],
)
def test_a_failure_or_result_that_cannot_be_sent_is_not_taken_for_a_lack_of_memory(
    item: str, started: list[subprocess.Popen]
):
    with pytest.raises(Exception, match="too few titles") as raised:
        list(map_in_order(eval, [item], 1))
    assert "memory" not in str(raised.value)
    assert are_gone(started)


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        ("__import__('os').kill(__import__('os').getpid(), 9)", "-9"),
        ("__import__('os')._exit(3)", "3"),
    ],
)
def test_a_process_that_dies_is_explained(
    end: str, exit_code: str, started: list[subprocess.Popen]
):
    results: list[int] = []
    with pytest.raises(UserError) as raised:
        results.extend(map_in_order(eval, ["1", "2", end, *"4567"], 2))
    assert str(raised.value) == (
        f"a process that prepares data died (exit code {exit_code}), most likely for lack of "
        f"memory. Run the command again with fewer: --data.prepare_workers."
    )
    assert raised.value.exit_code == 6
    assert results == [1, 2]
    assert are_gone(started)


@pytest.mark.usefixtures("nothing_here")
def test_a_process_that_dies_in_the_middle_of_a_result_is_explained(
    started: list[subprocess.Popen],
):
    """A pipe holds less than the result, so the second process waits for this one to read."""
    results = map_in_order(eval, ["__import__('time').sleep(0.5)", f"bytes({BIG})", *"34"], 2)
    assert next(results) is None
    started[1].kill()
    with pytest.raises(UserError, match=r"died \(exit code -9\), most likely for lack of memory"):
        list(results)
    assert are_gone(started)


@pytest.mark.usefixtures("nothing_here")
def test_a_process_that_dies_while_it_waits_for_work_is_explained(
    started: list[subprocess.Popen],
):
    results = map_in_order(len, repeat(b"x" * BIG), 1)
    assert next(results) == BIG
    started[0].kill()
    with pytest.raises(UserError, match=r"died \(exit code -9\)"):
        list(results)
    assert are_gone(started)


# No process is left behind


def test_no_process_is_left_when_all_is_done(started: list[subprocess.Popen]):
    assert len(list(map_in_order(operator.neg, range(20), 2))) == 20
    assert len(started) == 2
    assert are_gone(started)


def test_no_process_is_left_when_the_results_are_no_longer_wanted(
    started: list[subprocess.Popen],
):
    results = map_in_order(eval, repeat("__import__('time').sleep(0.01)"), 2)
    assert len(list(islice(results, 12))) == 12
    assert len(started) == 2
    assert not are_gone(started)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert are_gone(started)


def test_no_process_is_left_when_the_one_who_uses_the_results_fails(
    started: list[subprocess.Popen],
):
    def use(results: Iterator[int]) -> None:
        for result in results:
            if result == -12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use(map_in_order(operator.neg, Taken(30), 2))
    assert len(started) == 2
    assert are_gone(started)


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(
    ("function", "items"),
    [
        (operator.neg, [1, "no number", 3, 4]),
        (operator.neg, [1, 2, lambda: "cannot be sent", 4]),
        (lambda item: item, [1, 2]),
        (operator.neg, (1 // number for number in (1, 1, 0))),
    ],
    ids=["the function fails", "an item cannot be sent", "nor the function", "the items fail"],
)
def test_no_process_is_left_when_something_fails(
    function: Callable, items: Any, started: list[subprocess.Popen]
):
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError, ZeroDivisionError)):
        list(map_in_order(function, items, 2))
    assert len(started) > 0
    assert are_gone(started)


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
@pytest.mark.parametrize("item", [PROCESS_ID, f"__import__('time').sleep(0.5) or {PROCESS_ID}"])
def test_no_process_is_left_when_this_one_is_killed(item: str):
    """All of them hold the same stderr, which ends when the last of them does."""
    script = (
        "import time\n"
        "from itertools import islice, repeat\n"
        "from amazon_desc.data.corpus import workers\n"
        "workers.NUM_ITEMS_HERE = 0\n"
        f"results = workers.map_in_order(eval, repeat({item!r}), 3)\n"
        "print(*islice(results, 3), flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        assert parent.stdout is not None
        process_ids = {int(word) for word in parent.stdout.readline().split()}
        assert len(process_ids) == 3
        for process_id in process_ids:
            os.kill(process_id, 0)  # fails if there is none
    finally:
        parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=10)  # fails if one is left
