"""The next token of every slot, chosen on the card in one kernel a slot.

In come logits as the head gives them, out go ids: those that choosing.py, the reference, says. A
token that is drawn is drawn again if it is not among the likeliest that top-k and top-p keep: that
is known from what is likelier than it, without sorting or looking for the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from amazon_desc.generation.choosing import GAMMA, MULTIPLIERS, WEIGHT_BITS
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.engine.ngrams import BANNED, ban
from amazon_desc.model.kernels.compiling import Kernel

BLOCK = 4096  # logits at a time

_BANNED = tl.constexpr(BANNED)
_GAMMA = tl.constexpr(GAMMA)
_FIRST, _SECOND = (tl.constexpr(multiplier) for multiplier in MULTIPLIERS)
_WEIGHT = tl.constexpr(2.0**WEIGHT_BITS)
_WHOLE = tl.constexpr(2.0**23)
_LAST_KEY = tl.constexpr(0x7F7FFFFF)  # of what has a probability at all


@triton.jit
def _shifted(number, NUM_BITS: tl.constexpr):
    return (number >> NUM_BITS) & ((1 << (64 - NUM_BITS)) - 1)


@triton.jit
def _splitmix64(state):
    number = state + _GAMMA
    number = (number ^ _shifted(number, 30)) * _FIRST
    number = (number ^ _shifted(number, 27)) * _SECOND
    return number ^ _shifted(number, 31)


@triton.jit
def _scores(
    logits, counts, ends, column, num_columns, place, scale, cap, penalty, presence, frequency,
    MIN_NEW: tl.constexpr, NUM_ENDS: tl.constexpr, HAS_CAP: tl.constexpr, HAS_COUNTS: tl.constexpr,
):  # fmt: skip
    """Loads some of a slot's logits and makes them know what is written."""
    inside = column < num_columns
    scores = tl.load(logits + column, mask=inside, other=0).to(tl.float32) * scale
    if HAS_CAP:
        scores = cap * (2 * tl.sigmoid(2 * scores / cap) - 1)
    if HAS_COUNTS:
        marks = tl.load(counts + column, mask=inside, other=0).to(tl.int32)
        number = marks & (_BANNED - 1)
        repeated = tl.where(scores > 0, scores / penalty, scores * penalty)
        scores = tl.where(number > 0, repeated, scores)
        scores = scores - frequency * number - tl.where(number > 0, presence, 0.0)
        scores = tl.where(marks >= _BANNED, float("-inf"), scores)
    if MIN_NEW > 0:
        for index in range(NUM_ENDS):
            is_early = (column == tl.load(ends + index)) & (place < MIN_NEW)
            scores = tl.where(is_early, float("-inf"), scores)
    return tl.where(inside, scores, float("-inf"))


@triton.jit
def _weights(scores, largest, temperature):
    """Returns probabilities as whole numbers, and keys: the likelier, the smaller."""
    scores = (scores - largest) / temperature
    exact = tl.exp(scores) * _WEIGHT  # a power of two: nothing is lost
    # to the next whole number, the even one of two: from 2^23 on float32 has no others
    weights = tl.where(exact < _WHOLE, (exact + _WHOLE) - _WHOLE, exact).to(tl.int64)
    keys = (0.0 - scores).to(tl.int32, bitcast=True)
    return weights, keys


@Kernel
@triton.jit
def _choose(
    logits, counts, ends, rows, candidates, places, has_ended, out,
    num_columns, stride, counts_stride,
    scale, cap, penalty, presence, frequency, temperature, min_p, seed,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, HAS_MIN_P: tl.constexpr,
    MIN_NEW: tl.constexpr, NUM_ENDS: tl.constexpr, HAS_CAP: tl.constexpr,
    HAS_COUNTS: tl.constexpr, IS_SAMPLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64)
    logits += slot * stride
    counts += slot * counts_stride
    place = tl.load(places + slot)
    largest = tl.full((), float("-inf"), tl.float32)
    chosen = tl.full((), 0, tl.int32)
    for first in range(0, num_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        scores = _scores(
            logits, counts, ends, column, num_columns, place, scale, cap, penalty, presence,
            frequency, MIN_NEW, NUM_ENDS, HAS_CAP, HAS_COUNTS,
        )  # fmt: skip
        top = tl.max(scores, 0)
        at = tl.min(tl.where(scores == top, column, num_columns), 0)
        chosen = tl.where(top > largest, at, chosen)
        largest = tl.maximum(largest, top)
    if IS_SAMPLED:
        last_key = tl.full((), _LAST_KEY, tl.int32)  # that top-p counts
        if TOP_K > 0 and TOP_P < 1:  # it counts what top-k keeps: two bits at a time, where that is
            last_key = tl.full((), 0, tl.int32)
            for step in range(16):
                shift = 30 - 2 * step
                one, two = (1 << shift) - 1, (2 << shift) - 1
                three = tl.where(step == 0, 0x7FFFFFFF, (3 << shift) - 1)  # no key has bit 31
                to_one = tl.full((), 0, tl.int32)
                to_two = tl.full((), 0, tl.int32)
                to_three = tl.full((), 0, tl.int32)
                for first in range(0, num_columns, BLOCK):
                    column = first + tl.arange(0, BLOCK)
                    scores = _scores(
                        logits, counts, ends, column, num_columns, place, scale, cap, penalty,
                        presence, frequency, MIN_NEW, NUM_ENDS, HAS_CAP, HAS_COUNTS,
                    )  # fmt: skip
                    _, keys = _weights(scores, largest, temperature)
                    is_token = scores > float("-inf")
                    to_one += tl.sum((is_token & (keys <= (last_key | one))).to(tl.int32), 0)
                    to_two += tl.sum((is_token & (keys <= (last_key | two))).to(tl.int32), 0)
                    to_three += tl.sum((is_token & (keys <= (last_key | three))).to(tl.int32), 0)
                digit = (to_one < TOP_K).to(tl.int32) + (to_two < TOP_K).to(tl.int32)
                digit += (to_three < TOP_K).to(tl.int32)
                last_key = last_key | (digit << shift)
        total = tl.full((), 0, tl.int64)
        kept = tl.full((), 0, tl.int64)
        for first in range(0, num_columns, BLOCK):
            column = first + tl.arange(0, BLOCK)
            scores = _scores(
                logits, counts, ends, column, num_columns, place, scale, cap, penalty, presence,
                frequency, MIN_NEW, NUM_ENDS, HAS_CAP, HAS_COUNTS,
            )  # fmt: skip
            weights, keys = _weights(scores, largest, temperature)
            total += tl.sum(weights, 0)
            if TOP_K > 0 and TOP_P < 1:
                kept += tl.sum(tl.where(keys <= last_key, weights, 0), 0)
        if not (TOP_K > 0 and TOP_P < 1):
            kept = total
        state = _splitmix64(seed + tl.full((), 0, tl.int64)) + tl.load(rows + slot)
        state = _splitmix64(state) + tl.load(candidates + slot)
        state = _splitmix64(state) + place
        limit = tl.full((), 0x7FFFFFFF, tl.int32)  # keys below it are left
        is_one = tl.full((), 0, tl.int32)
        while is_one == 0:
            number = _shifted(_splitmix64(state), 11)
            state += _GAMMA
            passed = (number.to(tl.float64) * 2.0**-53 * total.to(tl.float64)).to(tl.int64)
            chosen = tl.full((), 2147483647, tl.int32)
            key = tl.full((), 0, tl.int32)
            sum_before = tl.full((), 0, tl.int64)
            first = tl.full((), 0, tl.int32)
            while (first < num_columns) & (sum_before <= passed):
                column = first + tl.arange(0, BLOCK)
                scores = _scores(
                    logits, counts, ends, column, num_columns, place, scale, cap, penalty, presence,
                    frequency, MIN_NEW, NUM_ENDS, HAS_CAP, HAS_COUNTS,
                )  # fmt: skip
                weights, keys = _weights(scores, largest, temperature)
                weights = tl.where(keys < limit, weights, 0)
                sum_here = tl.sum(weights, 0)
                if sum_before + sum_here > passed:
                    is_passed = sum_before + tl.cumsum(weights, 0) > passed
                    chosen = tl.min(tl.where(is_passed, column, 2147483647), 0)
                    key = tl.sum(tl.where(column == chosen, keys, 0), 0)
                sum_before += sum_here
                first += BLOCK
            is_one = tl.full((), 1, tl.int32)
            if TOP_K > 0 or TOP_P < 1 or HAS_MIN_P:
                likelier = tl.full((), 0, tl.int64)
                num_likelier = tl.full((), 0, tl.int32)
                for first in range(0, num_columns, BLOCK):
                    column = first + tl.arange(0, BLOCK)
                    scores = _scores(
                        logits, counts, ends, column, num_columns, place, scale, cap, penalty,
                        presence, frequency, MIN_NEW, NUM_ENDS, HAS_CAP, HAS_COUNTS,
                    )  # fmt: skip
                    weights, keys = _weights(scores, largest, temperature)
                    likelier += tl.sum(tl.where(keys < key, weights, 0), 0)
                    if TOP_K > 0:
                        num_likelier += tl.sum((keys < key).to(tl.int32), 0)
                if TOP_K > 0:
                    is_one = is_one & (num_likelier < TOP_K).to(tl.int32)
                if TOP_P < 1:
                    is_kept = likelier.to(tl.float64) < TOP_P * kept.to(tl.float64)
                    is_one = is_one & is_kept.to(tl.int32)
                if HAS_MIN_P:
                    score = 0.0 - key.to(tl.float32, bitcast=True)
                    is_one = is_one & (tl.exp(score) >= min_p).to(tl.int32)
                limit, total = key, likelier
    tl.store(out + slot, chosen.to(tl.int64))
    if HAS_COUNTS:
        is_open = tl.load(has_ended + slot) == 0
        number = tl.load(counts + chosen)
        tl.store(counts + chosen, number + 1, mask=is_open)


class Chooser:
    """Chooses for all slots, and keeps what is written by token.

    Args:
        scale, cap: what logits are multiplied by, and their soft cap after that
    """

    def __init__(
        self,
        settings: DecodingSettings,
        end_ids: Sequence[int],
        num_slots: int,
        num_pieces: int,
        device: torch.device,
        scale: float = 1.0,
        cap: float | None = None,
    ) -> None:
        self.settings, self.scale, self.cap = settings, scale, cap
        self.ends = torch.tensor(list(end_ids), device=device)
        penalties = (settings.presence_penalty, settings.frequency_penalty)
        self.has_counts = bool(
            settings.repetition_penalty != 1 or any(penalties) or settings.no_repeat_ngram_size
        )
        shape = (num_slots, num_pieces if self.has_counts else 1)
        self.counts = torch.zeros(shape, dtype=torch.int16, device=device)

    def begin(self, slots: Tensor) -> None:
        """Forgets what slots had written."""
        if self.has_counts:
            self.counts[slots] = 0

    def __call__(
        self,
        logits: Tensor,
        written: Tensor,
        rows: Tensor,
        candidates: Tensor,
        places: Tensor,
        has_ended: Tensor,
    ) -> Tensor:
        """Returns (S) int64 of logits (S, V) as the head gives them.

        Args:
            written: (S, T) int64
            rows: (S) int64: the number of each text's title in its file
            candidates: (S) int64: which of a title's texts each is
            places: (S) int64: how many tokens each text has
            has_ended: (S) bool: nothing is written for these
        """
        settings, num_slots = self.settings, len(logits)
        out = torch.empty(num_slots, dtype=torch.int64, device=logits.device)
        self.ban(written, places, is_on=True)
        _choose[(num_slots,)](
            logits, self.counts, self.ends, rows, candidates, places, has_ended, out,
            logits.shape[1], logits.stride(0), self.counts.stride(0), self.scale, self.cap or 1.0,
            settings.repetition_penalty, settings.presence_penalty, settings.frequency_penalty,
            settings.temperature or 1.0, settings.min_p, settings.seed,
            TOP_K=0 if (settings.top_k or 0) >= logits.shape[1] else settings.top_k or 0,
            TOP_P=settings.top_p,
            HAS_MIN_P=settings.min_p > 0, MIN_NEW=settings.min_new_tokens,
            NUM_ENDS=len(self.ends), HAS_CAP=self.cap is not None, HAS_COUNTS=self.has_counts,
            IS_SAMPLED=settings.is_sampled, BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
        self.ban(written, places, is_on=False)
        return out

    def ban(self, written: Tensor, places: Tensor, is_on: bool) -> None:
        size = self.settings.no_repeat_ngram_size
        if 0 < size <= written.shape[1]:
            ban(self.counts, written, places, size, is_on)
