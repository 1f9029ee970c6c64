"""The order in which training sees the rows: a pure function of the seed.

In come the number of rows and epochs, out go the row numbers of each micro-batch, from any point
on. Epochs follow each other without a seam, so only the very last micro-batch can be smaller, and
a run that stops is resumed at exactly the row where it stopped.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class RowOrder(Sampler[list[int]]):
    """Yields micro-batches of row numbers; each epoch is a new permutation.

    With 3 rows, 2 epochs, batches of 2 and the permutations [2, 0, 1] and [0, 2, 1]:

        first_row = 0:   [2, 0], [1, 0], [2, 1]
        first_row = 2:           [1, 0], [2, 1]
        max_rows = 3:    [2, 0], [1]

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
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.first_row = first_row
        self.total_rows = num_rows * num_epochs
        if max_rows is not None:
            self.total_rows = min(self.total_rows, max_rows)

    def __len__(self) -> int:
        return -(-self.total_rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for row in self.rows():
            batch.append(row)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def rows(self) -> Iterator[int]:
        """Yields row numbers from `first_row` of the run to its end."""
        for epoch in range(self.first_row // self.num_rows, -(-self.total_rows // self.num_rows)):
            before = epoch * self.num_rows
            skipped = max(0, self.first_row - before)
            yield from self.permutation(epoch)[skipped : self.total_rows - before]

    def permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.num_rows, generator=generator).tolist()
