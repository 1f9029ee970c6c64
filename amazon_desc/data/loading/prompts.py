"""What texts are written for: titles, encoded as whoever writes reads them.

In come titles with the true descriptions, where there are some, out come Prompts one by one; a few
titles are encoded at a time. Who writes, and how many at a time, is not known here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from amazon_desc.data.encoding.encoder import Encoder

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


def prompts_of(
    pairs: Pairs, encoder: Encoder, clean: Callable[[str], str], first: int
) -> Iterator[Prompt]:
    """Yields the prompts of titles and descriptions, of which the first has the row `first`."""
    for start in range(0, len(pairs), ENCODED_AT_A_TIME):
        some = pairs[start : start + ENCODED_AT_A_TIME]
        prompts = encoder.prompts([clean(title) for title, _ in some])
        for row, (ids, pair) in enumerate(zip(prompts, some, strict=True), first + start):
            yield Prompt(row, ids, *pair)
