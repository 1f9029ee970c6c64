"""What bench_predict.py measures: texts for the same prompts, by our engines and by `generate`.

In come a Bench and a line of the table, out go the texts as ids and what writing them took. All
sides are given ids and give ids. vLLM writes in bench_predict_vllm.py.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_predict_table import Line, busy_share
from bench_predict_task import Bench
from sweep_decoding import over, read_settings

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.generating import PROMPT_WIDTH_STEP, padded
from amazon_desc.generation.plain.merged import merged
from amazon_desc.generation.plain.writer import base_of
from amazon_desc.generation.texts import Text, text_of
from amazon_desc.model import attention
from amazon_desc.model.probe import at_rest, attending
from amazon_desc.model.writing_plan import PREFILLED

WARM_UP_TOKENS, WARM_UP_TITLES = 4, 64

Write = Callable[[Sequence[Prompt], DecodingSettings], list[Text]]


class Writer(NamedTuple):
    """Who writes for a line; loading, merging, compiling and capturing lie behind it."""

    write: Write
    at_a_time: int
    warm_up: DecodingSettings
    """with which the first batch is written before the clock"""
    rounds: Rounds | None = None


# Ours


def settings_of(bench: Bench, line: Line) -> DecodingSettings:
    (given,) = read_settings([line.settings], None).values() if line.settings else [{}]
    return over(bench.settings, given)


def planned(bench: Bench, line: Line, settings: DecodingSettings) -> Any:
    """Returns how predict would write by this engine, whatever the run's own options are."""
    bench.describer.model.engine = line.side
    bench.describer.data.generation_batch_size = line.at_a_time or "auto"
    return bench.describer.plan(len(bench.prompts), settings)


class Rounds:
    """Counts the steps that slots were asked for: each adds a token to every open text."""

    def __init__(self, slots: Any) -> None:
        self.slots, self.run, self.num_steps = slots, slots.run, 0
        slots.run = self

    def __call__(self) -> None:
        self.num_steps += self.slots.steps_a_round
        self.run()

    def busy(self, num_tokens: int) -> float:
        return busy_share(num_tokens, self.num_steps, self.slots.num_slots)


def fused(bench: Bench, line: Line) -> Writer:
    from amazon_desc.generation.engine.merged import merge
    from amazon_desc.generation.engine.queue import write
    from amazon_desc.generation.engine.slots import Slots

    settings = settings_of(bench, line)
    plan, longest = planned(bench, line, settings), bench.describer.data.longest_prompt
    num_positions = longest + settings.max_new_tokens
    decoder = merge(bench.network, bench.dtype, num_positions, is_dense=plan.is_merged)
    slots = Slots(decoder, settings, plan.at_a_time, longest, bench.end_ids, PREFILLED)
    rounds = Rounds(slots)

    def of_slots(prompts: Sequence[Prompt], _: DecodingSettings) -> list[Text]:
        rounds.num_steps = 0
        return [texts[0] for texts in write(slots, prompts, settings.num_candidates)]

    return Writer(of_slots, plan.at_a_time, settings, rounds)


def plain(bench: Bench, line: Line) -> Writer:
    from amazon_desc.generation.plain.writer import write

    settings = settings_of(bench, line)
    plan = planned(bench, line, settings)
    network = merged(bench.network) if plan.is_merged else bench.network
    size = plan.at_a_time

    def in_batches(prompts: Sequence[Prompt], given: DecodingSettings) -> list[Text]:
        return [texts[0] for texts in write(network, prompts, given, bench.end_ids, size)]

    return Writer(in_batches, size, short(settings))


def short(settings: DecodingSettings) -> DecodingSettings:
    num = min(WARM_UP_TOKENS, settings.max_new_tokens)
    return replace(settings, max_new_tokens=num, min_new_tokens=min(num, settings.min_new_tokens))


# transformers' generate, as its users call it


def generate(bench: Bench, line: Line) -> Writer:
    is_merged, is_static = line.side == "merged", line.cache == "static"
    model = without_bitsandbytes(merged(bench.network)) if is_merged else bench.network
    base = base_of(model)
    usual = base.config._attn_implementation
    usual = "sdpa" if usual == attention.NAME else usual  # torch's own in place of ours
    assert line.at_a_time is not None
    size, longest = line.at_a_time, max(len(prompt.ids) for prompt in bench.prompts)
    if is_static:
        torch.compiler.reset()  # what is compiled for two shapes is slower at both

    def in_batches(prompts: Sequence[Prompt], settings: DecodingSettings) -> list[Text]:
        texts: dict[int, Text] = {}
        order = list(range(len(prompts)))
        if line.side != "before":  # predict kept the file's order; who wants speed sorts
            order.sort(key=lambda number: -len(prompts[number].ids))
        for first in range(0, len(order), size):
            numbers = order[first : first + size]
            batch = [prompts[number] for number in numbers]
            width = max(len(prompt.ids) for prompt in batch)
            if line.side == "before":
                width = -(-width // PROMPT_WIDTH_STEP) * PROMPT_WIDTH_STEP
            if is_static:  # one shape alone: each further one would be compiled anew
                batch, width = [*batch, *batch[-1:] * (size - len(batch))], longest
            found = batch_of(model, batch, settings, bench.end_ids, width, line.cache)
            texts |= zip(numbers, found, strict=False)
        return [texts[number] for number in range(len(prompts))]

    def write(prompts: Sequence[Prompt], settings: DecodingSettings) -> list[Text]:
        with attending(base, usual), at_rest(model, bench.device):
            return in_batches(prompts, settings)

    is_compiled = is_static and bench.device.type == "cuda"
    return Writer(write, size, bench.settings if is_compiled else short(bench.settings))


def batch_of(
    model: Any,
    prompts: Sequence[Prompt],
    settings: DecodingSettings,
    end_ids: Sequence[int],
    width: int,
    cache: str,
) -> list[Text]:
    """Writes one batch, greedily."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        do_sample=False,
        cache_implementation=None if cache == "dynamic" else cache,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
    )
    ids, is_token = padded(prompts, end_ids[0], width)
    found = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=is_token.to(model.device),
        generation_config=config,
    )
    return [text_of(new, end_ids) for new in found[:, width:].tolist()]


def without_bitsandbytes(network: Any) -> Any:
    """Returns a merged model that says so: transformers compiles and saves none in 4 bits."""
    network.hf_quantizer = None
    for name in ("is_loaded_in_4bit", "quantization_method"):
        vars(network).pop(name, None)
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    return network


def save_merged(bench: Bench, folder: Path) -> Path:
    """Writes the weights that all merged lines have as a folder that vLLM loads."""
    network = without_bitsandbytes(merged(bench.network))
    network.save_pretrained(folder)
    bench.describer.data.tokenizer.save_pretrained(folder)
    return folder


WRITERS = {"fused": fused, "plain": plain}


# One turn of a line


def measure(
    bench: Bench, line: Line, num_batches: int | None = None
) -> tuple[dict[str, Any], list[Text]]:
    """Returns what writing took, and the texts; all memory is free after it.

    Args:
        num_batches: of the first titles, for whoever writes in batches; None: for all titles
    """
    free_memory(bench.device)
    start = now(bench.device)
    writer = WRITERS.get(line.side, generate)(bench, line)
    prompts = bench.prompts
    if num_batches is not None and writer.rounds is None:
        prompts = prompts[: num_batches * writer.at_a_time]
    num_first = WARM_UP_TITLES if writer.rounds else writer.at_a_time
    writer.write(prompts[:num_first], writer.warm_up)
    ready = now(bench.device)
    settings = settings_of(bench, line)
    texts = writer.write(prompts, settings)
    seconds = now(bench.device) - ready
    num_tokens = count_tokens(texts)
    found = {
        "at_a_time": writer.at_a_time,
        "num_titles": len(texts),
        "num_tokens": num_tokens,
        "seconds": seconds,
        "startup_seconds": ready - start,
        "peak_gib": peak_gib(bench.device),
        "busy": writer.rounds.busy(num_tokens) if writer.rounds else None,
    }
    del writer
    free_memory(bench.device)
    return found, texts


def count_tokens(texts: Sequence[Text]) -> int:
    """Returns the new tokens of texts, end tokens among them: 5 6 with its end, and 7: 4"""
    return sum(len(text.ids) + text.has_end for text in texts)


def now(device: torch.device) -> float:
    """Returns the time when all that was asked of the card is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def free_memory(device: torch.device) -> None:
    """Gives back what nothing holds, and begins a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError, AttributeError):  # Linux alone
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device: torch.device) -> float | None:
    """Returns what tensors took of the card at most, the base among them, or all of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return next(peaks(), None)


def peaks() -> Iterator[float]:
    with suppress(OSError):
        for text in Path("/proc/self/status").read_text().splitlines():
            if text.startswith("VmHWM:"):
                yield int(text.split()[1]) / 2**20
