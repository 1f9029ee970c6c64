"""Ctrl-C, SIGTERM and a closed terminal: leave at once, or tell whoever saves first.

In come signals, out goes Interrupted, whose exit code is 128 and the signal's number. A second
signal ends the process on the spot, unless it is one of several: these are asked by whoever asks
all, and again by the one that has started them, which ends those that do not leave. Whatever is
running can be killed at any moment and loses nothing that was saved; being asked only saves the
last steps too. Imports nothing that takes time: the program can be interrupted before all else is
imported.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

from amazon_desc.support.errors import Interrupted
from amazon_desc.support.ranks import here, is_answered_for

STOPPING = "\namazon_desc: {why}: finishing this optimizer step and saving.{again}\n"
ONCE_MORE = " Once more, and it leaves at once."
STOPPED_EARLY = "\namazon_desc: stopped by {why}. The same command starts again.\n"

# An exception can be lost where it is raised: in an import at once, elsewhere that shows later.
AGAIN_SECONDS, LOST_SECONDS = 0.05, 5.0

# How long a process that waits for others in torch, where Python hears no signal, stays after one.
DEAF_SECONDS = 5.0


def stopping_signals() -> list[int]:
    """Returns the signals that ask a process to leave.

    SIGHUP says that the terminal is gone. Whoever ignores it, as nohup does, wants to go on.
    """
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


@contextmanager
def handlers_restored(numbers: list[int]) -> Iterator[bool]:
    """Gives back handlers after the block; says whether this thread, the main one, may set any."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def leaving_on_the_spot() -> Iterator[None]:
    """Has a signal end the process inside the block, where nothing can be half done yet.

    An exception would be lost in the middle of an import, where it may be caught.
    """
    numbers = stopping_signals()
    with handlers_restored(numbers) as may_set:
        for number in numbers if may_set else ():
            signal.signal(number, leave_on_the_spot)
        yield


def leave_on_the_spot(number: int, frame: FrameType | None) -> None:
    if speaks_of_signals():
        write_error(STOPPED_EARLY.format(why=signal.Signals(number).name))
    os._exit(128 + number)


@contextmanager
def heard(tell: Callable[[int], None]) -> Iterator[None]:
    """Tells a thread of each signal inside the block, also where the main one hears none."""
    told, telling = socket.socketpair()
    telling.setblocking(False)

    def listen() -> None:
        while number := told.recv(1):
            tell(number[0])
        told.close()

    threading.Thread(target=listen, daemon=True).start()
    before = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
    telling_others.add(telling)
    try:
        yield
    finally:
        telling_others.clear()
        signal.set_wakeup_fd(before)
        telling.close()


def tell_nobody() -> None:
    """Has a loader process, which is forked, not tell its parent of the signals that it gets."""
    if telling_others:
        signal.set_wakeup_fd(-1)


telling_others: set[socket.socket] = set()
"""what tells the thread of this process of signals"""
os.register_at_fork(after_in_child=tell_nobody)


class Signals:
    """What this process was asked to do, and whether it may be interrupted at once."""

    def __init__(self) -> None:
        self.received: Interrupted | None = None
        self.is_training = False
        self.numbers: list[int] = []
        self.pid = os.getpid()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles what asks to leave inside the block; only the main thread can."""
        numbers = stopping_signals()
        with handlers_restored([*numbers, signal.SIGALRM]) as may_set:
            self.numbers = numbers if may_set else []
            self.handle()
            is_one_of_several = may_set and bool(here().started_by)
            try:
                with heard(self.leave_if_deaf) if is_one_of_several else nullcontext():
                    yield
            finally:
                if may_set:
                    signal.setitimer(signal.ITIMER_REAL, 0)

    def handle(self) -> None:
        """Takes the signals over, also from a trainer that has just taken them over itself."""
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a loader process that was forked a moment ago
            return
        if signal.Signals(number).name == "SIGHUP":
            forget_terminal()
            if self.received is not None:  # system and shell both send it
                return
        if self.received is not None:
            if here().started_by:
                return
            os._exit(128 + number)
        self.received = Interrupted(signal.Signals(number).name, 128 + number)
        self.leave_or_say(number, frame)

    def leave_if_deaf(self, number: int) -> None:
        """Has the process end after a while, whatever its main thread waits for, unless it trains.

        Called in another thread.
        """
        if number in self.numbers and not self.is_training:
            timer = threading.Timer(DEAF_SECONDS, os._exit, [128 + number])
            timer.daemon = True
            timer.start()

    def leave_or_say(self, number: int, frame: FrameType | None) -> None:
        """Raises, again if need be, until the command has left; a fit that trains leaves later."""
        if self.is_training:
            self.say_when()
            return
        is_lost = would_be_lost(frame)
        signal.signal(signal.SIGALRM, self.leave_or_say)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS if is_lost else LOST_SECONDS)
        if not is_lost:
            self.leave_if_asked()

    def ask(self, interrupted: Interrupted) -> None:
        """Has a fit leave after its optimizer step."""
        self.received = interrupted
        self.say_when()

    def say_when(self) -> None:
        """Says that a fit leaves after its step: of several processes, the first one does."""
        if self.received is not None and here().is_first:
            again = ONCE_MORE if is_answered_for() or not here().started_by else ""
            write_error(STOPPING.format(why=self.received.why, again=again))

    def leave_if_asked(self) -> None:
        if self.received is not None:
            raise self.received


def speaks_of_signals() -> bool:
    """Whether nobody else says that this process leaves."""
    return here().is_first and not is_answered_for()


def would_be_lost(frame: FrameType | None) -> bool:
    """Says whether Python would not let an exception out of where it is.

    An import has callbacks of which exceptions are printed and forgotten, as those of __del__ are.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def write_error(text: str) -> None:
    """Writes to stderr; print() could be what was interrupted, and cannot be entered twice."""
    with suppress(OSError):  # nobody is there to read it
        os.write(2, text.encode())


def forget_terminal() -> None:
    """Has what is still printed go nowhere where the terminal is gone: writing there would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if is_device and not os.isatty(descriptor):  # a terminal that is gone is none
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
