"""What texts are written for: titles, encoded as whoever writes reads them.

In come titles with the true descriptions, where there are some, out come Prompts one by one; a few
titles are encoded at a time. Who writes, and how many at a time, is not known here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.loading.order import batched

# Titles that are encoded at a time; more of them go no faster.
ENCODED_AT_A_TIME = 64

Pairs = Sequence[tuple[str, str]]
"""titles and descriptions"""


class Prompt(NamedTuple):
    """What texts are written for."""

    row: int
    """the number of a title in its file, or among those that are scored, from 0"""
    ids: list[int]
    title: str = ""
    reference: str = ""
    """the true description; an empty text where there is none"""
    is_shortened: bool = False
    """whether the title was too long, and lost words"""


def prompts_of(
    pairs: Pairs, encoder: Encoder, clean: Callable[[str], str], first: int
) -> Iterator[Prompt]:
    """Yields the prompts of titles and descriptions, of which the first has the row `first`."""
    rows = ((row, title, reference) for row, (title, reference) in enumerate(pairs, first))
    return prompts_of_rows(rows, encoder, clean)


def prompts_of_rows(
    rows: Iterable[tuple[int, str, str]], encoder: Encoder, clean: Callable[[str], str]
) -> Iterator[Prompt]:
    """Yields the prompts of rows with their titles and descriptions, which are read as needed."""
    for some in batched(rows, ENCODED_AT_A_TIME):
        prompts = encoder.marked_prompts([clean(title) for _, title, _ in some])
        for (row, title, reference), (ids, is_shortened) in zip(some, prompts, strict=True):
            yield Prompt(row, ids, title, reference, is_shortened)
