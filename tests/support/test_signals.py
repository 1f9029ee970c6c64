"""Being asked to leave: at once, on the spot, after a step, or not at all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from amazon_desc.support.errors import Interrupted
from amazon_desc.support.resources import PACKAGE
from amazon_desc.support.signals import Signals


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    """The tests may be run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def run(program: str, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.mark.parametrize(("number", "code"), CODES)
def test_each_leaves_at_once_where_nothing_is_trained(number: signal.Signals, code: int):
    before = signal.getsignal(number)

    def wait() -> None:
        with Signals().handled():
            os.kill(os.getpid(), number)
            time.sleep(1)

    with pytest.raises(Interrupted) as interrupted:
        wait()
    assert (interrupted.value.why, interrupted.value.exit_code) == (number.name, code)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "code"), CODES)
def test_each_is_kept_for_later_while_something_is_trained(number: signal.Signals, code: int):
    signals = Signals()
    with signals.handled():
        signals.is_training = True
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as interrupted:
            signals.leave_if_asked()
    assert interrupted.value.exit_code == code


def test_where_an_exception_would_be_lost_it_is_raised_later():
    """Python prints what is raised in a __del__, and forgets it."""

    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # here the signal arrives
            passed.append(True)

    def die() -> None:
        with Signals().handled():
            Dying()
            time.sleep(5)

    passed: list[bool] = []
    with pytest.raises(Interrupted):
        die()
    assert passed == [True]


def test_one_that_was_caught_is_raised_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amazon_desc.support.signals.LOST_SECONDS", 0.05)
    caught: list[BaseException] = []

    def hold_up() -> None:
        with Signals().handled():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            except BaseException as error:
                caught.append(error)
            time.sleep(5)

    with pytest.raises(Interrupted):
        hold_up()
    assert len(caught) == 1


def test_a_terminal_that_says_twice_that_it_is_gone_does_not_cut_the_saving_short():
    signals = Signals()
    with signals.handled():
        signals.is_training = True
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received is not None


WAITING = """
import os, signal
from amazon_desc.support.signals import Signals
signals = Signals()
with signals.handled():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on")
"""


def test_under_nohup_a_closed_terminal_changes_nothing():
    assert run(WAITING).returncode == 1, "Interrupted is raised where nobody catches it"
    done = run(WAITING, "nohup")
    assert (done.returncode, done.stdout) == (0, "goes on\n")


@pytest.mark.parametrize(("number", "code"), CODES)
def test_before_anything_is_begun_the_process_ends_on_the_spot_with_a_sentence(
    number: signal.Signals, code: int
):
    done = run(
        "import os\n"
        "from amazon_desc.support.signals import leaving_on_the_spot\n"
        f"with leaving_on_the_spot():\n    os.kill(os.getpid(), {int(number)})\n    print('on')"
    )
    assert (done.returncode, done.stdout) == (code, "")
    sentence = f"amazon_desc: stopped by {number.name}. The same command starts again."
    assert done.stderr.strip() == sentence


def test_a_loader_process_that_was_forked_a_moment_ago_leaves_it_to_its_parent():
    signals = Signals()
    with signals.handled():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
