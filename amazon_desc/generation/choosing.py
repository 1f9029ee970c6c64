"""How a next token is chosen: the reference that every engine is tested against.

In come logits and what is written, out come ids; pure functions on tensors, without the state of a
generator. No model is known here. No shape depends on a value, and nothing waits for the device but
a draw from the likeliest tokens only, which is repeated until it is one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from amazon_desc.generation.decoding import DecodingSettings

NOTHING = -1
"""where nothing is written yet"""

# SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014;
# constants as in https://prng.di.unimi.it/splitmix64.c), as the int64 that torch has.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)

# Probabilities are counted in 2^-35 of the largest: whole numbers have the same sum in any order,
# and float64 holds that of 2^18 tokens exactly. What is rounded to 0 would be drawn once in 10^11.
WEIGHT_BITS = 35


def choose(
    logits: Tensor,
    written: Tensor,
    settings: DecodingSettings,
    rows: Tensor,
    place: int | Tensor,
    candidates: int | Tensor = 0,
    end_ids: Sequence[int] = (),
) -> Tensor:
    """Returns the next token of each text: (B) int64. Of equal logits the lower id is taken.

    In the order of transformers, and of vLLM where that has them: repetition penalty, frequency and
    presence penalty, no n-gram twice, least length; then, where tokens are drawn, temperature,
    top-k, top-p, min-p, and a draw from what is left.

    With 4 tokens, of which text 0 has written 2 and 0, text 1 nothing:

        logits  = [[1.0, 0.5, 2.0, 0.0], [1.0, 0.5, 2.0, 0.0]]
        written = [[2, 0, -1], [-1, -1, -1]]

        settings                              penalised logits of text 0   ids
        greedy                                [ 1.0, 0.5, 2.0, 0.0]        [2, 2]
        repetition_penalty 5                  [ 0.2, 0.5, 0.4, 0.0]        [1, 2]
        presence_penalty 1                    [ 0.0, 0.5, 1.0, 0.0]        [2, 2]
        presence and frequency_penalty 1      [-1.0, 0.5, 0.0, 0.0]        [1, 2]
        no_repeat_ngram_size 1                [-inf, 0.5, -inf, 0.0]       [1, 2]

    Args:
        logits: (B, V) float32
        written: (B, T) int64, from the left, NOTHING where nothing is written yet; no prompt
        rows: (B) int64: the number of a text's title in its file
        place: how many tokens are written, one number or (B) int64
        candidates: which of a title's texts it is, one number or (B) int64
        end_ids: tokens that end a text
    """
    scores = penalised(logits, written, settings, place, end_ids)
    if not settings.is_sampled:
        return scores.max(-1).indices  # the same as argmax, in half its time on a CPU
    scores = tempered(scores, settings.temperature)
    state = state_of(settings.seed, rows, candidates, place)
    return draw(scores, may_be_drawn(scores, settings), state)


# What is written already


def penalised(
    logits: Tensor,
    written: Tensor,
    settings: DecodingSettings,
    place: int | Tensor,
    end_ids: Sequence[int] = (),
) -> Tensor:
    """Returns logits (B, V) that know what is written; -inf for what may not follow."""
    scores = logits.float()
    penalty, presence = settings.repetition_penalty, settings.presence_penalty
    if penalty != 1 or presence or settings.frequency_penalty:
        counts = counts_of(written, logits.shape[-1])
        is_written = counts > 0
        if penalty != 1:
            repeated = torch.where(scores > 0, scores / penalty, scores * penalty)
            scores = torch.where(is_written, repeated, scores)
        if settings.frequency_penalty:
            scores = scores - settings.frequency_penalty * counts
        if presence:
            scores = scores - presence * is_written
    if settings.no_repeat_ngram_size:
        repeats = repeats_ngram(written, place, settings.no_repeat_ngram_size, logits.shape[-1])
        scores = scores.masked_fill(repeats, -torch.inf)
    if settings.min_new_tokens and end_ids:
        is_short = column(place, scores) < settings.min_new_tokens
        ids = column_numbers(scores)
        for end in end_ids:
            scores = scores.masked_fill(is_short & (ids == end), -torch.inf)
    return scores


def counts_of(written: Tensor, num_ids: int) -> Tensor:
    """Returns how often a text has each token: (B, V) float32.

    [[2, 0, 2, -1]], 4 ids -> [[1, 0, 2, 0]]
    """
    ids = written.where(written != NOTHING, num_ids)  # a column of its own, which is left away
    counts = torch.zeros(len(written), num_ids + 1, device=written.device)
    return counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts.dtype))[:, :num_ids]


def repeats_ngram(written: Tensor, place: int | Tensor, size: int, num_ids: int) -> Tensor:
    """Returns whether each token would end a run of `size` tokens that a text has: (B, V) bool.

    Size 3: [[5, 6, 7, 5, 6, -1]] -> True for 7 alone, since the text has 5 6 7
    """
    num_texts, length = written.shape
    repeats = torch.zeros(num_texts, num_ids + 1, dtype=torch.bool, device=written.device)
    if length < size:
        return repeats[:, :num_ids]
    runs = written.unfold(1, size, 1)  # (B, T - size + 1, size)
    before = column(place, written) + torch.arange(1 - size, 0, device=written.device)
    last = written.gather(1, before.clamp(0, length - 1).expand(num_texts, -1))
    is_same = (runs[..., :-1] == last[:, None]).all(-1) & (before >= 0).all(-1, keepdim=True)
    ids = runs[..., -1]
    ids = ids.where(is_same & (ids != NOTHING), num_ids)
    return repeats.scatter_(1, ids, True)[:, :num_ids]


# What may be drawn


def tempered(scores: Tensor, temperature: float) -> Tensor:
    """Returns scores over the temperature, the likeliest 0.

    temperature 0.5                   [1.0, 0.5, 2.0, 0.0] -> [-2.0, -3.0, 0.0, -4.0]
    """
    # the largest is taken off first, so that a tiny temperature cannot make infinities
    return (scores - scores.amax(-1, keepdim=True)) / temperature


def may_be_drawn(scores: Tensor, settings: DecodingSettings) -> Tensor:
    """Returns which tokens are drawn from, (B, V) bool, of tempered scores.

    Where a limit lies between equal scores, all of them are drawn from.

        top_k 3                       [-2.0, -3.0, 0.0, -4.0] -> [True, True, True, False]
        top_k 3 and top_p 0.9         [-2.0, -3.0, 0.0, -4.0] -> [True, False, True, False]
    """
    is_drawn = scores > -torch.inf
    if settings.top_k and settings.top_k < scores.shape[-1]:
        is_drawn = is_drawn & (scores >= scores.topk(settings.top_k).values[:, -1:])
    if settings.top_p < 1:
        ordered = scores.where(is_drawn, -torch.inf).sort(-1, descending=True).values
        weights = weights_of(ordered)
        before = weights.cumsum(-1) - weights
        is_kept = before < settings.top_p * weights.sum(-1, keepdim=True).double()
        is_drawn = is_drawn & (scores >= ordered.gather(1, is_kept.sum(-1, keepdim=True) - 1))
    if settings.min_p:
        is_drawn = is_drawn & (scores.exp() >= settings.min_p)
    return is_drawn


def weights_of(scores: Tensor) -> Tensor:
    """Returns probabilities (B, V) as whole numbers, of scores of which the largest is 0."""
    return (scores.exp().double() * 2**WEIGHT_BITS).round().long()


def draw(scores: Tensor, is_drawn: Tensor, state: Tensor) -> Tensor:
    """Returns a token of each text, as likely as its probability among those that are drawn from.

    A number is looked up in the sums of probabilities, in the order of ids. Where that gives a
    token that is not drawn from, the next number is looked up among the tokens that are likelier
    than this one. So whoever draws needs not know where the limit is, only on which side of it a
    token is (as in FlashInfer, https://flashinfer.ai/2025/03/10/sampling.html).

    Args:
        scores: (B, V) float32, tempered
        is_drawn: (B, V) bool: no other token of a text is likelier than one of these
        state: (B) int64: what the numbers depend on

    Weights 1, 0, 3 (of 4): 0.2 -> 0; 0.25 and 0.9 -> 2
    """
    weights = weights_of(scores)
    for time in count():
        sums = weights.cumsum(-1)
        passed = (uniform(state, time)[:, None] * sums[:, -1:].double()).long()
        ids = (sums > passed).byte().argmax(-1, keepdim=True)
        is_one = is_drawn.gather(1, ids)
        if is_one.all():
            return ids[:, 0]
        is_left = torch.where(is_one, ids == column_numbers(scores), scores > scores.gather(1, ids))
        weights = weights.where(is_left, 0)
    raise AssertionError("the likeliest token is drawn from")


def state_of(seed: int, rows: Tensor, candidates: int | Tensor, place: int | Tensor) -> Tensor:
    """Returns where the numbers of each row begin: (B) int64.

    Each of the arguments in turn is added to what the ones before gave, and the first number of
    SplitMix64 from there is taken.
    """
    state = torch.full_like(rows, seed)
    for further in (rows, candidates, place):
        state = splitmix64(state) + further
    return state


def uniform(state: Tensor, time: int = 0) -> Tensor:
    """Returns a number from 0 to below 1 for each state, in steps of 2^-53: (B) float64.

    It is a function of its arguments alone, on any device: those of `time` 0, 1, 2 are the first
    ones of SplitMix64 from there.
    """
    return shifted(splitmix64(state + wrapped(time * GAMMA)), 11).double() * 2.0**-53


def wrapped(number: int) -> int:
    """Returns a whole number as int64 has it: 2^63 -> -2^63"""
    return (number + 2**63) % 2**64 - 2**63


def splitmix64(state: Tensor) -> Tensor:
    """Returns the first number of SplitMix64 from a state. 1234567 -> 6457827717110365317"""
    number = state + GAMMA
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        number = (number ^ shifted(number, shift)) * multiplier
    return number ^ shifted(number, 31)


def shifted(number: Tensor, num_bits: int) -> Tensor:
    """Returns int64 shifted right as if it had no sign."""
    return (number >> num_bits) & (2 ** (64 - num_bits) - 1)


def column_numbers(scores: Tensor) -> Tensor:
    return torch.arange(scores.shape[-1], device=scores.device)


def column(place: int | Tensor, like: Tensor) -> Tensor:
    """Returns places as (B, 1), or (1, 1) of one number for all."""
    places = torch.full((1,), place, device=like.device) if isinstance(place, int) else place
    return places[:, None]
