"""Decoding settings as the options of transformers and of vLLM.

In come settings, out go arguments of `generate` and of `SamplingParams` as Python source, with a
function for what transformers has not, and sentences on what neither can do.
"""

from collections.abc import Iterator

from amazon_desc.generation.decoding import DecodingSettings


def options_of_generate(settings: DecodingSettings) -> Iterator[str]:
    """Yields what transformers is asked for, as far as it can; the rest is in note_on."""
    yield f"max_new_tokens={settings.max_new_tokens}"
    if settings.min_new_tokens:
        yield f"min_new_tokens={settings.min_new_tokens}"
    yield f"do_sample={settings.is_sampled}"
    if settings.is_sampled:  # what is left open would be filled from the base's own file
        for name in ("temperature", "top_k", "top_p", "min_p"):
            yield f"{name}={getattr(settings, name)}"
    yield f"num_beams={settings.num_beams}"
    if settings.num_beams > 1:
        yield from ("early_stopping=False", "length_penalty=1.0")
    yield from ("repetition_penalty=1.0", "no_repeat_ngram_size=0")
    processors = []
    if settings.repetition_penalty != 1:
        penalty = float(settings.repetition_penalty)
        processors.append(f"RepetitionPenaltyLogitsProcessor({penalty}, ids.shape[1])")
    if function_of_penalties(settings):
        processors.append("penalised")
    if processors:
        yield f"logits_processor=[{', '.join(processors)}]"


def function_of_penalties(settings: DecodingSettings) -> str:
    """Returns Python for penalties that transformers does not have, or counts the prompt for."""
    lines = ""
    for penalty, times in (
        (settings.presence_penalty, ""),
        (settings.frequency_penalty, " * text.count(token)"),
    ):
        if penalty:
            lines += LOWERED.format(amount=f"{penalty}{times}")
    if settings.no_repeat_ngram_size:
        lines += NO_REPEATS.format(last=settings.no_repeat_ngram_size - 1)
    return PENALISED.format(lines=lines) if lines else ""


def note_on(settings: DecodingSettings) -> str:
    """Returns a comment on what `predict` does and transformers cannot."""
    notes = []
    if settings.is_sampled:
        notes.append("draws with numbers of its own, so with the same settings other texts")
    if settings.trim:
        notes.append("ends a text that reached its limit at its last whole sentence")
    return "".join(f"# predict {note}.\n" for note in notes)


def options_of_vllm(settings: DecodingSettings) -> Iterator[str]:
    """Yields what vLLM is asked for, as far as it can; the rest is in notes_on_vllm."""
    yield f"max_tokens={settings.max_new_tokens}"
    if settings.min_new_tokens:
        yield f"min_tokens={settings.min_new_tokens}"
    yield f"temperature={settings.temperature}"
    if settings.is_sampled:  # what is left open would be filled from generation_config.json
        for name in ("top_k", "top_p", "min_p"):
            yield f"{name}={getattr(settings, name)}"
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        yield f"{name}={getattr(settings, name)}"


def notes_on_vllm(settings: DecodingSettings) -> Iterator[str]:
    """Yields what `predict` does and vLLM cannot, or does otherwise."""
    if settings.no_repeat_ngram_size:
        yield (
            f"predict lets no run of {settings.no_repeat_ngram_size} tokens come twice; vLLM has "
            f"no such setting."
        )
    if settings.repetition_penalty != 1:
        yield "vLLM counts the prompt's tokens for repetition_penalty, predict does not."
    if settings.num_beams > 1:
        yield f"predict takes the best of {settings.num_beams} beams; these lines write greedily."
    yield from (line[2:] for line in note_on(settings).splitlines())


PENALISED = """\


def penalised(found, scores):  # by what the text has already: the prompt does not count
    for text, row in zip(found[:, ids.shape[1] :].tolist(), scores):
{lines}    return scores


"""

LOWERED = """\
        for token in set(text):
            row[token] -= {amount}
"""

NO_REPEATS = """\
        last = text[max(0, len(text) - {last}) :]
        for start in range(len(text) - {last}):
            if text[start : start + {last}] == last:
                row[text[start + {last}]] = -torch.inf
"""
