"""Writes descriptions for a batch of prompts, as the settings of decoding say.

In come a model and a PromptBatch, out go texts with how they ended. Every generation setting that
matters is set here, since transformers fills what is left open from the base's own files; which
token comes next is decided in choosing.py. Reading titles and writing files happen elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from amazon_desc.data.loading.batches import PromptBatch
from amazon_desc.generation.choosing import choose, penalised
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.texts import Description, read, text_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Prediction(NamedTuple):
    """A title as it was read, and what was written for it."""

    title: str
    description: Description
    others: Sequence[Description] = ()
    """further candidates"""


def describe(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: PromptBatch,
    end_ids: Sequence[int],
    settings: DecodingSettings,
) -> list[Description]:
    """Returns one description per prompt; the model is left in the mode it was in."""
    one = replace(settings, num_candidates=1)
    return [texts[0] for texts in describe_each(model, tokenizer, batch, end_ids, one)]


def describe_each(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: PromptBatch,
    end_ids: Sequence[int],
    settings: DecodingSettings,
) -> list[list[Description]]:
    """Returns `num_candidates` descriptions per prompt, the first the one that describe returns."""
    was_training = model.training
    model.eval()  # dropout, and recomputation's lack of a cache, would make garbage of the text
    try:
        new_ids = generate(model, batch, end_ids, settings)
    finally:
        model.train(was_training)
    texts = [read(text_of(ids, end_ids), tokenizer, settings.trim) for ids in new_ids.tolist()]
    num = settings.num_candidates
    return [texts[first : first + num] for first in range(0, len(texts), num)]


@torch.inference_mode()
def generate(
    model: PeftModel | PreTrainedModel,
    batch: PromptBatch,
    end_ids: Sequence[int],
    settings: DecodingSettings,
) -> Tensor:
    """Returns the new ids, (B x num_candidates, up to max_new_tokens); padding after an end token.

    Runs outside autocast: with it, texts differ from those that plain PEFT writes.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    num_beams = settings.num_beams
    num_copies = settings.num_candidates if settings.is_sampled else 1
    prompt_ids = batch.input_ids.repeat_interleave(num_copies, 0)
    width = prompt_ids.shape[1]
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        num_return_sequences=settings.num_candidates // num_copies,
        early_stopping=False,
        length_penalty=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
        bos_token_id=None,
    )
    # transformers fills open fields from here too
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.generation_config = config
    if num_beams == 1:
        rows = batch.rows.repeat_interleave(num_copies)
        candidates = torch.arange(num_copies, device=rows.device).repeat(len(batch.rows))
        processor: Any = Chosen(settings, width, end_ids, rows, candidates)
    else:
        processor = Penalised(settings, width, end_ids)
    with torch.autocast(prompt_ids.device.type, enabled=False):
        ids = model.generate(
            input_ids=prompt_ids,
            attention_mask=batch.attention_mask.repeat_interleave(num_copies, 0),
            generation_config=config,
            logits_processor=LogitsProcessorList([processor]),
        )
    return ids[:, width:]


@dataclass(frozen=True)
class Penalised:
    """A LogitsProcessor that penalises what is written after prompts of `width` tokens."""

    settings: DecodingSettings
    width: int
    end_ids: Sequence[int]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[:, self.width :]
        return penalised(scores, written, self.settings, written.shape[1], self.end_ids)


@dataclass(frozen=True)
class Chosen:
    """A LogitsProcessor that leaves only the token that is chosen, which generate then takes."""

    settings: DecodingSettings
    width: int
    end_ids: Sequence[int]
    rows: Tensor
    candidates: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[:, self.width :]
        place = written.shape[1]
        ids = choose(
            scores, written, self.settings, self.rows, place, self.candidates, self.end_ids
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, ids[:, None], 0.0)
