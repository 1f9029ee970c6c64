"""Writes descriptions for a batch of prompts, greedily.

In come a model and a PromptBatch, out go texts with how they ended. Every generation setting that
matters is set here, since transformers fills what is left open from the base's own files. Reading
titles and writing files happen elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from amazon_desc.data.loading.batches import PromptBatch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class Description(NamedTuple):
    """A generated text; `num_tokens` does not count the end token."""

    text: str
    finish_reason: Literal["stop", "length"]
    num_tokens: int


def describe(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: PromptBatch,
    end_ids: Sequence[int],
    max_new_tokens: int,
) -> list[Description]:
    """Returns one description per prompt; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()  # dropout, and recomputation's lack of a cache, would make garbage of the text
    try:
        new_ids = generate(model, batch, end_ids, max_new_tokens)
    finally:
        model.train(was_training)
    return [read(ids, tokenizer, end_ids) for ids in new_ids.tolist()]


@torch.inference_mode()
def generate(
    model: PeftModel, batch: PromptBatch, end_ids: Sequence[int], max_new_tokens: int
) -> Tensor:
    """Returns the new ids, (B, up to max_new_tokens); after an end token they are padding.

    Runs outside autocast: with it, greedy texts differ from those that plain PEFT writes.
    """
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
        bos_token_id=None,
    )
    # transformers fills open fields from here too
    base: Any = model.get_base_model()
    base.generation_config = settings
    with torch.autocast(batch.input_ids.device.type, enabled=False):
        ids = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=settings,
        )
    return ids[:, batch.input_ids.shape[1] :]


def read(ids: list[int], tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> Description:
    """Reads new ids up to the first end token."""
    ends = [index for index, token in enumerate(ids) if token in end_ids]
    kept = ids[: ends[0]] if ends else ids
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Description(str(text).strip(), "stop" if ends else "length", len(kept))
