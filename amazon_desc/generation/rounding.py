"""Next tokens that rounding could change, and what is taken instead.

In come the logits that tokens were chosen by, out goes which of these choices hold for all logits
as near as rounding leaves them. In float32 the shape of a batch changes the last bits of logits.
One text in some thousand has a token for which these decide: that one is chosen by the logits that
its text has alone, and so it does not depend on the batch. How tokens are chosen is in choosing.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor

from amazon_desc.generation.choosing import (
    choose,
    draw,
    may_be_drawn,
    penalised,
    state_of,
    tempered,
    uniform,
    weights_of,
)
from amazon_desc.generation.decoding import DecodingSettings

# How far rounding moves a logit at most, as a share of the largest: twice what it was seen to do
# in random Llamas of 8 and 16 layers.
ROUNDING = 2.5e-6


def choose_surely(
    logits: Tensor,
    written: Tensor,
    settings: DecodingSettings,
    rows: Tensor,
    place: int,
    candidates: Tensor,
    end_ids: Sequence[int],
    alone: Callable[[int], Tensor] | None,
) -> Tensor:
    """Returns the next token of each text, (B), as `choose` does.

    Args:
        alone: of a text's number here, the logits that it has alone, (V); None: they are not asked
            for
    """
    if alone is None:
        return choose(logits, written, settings, rows, place, candidates, end_ids)
    new, is_sure = chosen(logits, written, settings, rows, place, candidates, end_ids)
    for number in (~is_sure).nonzero()[:, 0].tolist():
        one = slice(number, number + 1)
        new[one] = choose(
            alone(number)[None].float(),
            *(written[one], settings, rows[one], place, candidates[one], end_ids),
        )
    return new


def chosen(
    logits: Tensor,
    written: Tensor,
    settings: DecodingSettings,
    rows: Tensor,
    place: int,
    candidates: Tensor,
    end_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Returns the next token of each text, (B), and whether no logits within rounding have another.

    Greedy: [20.0, 19.9999, 3.0] -> 0, False; [20.0, 19.9, 3.0] -> 0, True
    """
    scores = penalised(logits, written, settings, place, end_ids)
    penalty = settings.repetition_penalty
    within = ROUNDING * logits.abs().amax(-1) * max(penalty, 1 / penalty)
    if not settings.is_sampled:
        (first, second), (new, _) = (part.unbind(-1) for part in scores.topk(2))
        return new.clone(), first - second > 2 * within
    scores = tempered(scores, settings.temperature)
    state = state_of(settings.seed, rows, candidates, place)
    is_drawn = may_be_drawn(scores, settings)
    new = draw(scores, is_drawn, state)
    return new, is_draw_settled(scores, is_drawn, settings, state, within / settings.temperature)


def is_draw_settled(
    scores: Tensor, is_drawn: Tensor, settings: DecodingSettings, state: Tensor, within: Tensor
) -> Tensor:
    """Returns whether `draw` takes the same token of all scores within rounding: (B) bool.

    Each number that is looked up must be far enough from the ends of its token's share, and each
    token that is looked up on the same side of each limit.

    Args:
        within: (B): how far a score may move, besides all of a text together
    """
    is_sure = are_limits_settled(scores, settings, within)
    is_open = torch.ones_like(is_sure)
    weights = whole = weights_of(scores)
    passed_over = torch.zeros_like(within)  # weight of what may be likelier than what was passed by
    for time in count():
        sums = weights.cumsum(-1)
        share = uniform(state, time)
        passed = share * sums[:, -1].double()
        # such a share of a sum moves so far, if those before move up by `within` and others down
        unsure = 2 * within * share * (1 - share) * sums[:, -1] + passed_over
        ids = (sums > passed.long()[:, None]).byte().argmax(-1, keepdim=True)
        end = sums.gather(1, ids)[:, 0]
        begin = end - weights.gather(1, ids)[:, 0]
        is_inside = (passed - begin > unsure) & (end - passed > unsure)
        of_one = scores.gather(1, ids)
        is_far, near = is_side_settled(scores, whole, of_one, settings, within)
        is_sure &= ~is_open | (is_inside & is_far)
        is_open &= ~is_drawn.gather(1, ids)[:, 0]
        if not (is_open & is_sure).any():
            return is_sure
        weights = weights.where((scores > of_one) | ~is_open[:, None], 0)
        passed_over = passed_over + near
    raise AssertionError("the likeliest token is drawn from")


def are_limits_settled(scores: Tensor, settings: DecodingSettings, within: Tensor) -> Tensor:
    """Returns whether the same tokens are among the `top_k` likeliest: (B) bool."""
    num, num_ids = settings.top_k or 0, scores.shape[-1]
    if not 0 < num < num_ids:
        return torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    last, next_one = scores.topk(num + 1).values[:, -2:].unbind(-1)
    return last - next_one > 2 * within


def is_side_settled(
    scores: Tensor, weights: Tensor, of_one: Tensor, settings: DecodingSettings, within: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns whether a token of each text is surely drawn from, or surely not, (B) bool.

    And the weight of other tokens that may be as likely, (B).
    """
    is_near = (scores - of_one).abs() <= 2 * within[:, None]
    near = (weights * is_near).sum(-1) - weights_of(of_one)[:, 0]
    is_far = torch.ones_like(within, dtype=torch.bool)
    if settings.top_p < 1:
        if settings.top_k and settings.top_k < scores.shape[-1]:
            weights = weights.where(scores >= scores.topk(settings.top_k).values[:, -1:], 0)
        above = (weights * (scores > of_one)).sum(-1)
        limit, whole = settings.top_p * weights.sum(-1).double(), weights.sum(-1)
        is_far &= (above - limit).abs() > whole * within / 2 + near
    if settings.min_p:
        is_far &= (of_one[:, 0] - math.log(settings.min_p)).abs() > 2 * within
    return is_far, near
