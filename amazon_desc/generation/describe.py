"""Writes descriptions for a batch of prompts, as the settings of decoding say.

In come a model and a PromptBatch, out go texts with how they ended. Every generation setting that
matters is set here, since transformers fills what is left open from the base's own files; which
token comes next is decided in choosing.py. Reading titles and writing files happen elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from amazon_desc.data.encoding.encoder import SENTENCE_CLOSE
from amazon_desc.data.loading.batches import PromptBatch
from amazon_desc.generation.choosing import choose, penalised
from amazon_desc.generation.decoding import DecodingSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


# A sentence ends before white space, or with the text; 3. may have been going to be 3.5.
WHOLE_SENTENCE = re.compile(rf"{SENTENCE_CLOSE}(?=\s)|(?<!\d){SENTENCE_CLOSE}$")

# What the bytes of a character that is not whole are decoded to.
UNFINISHED = "\ufffd"


class Description(NamedTuple):
    """A generated text; `num_tokens` does not count the end token, but what is trimmed off."""

    text: str
    finish_reason: Literal["stop", "length"]
    num_tokens: int


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
    texts = [read(ids, tokenizer, end_ids, settings.trim) for ids in new_ids.tolist()]
    num = settings.num_candidates
    return [texts[first : first + num] for first in range(0, len(texts), num)]


@torch.inference_mode()
def generate(
    model: PeftModel, batch: PromptBatch, end_ids: Sequence[int], settings: DecodingSettings
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
    base: Any = model.get_base_model()
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


def read(
    ids: list[int], tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], trim: bool = False
) -> Description:
    """Reads new ids up to the first end token: text alone, without control tokens.

    A character whose last bytes were not written is left out at the end. With `trim` a text that
    reached its limit ends at its last whole sentence, and stays as it is if it has none.
    """
    ends = [index for index, token in enumerate(ids) if token in end_ids]
    kept = ids[: ends[0]] if ends else ids
    decoded = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = str(decoded).rstrip(UNFINISHED).strip()
    if trim and not ends:
        text = whole_sentences(text)
    return Description(text, "stop" if ends else "length", len(kept))


def whole_sentences(text: str) -> str:
    """Returns a text up to its last whole sentence; all of it if it has none.

    "A mug. It holds 3.5 l. Its han" -> "A mug. It holds 3.5 l."
    "A mug. It holds 3."             -> "A mug."
    """
    ends = [match.end() for match in WHOLE_SENTENCE.finditer(text)]
    return text[: ends[-1]] if ends else text
