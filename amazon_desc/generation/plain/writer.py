"""Writes the texts of many prompts with transformers' own model: on a CPU, in every family.

In come prompts one after the other, out go their texts in the same order. Prompts are read some
batches ahead and sorted, so that a batch has few tokens of padding; where others beside it would
change a text, a batch has none. Beams, and families that keep something else than keys and values,
are left to transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amazon_desc.data.loading.order import batched
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.attention import NAME, for_writing
from amazon_desc.generation.plain.batch import write_batch
from amazon_desc.generation.plain.cache import has_plain_cache
from amazon_desc.generation.plain.generating import PROMPT_WIDTH_STEP, generate
from amazon_desc.generation.plain.stretching import is_stretched, unstretched
from amazon_desc.generation.texts import Text, text_of
from amazon_desc.model.probe import at_rest, attending
from amazon_desc.model.writing_plan import BATCHES_SORTED

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def write(
    model: PreTrainedModel | PeftModel,
    prompts: Iterable[Prompt],
    settings: DecodingSettings,
    end_ids: Sequence[int],
    batch_size: int,
) -> Iterator[list[Text]]:
    """Yields the `num_candidates` texts of each prompt, in the prompts' order.

    In float32 a text depends on its prompt, the settings, and its row alone. Between two texts the
    model is as it was: in its mode, with its own attention.

    Args:
        model: what `merged` returns; or a PEFT model as it is, which takes several times as long
        batch_size: prompts that are written for at a time
    """
    for window in batched(prompts, BATCHES_SORTED * batch_size):
        are_alike = have_to_be_alike(model, window, settings)
        texts: dict[int, list[Text]] = {}
        for numbers in batches([len(prompt.ids) for prompt in window], batch_size, are_alike):
            batch = [window[number] for number in numbers]
            of_batch = last_of(written(model, batch, settings, end_ids, are_alike))
            texts |= zip(numbers, of_batch, strict=True)
        yield from (texts[number] for number in range(len(window)))


def stream(
    model: PreTrainedModel | PeftModel,
    prompt: Prompt,
    settings: DecodingSettings,
    end_ids: Sequence[int],
) -> Iterator[tuple[Text, bool]]:
    """Yields the first candidate's text after each token, and whether it is whole.

    5 6 7 and an end -> (5, False), (5 6, False), (5 6 7, False), (5 6 7, True)

    The whole one is what `write` has for the prompt alone. Beams, and what `generate` writes, come
    whole. While it is read the model is not as it was: close it before something else is done.
    """
    parts = written(model, [prompt], settings, end_ids, have_to_be_alike(model, [prompt], settings))
    while True:
        try:
            so_far = next(parts)
        except StopIteration as end:
            yield end.value[0][0], True
            return
        yield Text(so_far[0].tolist(), False), False


def have_to_be_alike(model: Any, window: Sequence[Prompt], settings: DecodingSettings) -> bool:
    """Returns whether only prompts of one length may share a batch: positions are stretched."""
    longest = max(len(prompt.ids) for prompt in window)
    return is_stretched(base_of(model), longest + PROMPT_WIDTH_STEP + settings.max_new_tokens)


def last_of(parts: Generator[Any, None, list[list[Text]]]) -> list[list[Text]]:
    """Runs a generator to its end, and returns what it returns."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


def batches(lengths: Sequence[int], batch_size: int, are_alike: bool) -> Iterator[list[int]]:
    """Yields which prompts are written for together, by their numbers.

    The longest come first: what does not fit into the memory fails at once.

    With prompts of 3, 5, 3 and 3 tokens, 2 at a time:

        are_alike = False: [1, 0], [2, 3]
        are_alike = True:  [1], [0, 2], [3]

    Args:
        are_alike: have only prompts of the same length in a batch
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    runs = groupby(order, lambda number: lengths[number] if are_alike else 0)
    for _, run in runs:
        numbers = list(run)
        for first in range(0, len(numbers), batch_size):
            yield numbers[first : first + batch_size]


@torch.inference_mode()
def written(
    model: Any,
    prompts: Sequence[Prompt],
    settings: DecodingSettings,
    end_ids: Sequence[int],
    are_alike: bool,
) -> Generator[Tensor, None, list[list[Text]]]:
    """Returns the texts of one batch; if `are_alike`, no padding is before its prompts.

    Yields after each token what is written of those that go on, where that can be seen.
    """
    base = base_of(model)
    # stretched positions are others where a text is computed anew
    is_exact = base.dtype == torch.float32 and not are_alike
    with at_rest(model, base.device), unstretched(base):
        if settings.num_beams > 1 or not has_plain_cache(base):
            step = 1 if are_alike else PROMPT_WIDTH_STEP
            return through_generate(model, prompts, settings, end_ids, step, is_exact)
        name = for_writing(base, base.device)
        has_keys_upright = name == NAME
        with attending(base, name):
            return (
                yield from write_batch(
                    base, prompts, settings, end_ids, has_keys_upright, is_exact, are_alike
                )
            )


def base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def through_generate(
    model: Any,
    prompts: Sequence[Prompt],
    settings: DecodingSettings,
    end_ids: Sequence[int],
    width_step: int,
    is_exact: bool,
) -> list[list[Text]]:
    found = generate(model, prompts, end_ids, settings, width_step, is_exact)
    texts = [text_of(ids, end_ids) for ids in found.tolist()]
    num = settings.num_candidates
    return [texts[first : first + num] for first in range(0, len(texts), num)]
