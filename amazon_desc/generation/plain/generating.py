"""Texts by transformers' own `generate`: beams, any family, and the reference of all engines.

In come a model and prompts, out go new ids. Which token comes next is decided in choosing.py, but
with beams, which transformers follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.choosing import penalised
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.rounding import choose_surely
from amazon_desc.generation.texts import text_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# Prompts of similar length share a width: a text depends less on its neighbours' lengths.
PROMPT_WIDTH_STEP = 32


@torch.inference_mode()
def generate(
    model: PeftModel | PreTrainedModel,
    prompts: Sequence[Prompt],
    end_ids: Sequence[int],
    settings: DecodingSettings,
    width_step: int = PROMPT_WIDTH_STEP,
    is_exact: bool = False,
) -> Tensor:
    """Returns the new ids, (B x num_candidates, up to max_new_tokens); padding after an end token.

    Every setting that matters is set, since transformers fills what is open from the base's files.
    Runs outside autocast: with it, texts differ from those that plain PEFT writes.

    Args:
        width_step: prompts are padded to a multiple of it
        is_exact: where rounding could change a token, take the one that its text has alone; beams
            are left as they are
    """
    from transformers import GenerationConfig, LogitsProcessorList

    num_beams = settings.num_beams
    num_copies = settings.num_candidates if settings.is_sampled else 1
    ids, is_token = (tensor.to(model.device) for tensor in padded(prompts, end_ids[0], width_step))
    width = ids.shape[1]
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
    base: Any = getattr(model, "get_base_model", lambda: model)()
    before, base.generation_config = base.generation_config, config
    if num_beams == 1:
        rows = torch.tensor([prompt.row for prompt in prompts], device=ids.device)
        rows = rows.repeat_interleave(num_copies)
        candidates = torch.arange(num_copies, device=rows.device).repeat(len(prompts))
        processor: Any = Chosen(settings, width, end_ids, rows, candidates)
        if is_exact:
            copies = [prompt for prompt in prompts for _ in range(num_copies)]
            processor = replace(processor, alone=lambda n, ids: logits_alone(base, copies[n], ids))
    else:
        processor = Penalised(settings, width, end_ids)
    writer: Any = model
    try:
        with torch.autocast(ids.device.type, enabled=False):
            found = writer.generate(
                input_ids=ids.repeat_interleave(num_copies, 0),
                attention_mask=is_token.repeat_interleave(num_copies, 0),
                generation_config=config,
                logits_processor=LogitsProcessorList([processor]),
            )
    finally:
        base.generation_config = before
    return found[:, width:]


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
    alone: Callable[[int, list[int]], Tensor] | None = None
    """logits (V) of a text's number and what is written of it, as it has them alone"""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written, of_text = input_ids[:, self.width :], self.alone

        def alone(text: int) -> Tensor:
            ids = written[text].tolist()
            if of_text is None or text_of(ids, self.end_ids).has_end:
                return scores[text]  # none matter to a text that has ended
            return of_text(text, ids)

        which = self.rows, written.shape[1], self.candidates
        asked = None if of_text is None else alone
        ids = choose_surely(scores, written, self.settings, *which, self.end_ids, asked)
        return torch.full_like(scores, -torch.inf).scatter_(1, ids[:, None], 0.0)


def logits_alone(base: Any, prompt: Prompt, written: list[int]) -> Tensor:
    """Returns the logits (V) after a prompt and its text, computed without others and a cache."""
    ids = torch.tensor([[*prompt.ids, *written]], device=base.device)
    return base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1]


def padded(
    prompts: Sequence[Prompt], pad_id: int, width_step: int = PROMPT_WIDTH_STEP
) -> tuple[Tensor, Tensor]:
    """Pads prompts on the left, to a multiple of `width_step`: (B, T) int64 both.

    With a step of 4 and pad_id 0:

        ids      = [[0, 0, 1, 7], [1, 5, 6, 8]]
        is_token = [[0, 0, 1, 1], [1, 1, 1, 1]]
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    width = -(-longest // width_step) * width_step
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    is_token = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        is_token[index, width - len(prompt.ids) :] = 1
    return ids, is_token
