"""Rotary positions that are stretched by the longest text of a batch.

In come a model and how many tokens a text may have, out goes whether texts of other lengths beside
it change a text. Beyond what a base was trained for, some compute the positions of a whole batch by
its longest text ("dynamic", "longrope"), and "dynamic" ones keep them for the next batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from amazon_desc.model.families import rotary_of


def is_stretched(base: Any, num_tokens: int) -> bool:
    """Whether a text may be changed by others beside it that are longer or shorter.

    Args:
        num_tokens: of the longest prompt with its text, and padding
    """
    return any(num_tokens > limit for limit in limits(base.config.get_text_config(decoder=True)))


def limits(config: Any) -> Iterator[int]:
    """Yields the tokens of a text up to which each stretched kind of positions stays as it is."""
    for rope in rotary_of(config) if getattr(config, "rope_parameters", None) else ():
        kind = rope.get("rope_type", "default")
        if "dynamic" in kind:
            yield config.max_position_embeddings
        elif kind == "longrope":
            yield rope["original_max_position_embeddings"]


@contextmanager
def unstretched(base: Any) -> Iterator[None]:
    """Has "dynamic" positions begin as a base has them, and leaves them as they were before.

    Else a text would depend on those written before it, and the next training step on texts.
    """
    parts = [part for part in base.modules() if kinds_of(part)]
    before = [(part, dict(vars(part)), dict(part._buffers)) for part in parts]
    try:
        for part in parts:
            begin_anew(part)
        yield
    finally:
        for part, attributes, buffers in before:
            vars(part).update(attributes)
            part._buffers.update(buffers)


def kinds_of(part: Any) -> list[dict[str, str]]:
    """Returns how to ask a part for each of its "dynamic" positions; none: it has none."""
    kind = getattr(part, "rope_type", "")
    if isinstance(kind, dict):
        return [{"layer_type": name} for name, one in kind.items() if "dynamic" in one]
    return [{}] if "dynamic" in kind else []


def begin_anew(part: Any) -> None:
    """Has a part compute a text of one token: transformers forgets longer ones then."""
    for kind in kinds_of(part):
        device = next(part.buffers()).device
        part(torch.empty(1, device=device), torch.zeros(1, 1, device=device).long(), **kind)
