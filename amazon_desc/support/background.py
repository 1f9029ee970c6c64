"""One thing after another in a thread of its own, while the thread that asks for them goes on.

In come calls, out goes what the first of them that failed has raised. A card that writes texts is
to wait for no disk. Nothing is begun after a failure: what is written has no holes.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

# Calls that may wait; whoever asks for more waits itself, so that memory does not grow.
MOST_WAITING = 32
# A thread that is computing keeps all others out for so long; 5 ms would be a card's whole round.
TURN_SECONDS = 2e-4


class Background:
    """A thread that does what it is asked for, in that order. All is done where its block ends.

    In the block no garbage is looked for among what was there before: imports and a model are half
    a million objects, which would stop all threads for 0.3 s each time.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.waiting: deque[Future[None]] = deque()
        self.error: BaseException | None = None
        self.turn_seconds = sys.getswitchinterval()
        self.was_frozen = False

    def __enter__(self) -> Background:
        self.turn_seconds = sys.getswitchinterval()
        sys.setswitchinterval(TURN_SECONDS)
        self.was_frozen = bool(gc.get_freeze_count())
        gc.freeze()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Waits for all, whatever has ended the block: what was asked for was good.

        Raises:
            Exception: what a call has raised, if nothing else has ended the block.
        """
        self.pool.shutdown()
        if not self.was_frozen:  # by a process that keeps what it has imported
            gc.unfreeze()
        sys.setswitchinterval(self.turn_seconds)
        if error is None:
            self.raise_error()

    def do(self, function: Callable[..., object], *arguments: Any) -> None:
        """Has it called soon; waits while too many others do.

        Raises:
            Exception: what an earlier call has raised.
        """
        while self.waiting and (self.waiting[0].done() or len(self.waiting) >= MOST_WAITING):
            self.waiting.popleft().result()
        self.raise_error()
        self.waiting.append(self.pool.submit(self.call, function, arguments))

    def finish(self) -> None:
        """Returns when all is done.

        Raises:
            Exception: what a call has raised.
        """
        while self.waiting:
            self.waiting.popleft().result()
        self.raise_error()

    def call(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self.error is not None:
            return
        try:
            function(*arguments)
        except BaseException as error:
            self.error = error

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error
