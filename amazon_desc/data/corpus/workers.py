"""Applies a function to a stream of items in several processes; results come in the items' order.

In come a function, items and a number of processes, out comes the stream of results. The processes
are fresh interpreters that read from one pipe and write to another. So they share no thread, lock
or CUDA context with this one, import no more than the function needs, and end when this one ends,
however it ends: the pipe that they read from closes.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from amazon_desc.support.errors import OutOfMemoryError

# So few items are done sooner here than a process starts.
NUM_ITEMS_HERE = 8


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Any], Any], items: Iterable[Any], num_workers: int
) -> Iterator[Any]:
    """Yields function(item) for each item, in order, computed by `num_workers` processes.

    At most `num_workers` items are on their way, so memory stays bounded; with 0 everything is done
    here. Function, items and results must be picklable.

    Raises:
        Exception: what the function raised.
        OutOfMemoryError: a process died, which is nearly always how a system ends a lack of memory.
    """
    items = iter(items)
    if num_workers == 0:
        yield from map(function, items)
        return
    yield from map(function, islice(items, NUM_ITEMS_HERE))
    workers: list[Worker] = []
    waiting: deque[Worker] = deque()  # the one whose result comes next is in front
    try:
        for item in items:
            results = []
            if len(workers) < num_workers:
                workers.append(worker := Worker(function))
            else:
                worker = waiting.popleft()
                results = [worker.receive()]
            worker.send(item)
            waiting.append(worker)
            yield from results
        while waiting:
            yield waiting.popleft().receive()
    finally:
        for worker in workers:
            worker.stop()


class Worker:
    """A process that applies the function to one item at a time."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            # -P: it imports from where this process does, and not from the working folder.
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # a closed terminal, too, is for the one who started this
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to_worker, self.from_worker = self.process.stdin, self.process.stdout
        try:
            self.send(function)
        except BaseException:
            self.stop()
            raise

    def send(self, item: Any) -> None:
        try:
            pickle.dump(item, self.to_worker, protocol=pickle.HIGHEST_PROTOCOL)
            self.to_worker.flush()
        except BrokenPipeError:
            raise self.death() from None

    def receive(self) -> Any:
        try:
            is_result, value = pickle.load(self.from_worker)
        except (EOFError, pickle.UnpicklingError):  # it may have died in the middle of a result
            raise self.death() from None
        if not is_result:
            error, where = value
            error.add_note(f"In a process that prepares data:\n{where}")
            raise error
        return value

    def death(self) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"a process that prepares data died (exit code {self.process.wait()}), most likely for "
            f"lack of memory. Run the command again with fewer: --data.prepare_workers."
        )

    def stop(self) -> None:
        """Ends the process; nothing that it still has to say is wanted."""
        self.process.kill()
        self.process.wait()
        self.from_worker.close()
        with suppress(BrokenPipeError):  # there was more to send
            self.to_worker.close()


def serve() -> None:
    """What a worker runs: a function, then items, from stdin; results to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this
    items, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed, by whomever, is no result
    function = pickle.load(items)
    while True:
        try:
            item = pickle.load(items)
        except EOFError:
            return
        try:
            result = (True, function(item))
        except Exception as error:  # whatever it is, it is raised again where it is waited for
            result = (False, (error, traceback.format_exc()))
        try:
            results.write(pickled(result))
            results.flush()
        except BrokenPipeError:
            return


def pickled(result: tuple[bool, Any]) -> bytes:
    """Returns what is sent; in place of what cannot be sent, a failure that says what it was."""
    try:
        data = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
        if not result[0]:
            pickle.loads(data)  # an exception may be one that cannot be rebuilt
        return data
    except Exception as error:
        unsent = RuntimeError(f"{result[1]!r} cannot be sent: {error}")
        return pickle.dumps((False, (unsent, traceback.format_exc())))
