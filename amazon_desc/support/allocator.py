"""Memory that is free goes back to the system, while matrices come and go between those that stay.

In comes nothing, out goes a setting of the C library, where that is glibc's. Left to itself, glibc
soon keeps what is freed of blocks up to 32 MB; with small blocks in between that stay, it is lost.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's numbers for them
SMALL = 128 << 10  # glibc's own threshold, before it raises it
LARGEST = 32 << 20  # and what it raises it to at most; it keeps twice as much for the next ones


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Has the memory of every larger block go back to the system when it is freed.

    Afterwards glibc keeps as much as it would have come to keep.
    """
    set_threshold = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_threshold is None:
        yield
        return
    set_threshold(MMAP_THRESHOLD, SMALL)
    try:
        yield
    finally:
        set_threshold(MMAP_THRESHOLD, LARGEST)
        set_threshold(TRIM_THRESHOLD, 2 * LARGEST)
