"""One batch of texts, written to its end: a text that has ended leaves, the others go on.

In come a transformers model in eval mode and prompts, out go texts in their order, and on the way
what is written of them. Which token is next is decided in choosing.py; what texts are written
together is decided in writer.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.choosing import NOTHING
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.cache import begin_with, fixed_cache, move
from amazon_desc.generation.plain.generating import logits_alone
from amazon_desc.generation.rounding import choose_surely
from amazon_desc.generation.texts import Text

# Prompts that begin with the same tokens, as those of one template do, have these passed once: if
# there are so many.
LEAST_SHARED = 4


@dataclass
class Going:
    """The B texts that have not ended; W is the longest prompt, N what may be written."""

    numbers: Tensor
    """(B) int64: which of the batch's texts each one is"""
    rows: Tensor
    """(B) int64"""
    candidates: Tensor
    """(B) int64"""
    is_token: Tensor
    """(B, W + N) int64: 0 where there is padding before a prompt"""
    written: Tensor
    """(B, N) int64"""

    def __len__(self) -> int:
        return len(self.numbers)

    def move(self, sources: Tensor, targets: Tensor, num_kept: int) -> None:
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor[targets] = tensor[sources]
            setattr(self, field.name, tensor[:num_kept])


def write_batch(
    model: Any,
    prompts: Sequence[Prompt],
    settings: DecodingSettings,
    end_ids: Sequence[int],
    has_keys_upright: bool,
    is_exact: bool,
    is_stretched: bool,
) -> Generator[Tensor, None, list[list[Text]]]:
    """Returns `num_candidates` texts of each prompt, none of them by beams.

    Yields after each token what is written of those that go on: (B, T) int64.

    Args:
        is_exact: where rounding could change a token, take the one that its text has alone
        is_stretched: pass each prompt as a whole, since its positions depend on its length
    """
    num = settings.num_candidates
    width = max(len(prompt.ids) for prompt in prompts)
    ids, going = begin(prompts, settings, width, model.device)
    forward = Forward(model, width + settings.max_new_tokens, has_keys_upright)
    num_shared = 0 if is_stretched else num_shared_by(prompts)
    if num_shared >= LEAST_SHARED:
        forward.pass_once(ids[:1].new_tensor([prompts[0].ids[:num_shared]]), going.is_token)
        ids = ids[:, num_shared:]
    ends = torch.tensor(list(end_ids), device=model.device)
    texts: dict[int, Text] = {}
    for place in range(settings.max_new_tokens):
        logits = forward(ids, going.is_token[:, : width + place])
        written = going.written[:, :place]

        def alone(text: int, written: Tensor = written) -> Tensor:
            prompt = prompts[int(going.numbers[text]) // num]
            return logits_alone(model, prompt, written[text].tolist())

        which = going.rows, place, going.candidates
        new = choose_surely(logits, written, settings, *which, end_ids, alone if is_exact else None)
        going.written[:, place] = new
        has_ended = torch.isin(new, ends)
        if has_ended.any():
            texts |= taken(going, has_ended, place, has_end=True)
            new = leave(going, forward, has_ended, new)
            if not len(going):
                break
        yield going.written[:, : place + 1]
        ids = new[:, None]
    else:
        all_of_them = torch.ones_like(going.numbers, dtype=torch.bool)
        texts |= taken(going, all_of_them, settings.max_new_tokens, has_end=False)
    return [[texts[first + n] for n in range(num)] for first in range(0, len(texts), num)]


def begin(
    prompts: Sequence[Prompt], settings: DecodingSettings, width: int, device: torch.device
) -> tuple[Tensor, Going]:
    """Returns prompts padded on the left, (B, W), each as often as it has candidates.

    With 2 candidates and 1 new token:

        prompts = 5 6 and 7     ids      = [[5, 6], [5, 6], [0, 7], [0, 7]]
                                is_token = [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1]]
    """
    num, num_new = settings.num_candidates, settings.max_new_tokens
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    is_token = torch.ones(len(prompts), width + num_new, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        num_padding = width - len(prompt.ids)
        ids[row, num_padding:] = torch.tensor(prompt.ids)
        is_token[row, :num_padding] = 0
    num_texts = len(prompts) * num
    going = Going(
        numbers=torch.arange(num_texts),
        rows=torch.tensor([prompt.row for prompt in prompts]).repeat_interleave(num),
        candidates=torch.arange(num).repeat(len(prompts)),
        is_token=is_token.repeat_interleave(num, 0),
        written=torch.full((num_texts, num_new), NOTHING),
    )
    for field in fields(going):
        setattr(going, field.name, getattr(going, field.name).to(device))
    return ids.repeat_interleave(num, 0).to(device), going


def num_shared_by(prompts: Sequence[Prompt]) -> int:
    """Returns how many tokens prompts begin with together, without a prompt's last one.

    5 6 7, 5 6 8 9 and 5 6 -> 1; 0 of one prompt alone
    """
    if len(prompts) == 1:
        return 0
    places = zip(*(prompt.ids[:-1] for prompt in prompts), strict=False)
    return len(list(takewhile(lambda of_place: len(set(of_place)) == 1, places)))


def taken(going: Going, which: Tensor, length: int, has_end: bool) -> dict[int, Text]:
    """Returns texts of `length` tokens by their numbers."""
    numbers, ids = going.numbers[which].tolist(), going.written[which, :length].tolist()
    return {number: Text(of_one, has_end) for number, of_one in zip(numbers, ids, strict=True)}


def leave(going: Going, forward: Forward, has_ended: Tensor, new: Tensor) -> Tensor:
    """Has those that have ended leave, the last ones taking their places; returns new ids.

    has_ended = [0, 1, 0, 0, 1, 0]      of 6 texts, 4 are kept
    kept      = texts 0, 5, 2, 3
    """
    goes_on = ~has_ended
    num_kept = int(goes_on.sum())
    targets = has_ended[:num_kept].nonzero()[:, 0]
    sources = num_kept + goes_on[num_kept:].nonzero()[:, 0]
    going.move(sources, targets, num_kept)
    move(forward.cache, sources, targets, num_kept)
    new = new.clone()
    new[targets] = new[sources]
    return new[:num_kept]


class Forward:
    """A model and what it keeps of a batch: ids of new tokens -> logits of the next ones."""

    def __init__(self, model: Any, num_tokens: int, has_keys_upright: bool):
        self.model, self.has_keys_upright = model, has_keys_upright
        self.cache = fixed_cache(model, num_tokens, has_keys_upright)
        known = inspect.signature(model.forward).parameters
        self.has_positions = "position_ids" in known
        self.options: dict[str, Any] = {"use_cache": True, "return_dict": True}
        if "logits_to_keep" in known:
            self.options["logits_to_keep"] = 1

    def pass_once(self, ids: Tensor, is_token: Tensor) -> None:
        """Passes what all prompts begin with, and keeps it where each has it, after its padding.

        Those that have more padding lose the last of it, which is passed with the rest of the
        longest one:

            prompts = 5 6 7 8 9 and 5 6 7 1, ids = [[5, 6, 7]]    kept    passed then
                                                                  5 6 7   8 9
                                                                  - 5 6   7 1

        Args:
            ids: (1, P)
            is_token: (B, all tokens)
        """
        num = ids.shape[1]
        whole, self.cache = self.cache, fixed_cache(self.model, num, self.has_keys_upright)
        self(ids, torch.ones_like(ids))
        # padding is not seen, whatever is kept there
        begin_with(whole, self.cache, (is_token[:, :num].cumsum(-1) - 1).clamp(min=0))
        self.cache = whole

    def __call__(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Returns (B, V) float32.

        Args:
            ids: (B, T): prompts, or the last token of each text
            is_token: (B, all tokens until now)
        """
        options: dict[str, Any] = dict(self.options)
        if self.has_positions:  # from 0 in each text; padding's are not seen
            positions = is_token.cumsum(-1) - 1
            options["position_ids"] = positions.clamp(min=0)[:, -ids.shape[1] :]
        logits = self.model(
            input_ids=ids, attention_mask=is_token, past_key_values=self.cache, **options
        ).logits
        return logits[:, -1].float()
