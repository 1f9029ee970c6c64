"""How texts are written: the settings of decoding, and which of them make no sense.

In come options, out go frozen DecodingSettings, or a UserError that says what to set. What a
setting does to a next token is in choosing.py. Their defaults stand here and nowhere else: the
likeliest tokens, with penalties that keep texts from looping (scripts/README.md compares others).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from amazon_desc.support.errors import UserError

OPTION = "--model.decoding."


@dataclass(frozen=True)
class DecodingSettings:
    """How a text is written.

    Args:
        max_new_tokens: most tokens that are written for a title
        min_new_tokens: least tokens of a text: none ends before
        temperature: 0: always the likeliest token (greedy); above: tokens are drawn, 1 from the
            model's own probabilities, lower from sharper ones
        top_k: draw from so many likeliest tokens only; 0 or null: from all
        top_p: draw from the likeliest tokens only that have this probability together; 1: from all
        min_p: draw only from tokens with this share of the likeliest one's probability; 0: from all
        repetition_penalty: divide the positive logits of what the text has already, and multiply
            the negative ones; above 1 against repeats, 1: off. Penalties do not count the prompt
        no_repeat_ngram_size: let the text have no run of so many tokens twice; 0: off
        presence_penalty: taken from the logits of what the text has already; 0: off
        frequency_penalty: the same for each time that it has it; 0: off
        num_beams: keep so many likeliest beginnings and take the best text; 1: off
        num_candidates: texts for each title
        seed: decides, with a title's row in its file, what is drawn
        trim: end a text that reached max_new_tokens at its last whole sentence
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int | None = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 7
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.6
    num_beams: int = 1
    num_candidates: int = 1
    seed: int = 0
    trim: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "top_k", self.top_k or 0)  # as it is recorded
        for name, (is_right, wanted) in RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and is_right(value)):
                raise UserError(
                    f"{OPTION}{name} {value}: wanted {wanted}. Set it to such a number, or leave "
                    f"it away for its default, {default_of(name)}."
                )
        for refusal in contradictions(self):
            raise UserError(OPTION + refusal)

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn, and so depend on the seed and on a title's row."""
        return self.temperature > 0


# What a number must be alone, and how that is said.
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda n: n >= 1, "1 or more tokens"),
    "min_new_tokens": (lambda n: n >= 0, "0 or more tokens"),
    "temperature": (lambda t: t >= 0, "0 or a positive number"),
    "top_k": (lambda k: k >= 0, "a number of tokens, or 0 for all"),
    "top_p": (lambda p: 0 < p <= 1, "a probability above 0, up to 1"),
    "min_p": (lambda p: 0 <= p < 1, "a share from 0 to below 1"),
    "repetition_penalty": (lambda f: f > 0, "a positive number"),
    "no_repeat_ngram_size": (lambda n: n >= 0, "a number of tokens, or 0 for off"),
    "presence_penalty": (lambda d: -2 <= d <= 2, "a number from -2 to 2"),
    "frequency_penalty": (lambda d: -2 <= d <= 2, "a number from -2 to 2"),
    "num_beams": (lambda n: n >= 1, "1 or more beams"),
    "num_candidates": (lambda n: n >= 1, "1 or more texts for each title"),
    "seed": (lambda n: 0 <= n < 2**63, "a whole number from 0 to below 2^63"),
}


def default_of(name: str) -> Any:
    return next(field.default for field in fields(DecodingSettings) if field.name == name)


def contradictions(settings: DecodingSettings) -> Iterator[str]:
    """Yields what does not go together: where, wanted, found, remedy."""
    if settings.min_new_tokens > settings.max_new_tokens:
        yield (
            f"min_new_tokens {settings.min_new_tokens}: wanted at most {OPTION}max_new_tokens, "
            f"found {settings.max_new_tokens} there. Lower this one, or raise that one."
        )
    if not settings.is_sampled:
        for name in ("top_k", "top_p", "min_p"):
            if (value := getattr(settings, name)) != default_of(name):
                yield (
                    f"{name} {value}: it limits what is drawn, and nothing is drawn with "
                    f"{OPTION}temperature 0. Set a temperature, such as 0.7, or leave {name} away."
                )
    if settings.is_sampled and settings.num_beams > 1:
        yield (
            f"num_beams {settings.num_beams}: wanted 1 where tokens are drawn, which they are with "
            f"{OPTION}temperature {settings.temperature}. Set the one to 1 or the other to 0."
        )
    if settings.num_candidates > max(1, settings.num_beams) and not settings.is_sampled:
        yield (
            f"num_candidates {settings.num_candidates}: wanted several texts of which none is "
            f"another, found {OPTION}temperature 0 and {OPTION}num_beams {settings.num_beams}. "
            f"Set a temperature, such as 0.7, or as many beams."
        )


GREEDY = DecodingSettings(no_repeat_ngram_size=0, frequency_penalty=0.0)
"""The likeliest tokens, without penalties."""
