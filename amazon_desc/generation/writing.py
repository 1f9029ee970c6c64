"""Prompts -> descriptions, by the engine that is planned.

In come a model and a stream of prompts, out come predictions in the same order. Which engine writes
is decided in model/writing_plan.py; files and scores are other rooms' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.texts import Description, Text, read
from amazon_desc.model.writing_plan import PREFILLED, WritingPlan

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class Writing(NamedTuple):
    """How texts are written."""

    settings: DecodingSettings
    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]
    """tokens that end a text"""
    longest: int
    """tokens of the longest prompt that there can be"""
    dtype: torch.dtype
    """of the products"""


class Prediction(NamedTuple):
    """A title as it was read, and what was written for it."""

    title: str
    description: Description
    others: Sequence[Description] = ()
    """further candidates"""
    reference: str = ""
    """the true description, where there is one"""
    is_shortened: bool = False
    """whether the title was too long, and its end was not read"""


def write(
    model: PeftModel,
    prompts: Iterable[Prompt],
    writing: Writing,
    plan: WritingPlan,
    *,
    has_lora: bool = True,
) -> Iterator[Prediction]:
    """Yields a prediction for each prompt. What it takes of the memory is free once it is closed.

    Args:
        has_lora: False: the base alone writes
    """
    waiting: deque[Prompt] = deque()

    def reading() -> Iterator[Prompt]:
        for prompt in prompts:
            waiting.append(prompt)
            yield prompt

    engine = fused if plan.engine == "fused" else plain
    for texts in engine(model, reading(), writing, plan, has_lora):
        first, *others = (read(text, writing.tokenizer, writing.settings.trim) for text in texts)
        prompt = waiting.popleft()
        yield Prediction(prompt.title, first, others, prompt.reference, prompt.is_shortened)


def fused(
    model: PeftModel, prompts: Iterable[Prompt], writing: Writing, plan: WritingPlan, has_lora: bool
) -> Iterator[list[Text]]:
    from amazon_desc.generation.engine.merged import merge
    from amazon_desc.generation.engine.queue import write as write_in_slots
    from amazon_desc.generation.engine.slots import Slots

    settings, longest = writing.settings, writing.longest
    num_positions = longest + settings.max_new_tokens
    how = {"has_lora": has_lora, "is_dense": plan.is_merged}
    decoder = merge(model, writing.dtype, num_positions, **how)
    slots = Slots(decoder, settings, plan.at_a_time, longest, writing.end_ids, PREFILLED)
    return write_in_slots(slots, prompts, settings.num_candidates)


def plain(
    model: PeftModel, prompts: Iterable[Prompt], writing: Writing, plan: WritingPlan, has_lora: bool
) -> Iterator[list[Text]]:
    from amazon_desc.generation.plain.merged import merged
    from amazon_desc.generation.plain.writer import write as write_in_batches

    network = merged(model, has_lora=has_lora) if plan.is_merged else model
    with nullcontext() if has_lora or plan.is_merged else model.disable_adapter():
        yield from write_in_batches(
            network, prompts, writing.settings, writing.end_ids, plan.at_a_time
        )
