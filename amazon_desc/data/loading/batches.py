"""Turns packed rows into the tensors that the model takes.

In come records of the corpus, out goes a RowBatch, to learn from or to measure the loss on. B rows,
T tokens. No model.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amazon_desc.data.corpus.packing import Row

LossOn = Literal["completion", "all"]


class RowBatch(NamedTuple):
    """Packed rows. Positions restart at each example: that alone keeps examples apart."""

    input_ids: Tensor
    """(B, T) int64"""
    position_ids: Tensor
    """(B, T) int64, 0 at the first token of each example and at all padding"""
    is_target: Tensor
    """(B, T) bool: this token is to be predicted from those before it"""
    example_tokens: Tensor
    """(E, L) int64: the places of each example's tokens among the B·T flattened ones; L is the
    longest example's length, and after a shorter one its last token is repeated"""
    token_places: Tensor
    """(B, T) int64: the place of each token among the E·L flattened ones; 0 for padding"""
    before_targets: Tensor
    """(M) int64: the place before each target among the B·T"""
    num_tokens: int
    """tokens that are no padding"""

    def sums_of_examples(self, values: Tensor) -> Tensor:
        """Adds up what each target has, for each of the E examples, in the order of the rows.

        Two examples with two targets and one, values [1.5, 2.0, 4.0] -> [3.5, 4.0]. The same to the
        last bit on any device: each value has a place of its own before they are added.

        Args:
            values: (M), as `before_targets` names the targets; returned as float64

        """
        size = self.example_tokens.shape
        places = self.token_places.flatten()[self.before_targets + 1]
        empty = torch.zeros(size.numel(), dtype=torch.float64, device=values.device)
        return empty.index_copy(0, places, values.double()).view(size).sum(1)

    def to(self, device: torch.device) -> "RowBatch":
        """Returns the batch with its tensors on a device; Lightning calls this."""
        tensors = {name: t for name, t in self._asdict().items() if isinstance(t, Tensor)}
        if device.type != "cuda":
            return self._replace(**{name: t.to(device) for name, t in tensors.items()})
        # out of other memory than pinned, a copy has the host wait for all that came before
        return self._replace(
            **{name: t.pin_memory().to(device, non_blocking=True) for name, t in tensors.items()}
        )


def collate_rows(rows: Sequence[Row], row_tokens: int, pad_id: int, loss_on: LossOn) -> RowBatch:
    """Builds the tensors of packed rows.

    One row of 10 tokens with examples of 5 (prompt 3) and 3 tokens (prompt 1), completion only:

        input_ids    = [1, 7, 8, 4, 2, 1, 5, 2, 0, 0]
        position_ids = [0, 1, 2, 3, 4, 0, 1, 2, 0, 0]
        is_target    = [0, 0, 0, 1, 1, 0, 1, 1, 0, 0]

    With `loss_on` "all" every token but each example's first is a target.
    """
    if not rows:
        return no_rows(row_tokens)
    input_ids = np.full((len(rows), row_tokens), pad_id, dtype=np.int64)
    position_ids = np.zeros((len(rows), row_tokens), dtype=np.int64)
    is_target = np.zeros((len(rows), row_tokens), dtype=bool)
    for index, row in enumerate(rows):
        lengths = np.asarray(row["lengths"])
        prompts = (
            np.asarray(row["prompt_lengths"]) if loss_on == "completion" else np.ones_like(lengths)
        )
        used = int(lengths.sum())
        input_ids[index, :used] = row["input_ids"]
        starts = np.cumsum(lengths) - lengths
        position_ids[index, :used] = np.arange(used) - np.repeat(starts, lengths)
        is_target[index, :used] = position_ids[index, :used] >= np.repeat(prompts, lengths)
    example_tokens, token_places = lay_out(rows, row_tokens)
    before_targets = np.flatnonzero(is_target) - 1  # no row begins with a target
    return RowBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.from_numpy(is_target),
        torch.from_numpy(example_tokens),
        torch.from_numpy(token_places),
        torch.from_numpy(before_targets),
        num_tokens=sum(int(np.sum(row["lengths"])) for row in rows),
    )


def no_rows(row_tokens: int) -> RowBatch:
    """Returns a batch without rows: what a process has while others train on the last ones."""
    empty = torch.zeros((0, row_tokens), dtype=torch.int64)
    places = torch.zeros((0, 1), dtype=torch.int64)
    return RowBatch(empty, empty, empty.bool(), places, empty, places.flatten(), 0)


def lay_out(rows: Sequence[Row], row_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `example_tokens` and `token_places` of packed rows.

    One row of 6 tokens with examples of 3 and 2 tokens:

        example_tokens = [[0, 1, 2], [3, 4, 4]]
        token_places   = [[0, 1, 2, 3, 4, 0]]
    """
    lengths = np.concatenate([np.asarray(row["lengths"]) for row in rows])
    starts = np.concatenate(
        [
            index * row_tokens + np.cumsum(row["lengths"]) - np.asarray(row["lengths"])
            for index, row in enumerate(rows)
        ]
    )
    offsets = np.arange(lengths.max())
    example_tokens = starts[:, None] + np.minimum(offsets, lengths[:, None] - 1)
    token_places = np.zeros(len(rows) * row_tokens, dtype=np.int64)
    is_token = offsets < lengths[:, None]
    token_places[example_tokens[is_token]] = np.flatnonzero(is_token)
    return example_tokens, token_places.reshape(len(rows), row_tokens)
