"""Writes the texts of many prompts: slots are refilled as texts end.

In come prompts, read ahead by some, out go their texts as ids, in the prompts' order. Longer
prompts begin first, so that those that begin together end together. Nothing is decoded here, and no
file is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import torch

from amazon_desc.data.loading.prompts import ENCODED_AT_A_TIME, Prompt
from amazon_desc.generation.engine.slots import Begun, Slots
from amazon_desc.generation.texts import Text

# Texts that are sorted by length together, in numbers of slots. The more, the later the first of
# them is written, and the more is lost where a command is stopped.
SLOTS_SORTED = 1
# Prompts whose texts are begun, or wait to be handed out, in numbers of slots. Texts that end
# together, or wait for one before them, are handed out beside the rounds that follow.
SLOTS_KEPT = 4


class Waiting:
    """Texts to write, read ahead; of those that are read together, the longest prompt is next."""

    def __init__(self, prompts: Iterable[Prompt], num_candidates: int, num_ahead: int) -> None:
        self.prompts, self.num_candidates = iter(prompts), num_candidates
        self.num_ahead = num_ahead
        self.num_read = 0
        self.is_over = False
        self.begun: list[tuple[int, Begun]] = []  # numbers of prompts with texts, from the last on
        self.coming: list[tuple[int, Begun]] = []  # that wait for others to be sorted with
        while not (self.begun or self.is_over):
            self.read()

    def read(self) -> None:
        """Reads a few: all at once would have the card wait."""
        if self.is_over or len(self.begun) + len(self.coming) > 2 * self.num_ahead:
            return
        some = list(islice(self.prompts, ENCODED_AT_A_TIME))
        self.is_over = not some
        for number, prompt in enumerate(some, self.num_read):
            for candidate in range(self.num_candidates):
                self.coming.append((number, Begun(-1, prompt.row, candidate, prompt.ids)))
        self.num_read += len(some)
        if self.is_over or len(self.coming) >= self.num_ahead:
            self.coming.sort(key=lambda each: len(each[1].ids))
            self.begun, self.coming = self.coming + self.begun, []

    def next_ones(self, most: int) -> list[tuple[int, Begun]]:
        return self.begun[: -most - 1 : -1] if most else []

    def take(self, num: int) -> None:
        del self.begun[len(self.begun) - num :]


class Held(NamedTuple):
    """What a slot holds."""

    number: int
    """of its prompt"""
    candidate: int
    since: int
    """the round in which it began"""


@torch.inference_mode()
def write(slots: Slots, prompts: Iterable[Prompt], num_candidates: int = 1) -> Iterator[list[Text]]:
    """Yields the texts of prompts, in their order, as soon as those before them are there.

    The card is asked for the next round before what the last one has ended is read, handed out and
    refilled: it never waits for that.
    """
    waiting = Waiting(prompts, num_candidates, SLOTS_SORTED * slots.num_slots)
    holds: list[Held | None] = [None] * slots.num_slots
    texts: dict[int, list[Text | None]] = {}
    next_out, before = 0, None
    most_kept = SLOTS_KEPT * slots.num_slots
    for now in count():
        begun = beginning(slots, waiting, holds)
        for number, each in begun:
            holds[each.slot] = Held(number, each.candidate, now)
            texts.setdefault(number, [None] * num_candidates)
        if begun:
            slots.begin([each for _, each in begun])
        slots.run()
        look = slots.look()
        waiting.read()
        while (found := whole(texts.get(next_out))) is not None:
            del texts[next_out]
            next_out += 1
            yield found
            if before is not None and before.is_known() and len(texts) < most_kept:
                break  # the card is at its last round: it comes first
        if waiting.is_over and not waiting.begun and not texts:
            return
        if before is not None:
            # what began in this round was free when the last one ended
            is_open = [held is not None and held.since < now for held in holds]
            for ended in slots.take(before, is_open):
                held = holds[ended.slot]
                assert held is not None
                texts[held.number][held.candidate] = Text(ended.ids, ended.has_end)
                holds[ended.slot] = None
        before = look


@torch.inference_mode()
def stream(slots: Slots, prompt: Prompt) -> Iterator[tuple[Text, bool]]:
    """Yields the first candidate's text after each round, and whether it is whole.

    The whole one is what `write` has for the prompt, with as many slots. One that is left before
    its end leaves nothing behind: the next one begins in the same slot.
    """
    slots.begin([Begun(0, prompt.row, 0, prompt.ids)])
    is_open = [slot == 0 for slot in range(slots.num_slots)]
    while True:
        slots.run()
        if found := slots.take(slots.look(), is_open):
            yield Text(found[0].ids, found[0].has_end), True
            return
        yield Text(slots.so_far(0), False), False


def whole(texts: list[Text | None] | None) -> list[Text] | None:
    """Returns the texts of a prompt once they are all there."""
    if texts is None or None in texts:
        return None
    return [text for text in texts if text is not None]


def beginning(
    slots: Slots, waiting: Waiting, holds: Sequence[Held | None]
) -> list[tuple[int, Begun]]:
    """Takes what begins now out of what waits, with a free slot for each."""
    free = [slot for slot, held in enumerate(holds) if held is None]
    next_ones = waiting.next_ones(len(free))
    num = len(next_ones)
    if len(free) < slots.num_slots and num < len(waiting.begun):
        # A pass that is not full costs as much: prompts wait for others.
        lengths = [slots.room_of(each.ids) for _, each in next_ones]
        num = in_full_passes(lengths, slots.prefilled)
    waiting.take(num)
    pairs = zip(next_ones[:num], free, strict=False)
    return [(number, each._replace(slot=slot)) for (number, each), slot in pairs]


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
