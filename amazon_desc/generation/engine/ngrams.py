"""What would end a run of tokens that a text has already: marked on the card, and unmarked.

In come what is written and how often, out go the same numbers with a mark beside each token that
may not follow. Who reads them is drawing.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.generation.choosing import NOTHING
from amazon_desc.model.kernels.compiling import Kernel

BANNED = 1 << 14
"""beside how often a text has a token: it may not follow; no text is as long"""

_BANNED = tl.constexpr(BANNED)
_NOTHING = tl.constexpr(NOTHING)


@Kernel
@triton.jit
def _ban(
    written, places, counts, length, counts_stride,
    SIZE: tl.constexpr, IS_ON: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Marks, or unmarks, what would end a run of SIZE tokens that a text has."""
    slot = tl.program_id(0).to(tl.int64)
    written += slot * length
    place = tl.load(places + slot)
    start = tl.arange(0, BLOCK)
    ends = start + SIZE - 1
    id_ = tl.load(written + ends, mask=ends < length, other=_NOTHING)
    is_run = (id_ != _NOTHING) & (place >= SIZE - 1)
    for index in range(SIZE - 1):
        mine = tl.load(written + place - (SIZE - 1) + index, mask=place >= SIZE - 1, other=0)
        theirs = tl.load(written + start + index, mask=ends < length, other=_NOTHING)
        is_run = is_run & (mine == theirs)
    mark = counts + slot * counts_stride + id_
    number = tl.load(mark, mask=is_run, other=0).to(tl.int32)
    number = number | _BANNED if IS_ON else number & (_BANNED - 1)
    tl.store(mark, number.to(counts.dtype.element_ty), mask=is_run)


def ban(counts: Tensor, written: Tensor, places: Tensor, size: int, is_on: bool) -> None:
    """Marks, or unmarks, in `counts` what would end a run of `size` tokens that a text has.

    Args:
        counts: (S, V) int16: how often each text has each token
        written: (S, T) int64, T at least `size`
        places: (S) int64: how many tokens each text has
    """
    _ban[(len(written),)](
        written, places, counts, written.shape[1], counts.stride(0),
        SIZE=size, IS_ON=is_on, BLOCK=triton.next_power_of_2(written.shape[1]),
    )  # fmt: skip
