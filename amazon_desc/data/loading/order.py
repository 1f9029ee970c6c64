"""The order in which training sees the rows: a pure function of the seed.

In come the number of rows and epochs, out go the row numbers of each micro-batch, from any point
on. Epochs follow each other without a seam, so only the very last micro-batch can be smaller, and
a run that stops is resumed at exactly the row where it stopped. Several processes are dealt the
micro-batches of this one order in turn, so that they train on what one alone would.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch.utils.data import Sampler

T = TypeVar("T")


class Share(NamedTuple):
    """What of the batches a process is dealt: every `world_size`th, from the `rank`th on."""

    rank: int
    world_size: int


WHOLE = Share(0, 1)


class RowOrder(Sampler[list[int]]):
    """Yields micro-batches of row numbers; each epoch is a new permutation.

    With 3 rows, 2 epochs, batches of 2 and the permutations [2, 0, 1] and [0, 2, 1]:

        first_row = 0:   [2, 0], [1, 0], [2, 1]
        first_row = 2:           [1, 0], [2, 1]
        max_rows = 3:    [2, 0], [1]

    Of 2 processes, which have as many micro-batches each, if need be an empty one:

        Share(0, 2):   [2, 0], [2, 1]
        Share(1, 2):   [1, 0], []

    Its length is that of the whole run, whatever `first_row`: Lightning counts a resumed run's
    batches from the beginning.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        num_epochs: int,
        seed: int,
        first_row: int = 0,
        max_rows: int | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.first_row = first_row
        self.share = share
        self.total_rows = num_rows * num_epochs
        if max_rows is not None:
            self.total_rows = min(self.total_rows, max_rows)

    def __len__(self) -> int:
        return -(-self.total_rows // (self.batch_size * self.share.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = self.share
        for in_turn in batched(batched(self.rows(), self.batch_size), world_size):
            yield in_turn[rank] if rank < len(in_turn) else []

    def rows(self) -> Iterator[int]:
        """Yields row numbers from `first_row` of the run to its end."""
        for epoch in range(self.first_row // self.num_rows, -(-self.total_rows // self.num_rows)):
            before = epoch * self.num_rows
            skipped = max(0, self.first_row - before)
            yield from self.permutation(epoch)[skipped : self.total_rows - before]

    def permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.num_rows, generator=generator).tolist()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields so many at a time, and fewer at the end."""
    waiting = iter(items)
    while some := list(islice(waiting, size)):
        yield some


def sizes_of_round(first_row: int, total_rows: int, batch_size: int, world_size: int) -> list[int]:
    """Returns the rows of the micro-batch that each process is dealt next.

    5 rows by 2 on 2 processes:   first_row = 0 -> [2, 2]    first_row = 4 -> [1, 0]
    """
    left = (total_rows - first_row - rank * batch_size for rank in range(world_size))
    return [min(batch_size, max(0, rows)) for rows in left]
