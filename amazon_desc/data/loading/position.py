"""How far the rows have been trained on: what a checkpoint keeps of it, and what follows from it.

In come the rows that were trained on, out go the epoch, the seed of a micro-batch's dropout, and
the state that a checkpoint stores. The module that trains moves the position on.
"""

from __future__ import annotations

from typing import Any

from amazon_desc.data.corpus.corpus import Corpus
from amazon_desc.data.loading.order import RowOrder, Share, sizes_of_round
from amazon_desc.support.errors import UserError


class TrainedRows:
    """The position of a data module in its rows; a part of DescriptionData."""

    corpus: Corpus | None
    seed: int
    batch_size: int
    share: Share
    num_trained_rows = 0

    @property
    def stage(self) -> str | None:
        """Returns what the trainer is doing: "fit", "validate", "test" or "predict"."""
        raise NotImplementedError

    @property
    def opened(self) -> Corpus:
        assert self.corpus is not None, "setup() opens the corpus"
        return self.corpus

    def order(self, num_rows: int, first_row: int) -> RowOrder:
        """Returns the micro-batches of this process from a row on."""
        raise NotImplementedError

    @property
    def epoch(self) -> float:
        """How many times the rows have been trained on, parts of an epoch counted too."""
        return self.num_trained_rows / self.opened.manifest["counts"]["num_rows"]

    @property
    def dropout_seed(self) -> int:
        """A number of this micro-batch: the rows before it decide it, not how often it was met,
        and not which process has it."""
        num_before = self.num_trained_rows + self.share.rank * self.batch_size
        return (self.seed * 1_000_003 + num_before) % 2**31

    def count_round(self) -> list[int]:
        """Counts the micro-batch that each process has been dealt, and returns their rows."""
        num_rows = self.opened.manifest["counts"]["num_rows"]
        total, first = self.order(num_rows, 0).total_rows, self.num_trained_rows
        sizes = sizes_of_round(first, total, self.batch_size, self.share.world_size)
        self.num_trained_rows += sum(sizes)
        return sizes

    # What a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        return {"num_trained_rows": self.num_trained_rows, "corpus": self.opened.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        is_fit = self.stage == "fit"
        if is_fit and self.corpus is not None and state_dict["corpus"] != self.corpus.fingerprint:
            raise UserError(
                f"the checkpoint was trained on the prepared data {state_dict['corpus']}, this run "
                f"has {self.corpus.fingerprint}: the data files or --data options have changed, or "
                f"the version of amazon_desc. Set them back, or start anew in another "
                f"--trainer.default_root_dir."
            )
        self.num_trained_rows = state_dict["num_trained_rows"]
