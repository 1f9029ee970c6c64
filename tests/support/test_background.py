"""What is done in the background is done in order, without holes, and its failures are heard."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable

import pytest

from amazon_desc.support import background
from amazon_desc.support.background import Background


def failing() -> None:
    raise OSError("full")


def test_all_is_done_in_order_in_another_thread_before_the_block_ends():
    done: list[tuple[int, bool]] = []
    begin = threading.Event()
    with Background() as of:
        of.do(begin.wait, 60)
        for number in range(5):
            of.do(lambda n: done.append((n, threading.current_thread() is here)), number)
        here = threading.current_thread()
        assert done == []
        begin.set()
    assert done == [(number, False) for number in range(5)]


@pytest.mark.parametrize("tells", [Background.finish, lambda of: of.do(print), lambda of: None])
def test_what_has_failed_is_raised_and_nothing_is_done_after_it(
    tells: Callable[[Background], None],
):
    done: list[int] = []

    def write() -> None:
        with Background() as of:
            of.do(failing)
            of.do(done.append, 1)
            for future in list(of.waiting):
                future.result()
            tells(of)

    with pytest.raises(OSError, match="full"):
        write()
    assert done == []


def test_a_block_that_fails_has_done_what_was_asked_for_and_raises_its_own():
    done: list[int] = []
    begin = threading.Event()

    def write() -> None:
        with Background() as of:
            of.do(begin.wait, 60)
            of.do(done.append, 1)
            of.do(failing)
            begin.set()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write()
    assert done == [1]


def test_no_more_than_some_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(background, "MOST_WAITING", 2)
    begin, has_asked = threading.Event(), threading.Event()

    def ask(of: Background) -> None:
        for _ in range(3):
            of.do(begin.wait, 60)
        has_asked.set()

    with Background() as of:
        asking = threading.Thread(target=ask, args=[of])
        asking.start()
        assert not has_asked.wait(0.2)
        assert len(of.waiting) <= 2
        begin.set()
        asking.join()
    assert has_asked.is_set()


def test_threads_take_short_turns_in_the_block_alone():
    before = sys.getswitchinterval()
    with Background():
        assert sys.getswitchinterval() == pytest.approx(background.TURN_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(before)


class Ring:
    """Garbage that is found by looking through all objects alone."""

    def __init__(self) -> None:
        self.own = self


def test_garbage_is_looked_for_among_what_is_new_alone():
    before = gc.get_freeze_count()
    old = Ring()
    with Background():
        assert gc.get_freeze_count() > before
        of_old = weakref.ref(old)
        del old
        of_new = weakref.ref(Ring())
        gc.collect()
        assert of_old() is not None
        assert of_new() is None
    gc.collect()
    assert of_old() is None
    assert gc.get_freeze_count() == before


def test_what_a_process_keeps_stays_kept():
    gc.freeze()
    kept = gc.get_freeze_count()
    try:
        with Background():
            pass
        assert gc.get_freeze_count() >= kept
    finally:
        gc.unfreeze()


def test_garbage_is_looked_for_again_after_a_failure():
    before = gc.get_freeze_count()

    def write() -> None:
        with Background() as of:
            of.do(failing)

    with pytest.raises(OSError, match="full"):
        write()
    assert gc.get_freeze_count() == before
