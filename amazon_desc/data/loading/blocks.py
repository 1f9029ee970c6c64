"""Which titles a process writes for: blocks of them, dealt to the processes of a command in turn.

In come the runs of titles that are still to be written for, by their numbers, out go blocks, in
order. A block is what is handed out, and written, together. Which runs are left is not known here.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TypeVar

from amazon_desc.data.loading.order import WHOLE, Share

T = TypeVar("T")

Run = tuple[int, int]
"""numbers from the first to before the second"""


class Blocks(Sequence[range]):
    """Blocks of numbers; none of them is kept, so that memory does not grow with their number.

    Of the runs (0, 5) and (8, 11), 2 at a time:

        WHOLE          0 1 | 2 3 | 4 | 8 9 | 10
        Share(0, 2)    0 1       | 4       | 10
        Share(1, 2)          2 3     | 8 9
    """

    def __init__(self, runs: Iterable[Run], size: int, share: Share = WHOLE) -> None:
        self.runs, self.size = list(runs), size
        lengths = (-(-(end - start) // size) for start, end in self.runs)
        self.before = list(accumulate(lengths, initial=0))  # blocks before each run, and in all
        self.dealt = range(share.rank, self.before[-1], share.world_size)

    @property
    def num_dealt(self) -> int:
        """How many numbers all processes have together."""
        return sum(end - start for start, end in self.runs)

    def __len__(self) -> int:
        return len(self.dealt)

    def __getitem__(self, index: int) -> range:  # pyright: ignore[reportIncompatibleMethodOverride]
        number = self.dealt[index]
        place = bisect_right(self.before, number) - 1
        start, end = self.runs[place]
        first = start + (number - self.before[place]) * self.size
        return range(first, min(first + self.size, end))


def picked(items_from: Callable[[int], Iterable[T]], blocks: Iterable[range]) -> Iterator[T]:
    """Yields the items of blocks, which are in order; they are read once, from the first on.

    With items_from(2) -> "c", "d", "e", "f", "g":

        picked(items_from, [range(2, 4), range(6, 7)]) -> "c", "d", "g"
    """
    waiting: Iterator[T] | None = None
    place = 0
    for block in blocks:
        if waiting is None:
            waiting, place = iter(items_from(block.start)), block.start
        yield from islice(waiting, block.start - place, block.stop - place)
        place = block.stop
