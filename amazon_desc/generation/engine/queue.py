"""Writes the texts of many prompts: slots are refilled as texts end.

In come prompts as ids, out go texts as ids, in the prompts' order. Longer prompts begin first, so
that those that begin together end together. Nothing is decoded here, and no file is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from amazon_desc.generation.engine.slots import Begun, Slots
from amazon_desc.generation.texts import Prompt, Text

# Steps between two looks at which texts have ended: each costs the host's time, and slots that
# have ended wait for it.
STEPS_BETWEEN_LOOKS = 4


@torch.inference_mode()
def write(slots: Slots, prompts: Sequence[Prompt]) -> Iterator[Text]:
    """Yields the texts of prompts, in their order, as soon as those before them are there."""
    # taken from its end
    waiting = sorted(range(len(prompts)), key=lambda number: len(prompts[number].ids))
    holds: list[int | None] = [None] * slots.num_slots  # which prompt a slot has
    texts: dict[int, Text] = {}
    next_out = 0
    while next_out < len(prompts):
        free = [slot for slot, number in enumerate(holds) if number is None]
        next_ones = waiting[: -len(free) - 1 : -1] if free else []
        lengths = [slots.room_of(prompts[number].ids) for number in next_ones]
        if len(free) < slots.num_slots and len(next_ones) < len(waiting):
            # A pass that is not full costs as much: prompts wait for others.
            lengths = lengths[: in_full_passes(lengths, slots.prefilled)]
        begun = []
        for slot, _ in zip(free, lengths, strict=False):
            number = waiting.pop()
            holds[slot] = number
            begun.append(Begun(slot, prompts[number].row, prompts[number].ids))
        if begun:
            slots.begin(begun)
        slots.run(STEPS_BETWEEN_LOOKS)
        for ended in slots.take([number is None for number in holds]):
            number = holds[ended.slot]
            assert number is not None
            texts[number], holds[ended.slot] = Text(ended.ids, ended.has_end), None
        while next_out in texts:
            yield texts.pop(next_out)
            next_out += 1


def in_full_passes(lengths: Sequence[int], room: int) -> int:
    """Returns how many of the first lengths fill passes of so much room, none of them cut.

    lengths = [4, 4, 3, 5, 2], room = 8
    result  = 4        passes of 4 + 4 and 3 + 5; the next one would not be full
    """
    used, num_passed = 0, 0
    for number, length in enumerate(lengths):
        if used + length > room:
            used, num_passed = 0, number
        used += length
    return len(lengths) if used == room else num_passed
