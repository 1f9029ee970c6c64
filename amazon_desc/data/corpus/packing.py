"""Places whole examples into rows of a fixed number of tokens, none cut, none lost.

In come examples as token ids, out go rows that hold them one after the other. Best fit
decreasing: the longest examples first, each into the fullest row that still has room for it.
Deterministic: equal lengths go in by their number. Padding and tensors come later.
"""

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np


def pack(lengths: Sequence[int] | np.ndarray, row_tokens: int) -> list[list[int]]:
    """Returns rows of example numbers whose lengths add up to at most `row_tokens`.

        lengths    = [3, 6, 4, 2], row_tokens = 8
        rows       = [[1, 3], [2, 0]]
        row fill   = [6 + 2, 4 + 3]

    Raises:
        ValueError: an example is longer than a row.

    Source: best-fit decreasing bin packing; Ding et al. 2024, "Fewer Truncations Improve Language
    Modeling" (arXiv 2404.10830).
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and sizes.max() > row_tokens:
        raise ValueError(f"an example of {sizes.max()} tokens does not fit a row of {row_tokens}")
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]  # room -> rows that have it
    rooms = 0  # bit r is set when a row has room for exactly r more tokens
    longest_first = np.argsort(-sizes, kind="stable")
    for example, length in zip(longest_first.tolist(), sizes[longest_first].tolist(), strict=True):
        large_enough = rooms >> length
        if large_enough:
            room = length + (large_enough & -large_enough).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
            rows[row].append(example)
        else:
            room, row = row_tokens, len(rows)
            rows.append([example])
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return rows


class Row(TypedDict):
    """A packed row: its examples' ids one after the other, and where each begins and ends."""

    input_ids: Sequence[int] | np.ndarray
    lengths: Sequence[int] | np.ndarray
    prompt_lengths: Sequence[int] | np.ndarray


def packed_rows(
    input_ids: Sequence[Sequence[int]], prompt_lengths: Sequence[int], row_tokens: int
) -> Iterator[Row]:
    """Yields the rows of the examples with these ids and prompt lengths."""
    packing = pack([len(ids) for ids in input_ids], row_tokens)
    yield from rows_of(packing, input_ids, prompt_lengths)


def rows_of(
    packing: Sequence[Sequence[int]],
    input_ids: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
) -> Iterator[Row]:
    """Yields the rows that `pack` has made of these examples."""
    for row in packing:
        yield {
            "input_ids": [token for example in row for token in input_ids[example]],
            "lengths": [len(input_ids[example]) for example in row],
            "prompt_lengths": [prompt_lengths[example] for example in row],
        }
