"""Prompts -> descriptions, by the engine that is planned.

In come a model and a stream of prompts, out come predictions in the same order. Which engine writes
is decided in model/writing_plan.py; files and scores are other rooms' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.texts import Description, Text, read
from amazon_desc.model.writing_plan import PREFILLED, WritingPlan

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amazon_desc.generation.engine.slots import Slots


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
    yield from Streaming(model, writing, plan, has_lora=has_lora).write(prompts)


def slots_of(model: PeftModel, writing: Writing, plan: WritingPlan, has_lora: bool) -> Slots:
    from amazon_desc.generation.engine.merged import merge
    from amazon_desc.generation.engine.slots import Slots

    settings, longest = writing.settings, writing.longest
    num_positions = longest + settings.max_new_tokens
    how = {"has_lora": has_lora, "is_dense": plan.is_merged}
    decoder = merge(model, writing.dtype, num_positions, **how)
    return Slots(decoder, settings, plan.at_a_time, longest, writing.end_ids, PREFILLED)


def network_of(model: PeftModel, plan: WritingPlan, has_lora: bool) -> PreTrainedModel | PeftModel:
    from amazon_desc.generation.plain.merged import merged

    return merged(model, has_lora=has_lora) if plan.is_merged else model


def side_of(model: PeftModel, plan: WritingPlan, has_lora: bool) -> AbstractContextManager[Any]:
    return nullcontext() if has_lora or plan.is_merged else model.disable_adapter()


class Streaming:
    """Writes many texts, or one to be read while it grows, and keeps what it writes with.

    Merging weights and capturing graphs take seconds. What `write` has for a prompt alone, with the
    same plan, is what a text that grows ends as.

    Attributes:
        plan: how it writes; of several candidates the first alone
    """

    def __init__(
        self, model: PeftModel, writing: Writing, plan: WritingPlan, *, has_lora: bool = True
    ) -> None:
        self.model, self.writing, self.plan, self.has_lora = model, writing, plan, has_lora
        is_fused = plan.engine == "fused"
        self.slots = slots_of(model, writing, plan, has_lora) if is_fused else None
        self.network = None if is_fused else network_of(model, plan, has_lora)

    def writes(self, settings: DecodingSettings) -> bool:
        """Returns whether what is kept is right for settings, too."""
        mine = self.writing.settings
        if self.plan.engine == "fused":  # its graphs hold them
            return settings == mine
        return (settings.num_beams > 1) == (mine.num_beams > 1)

    def write(self, prompts: Iterable[Prompt]) -> Iterator[Prediction]:
        """Yields a prediction for each prompt; those of one call are written side by side."""
        waiting: deque[Prompt] = deque()

        def reading() -> Iterator[Prompt]:
            for prompt in prompts:
                waiting.append(prompt)
                yield prompt

        settings, tokenizer = self.writing.settings, self.writing.tokenizer
        for texts in self.written(reading()):
            first, *others = (read(text, tokenizer, settings.trim) for text in texts)
            prompt = waiting.popleft()
            yield Prediction(prompt.title, first, others, prompt.reference, prompt.is_shortened)

    def written(self, prompts: Iterable[Prompt]) -> Iterator[list[Text]]:
        settings, ends = self.writing.settings, self.writing.end_ids
        if self.slots is not None:
            from amazon_desc.generation.engine.queue import write as write_in_slots

            yield from write_in_slots(self.slots, prompts, settings.num_candidates)
            return
        from amazon_desc.generation.plain.writer import write as write_in_batches

        assert self.network is not None
        with side_of(self.model, self.plan, self.has_lora):
            at_a_time = self.plan.at_a_time
            yield from write_in_batches(self.network, prompts, settings, ends, at_a_time)

    def __call__(self, prompt: Prompt, settings: DecodingSettings) -> Iterator[Prediction]:
        """Yields what is written for a prompt as it grows; the last one is whole."""
        tokenizer, title = self.writing.tokenizer, prompt.title
        for text, is_whole in self.texts(prompt, settings):
            found = read(text, tokenizer, settings.trim and is_whole)
            found = found if is_whole else found._replace(finish_reason=None)
            yield Prediction(title, found, [], prompt.reference, prompt.is_shortened)

    def texts(self, prompt: Prompt, settings: DecodingSettings) -> Iterator[tuple[Text, bool]]:
        if self.slots is not None:
            from amazon_desc.generation.engine.queue import stream as stream_in_slots

            yield from stream_in_slots(self.slots, prompt)
            return
        from amazon_desc.generation.plain.writer import stream

        assert self.network is not None
        with side_of(self.model, self.plan, self.has_lora):
            yield from stream(self.network, prompt, settings, self.writing.end_ids)
