"""The slots that texts are written in: what each holds, and the step that adds a token to each.

On a card a step is one CUDA graph: nothing in it asks the host, and a slot whose text has ended
computes on without writing. Numbers of slots and sizes are constant, so a text does not depend on
who is beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amazon_desc.generation.choosing import NOTHING
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.engine.cache import Cache
from amazon_desc.generation.engine.drawing import Chooser
from amazon_desc.generation.engine.merged import MergedDecoder
from amazon_desc.generation.engine.passes import Prompts, alignment, decode, prefill

# A round of steps, until it is looked at which texts have ended: that costs the host some
# milliseconds, and slots that have ended wait for it, and for the round after it.
ROUND_MS, LEAST_STEPS = 4.0, 2
STEPS_TIMED = 4


class Begun(NamedTuple):
    """A prompt that is put into a slot."""

    slot: int
    row: int
    candidate: int
    """what the choice of its tokens depends on, with its title's row"""
    ids: list[int]


class Ended(NamedTuple):
    """A text that has ended."""

    slot: int
    ids: list[int]
    """without the end token"""
    has_end: bool


class Look(NamedTuple):
    """Which texts have ended."""

    has_ended: Tensor
    """(S) bool"""
    event: Any
    """when that is known; None: at once"""

    def is_known(self) -> bool:
        """Whether the card has done all that it was asked for before; asks without waiting."""
        return self.event is not None and self.event.query()


class Slots:
    """All slots of a decoder.

    Args:
        longest: tokens of the longest prompt
        end_ids: tokens that end a text
        prefilled: tokens of packed prompts that are passed at a time
    """

    def __init__(
        self,
        decoder: MergedDecoder,
        settings: DecodingSettings,
        num_slots: int,
        longest: int,
        end_ids: Sequence[int],
        prefilled: int = 4096,
    ) -> None:
        device, max_new_tokens = decoder.device, settings.max_new_tokens
        length = longest + max_new_tokens
        self.decoder, self.num_slots, self.longest = decoder, num_slots, longest
        self.max_new_tokens = max_new_tokens
        shaping = (decoder.logit_scale, decoder.logit_cap)
        num_pieces = len(decoder.head)
        self.choose = Chooser(settings, end_ids, num_slots, num_pieces, device, *shaping)
        self.alignment = alignment(decoder, longest)
        self.prefilled = max(prefilled, -(-longest // self.alignment) * self.alignment)
        self.caches = [
            Cache(layer.heads, num_slots, length, decoder.dtype, device) for layer in decoder.layers
        ]
        self.slots = torch.arange(num_slots, device=device)
        self.ends, self.end_ids = set(end_ids), torch.tensor(list(end_ids), device=device)
        self.side = torch.cuda.Stream() if device.type == "cuda" else None
        self.ids, self.positions, self.rows, self.candidates, self.places = (
            torch.zeros(num_slots, dtype=torch.int64, device=device) for _ in range(5)
        )
        self.written = torch.full((num_slots, max_new_tokens), NOTHING, device=device)
        self.has_ended = torch.ones(num_slots, dtype=torch.bool, device=device)
        self.prompts = torch.zeros(3, self.prefilled, dtype=torch.int64, device=device)
        self.prompts[2] = -1
        self.prefill_graph: torch.cuda.CUDAGraph | None = None
        self.step_graph: torch.cuda.CUDAGraph | None = None
        self.steps_a_round = LEAST_STEPS

    # Beginning

    def begin(self, begun: Sequence[Begun]) -> None:
        """Puts prompts into slots; all of a prompt but its last token is passed here."""
        if self.side is not None and self.step_graph is None:
            self.capture()
        for pack in self.packed(begun):
            self.prompts.copy_(self.moved(pack))
            self.prefill() if self.prefill_graph is None else self.prefill_graph.replay()
        of_each = [(p.slot, p.ids[-1], len(p.ids) - 1, p.row, p.candidate) for p in begun]
        slots, *values = self.moved(torch.tensor(of_each).t().contiguous())
        changed = (self.ids, self.positions, self.rows, self.candidates)
        for tensor, value in zip(changed, values, strict=True):
            tensor[slots] = value
        self.places[slots] = 0
        self.written[slots] = NOTHING
        self.choose.begin(slots)
        self.has_ended[slots] = False

    def room_of(self, ids: Sequence[int]) -> int:
        """Returns what room a prompt takes in a pass: all but its last token, to the next tile."""
        return -(-(len(ids) - 1) // self.alignment) * self.alignment

    def prefill(self) -> None:
        prefill(self.decoder, self.caches, Prompts(*self.prompts), self.longest)

    def packed(self, begun: Sequence[Begun]) -> list[Tensor]:
        """Packs prompts without their last tokens, each where a tile of queries begins.

        Returns the Prompts of each pass, (3, N) on the CPU.
        """
        packs, place = [], self.prefilled
        for prompt in begun:
            length, room = len(prompt.ids) - 1, self.room_of(prompt.ids)
            if not length:
                continue
            if place + room > self.prefilled:
                packs.append(np.zeros((3, self.prefilled), dtype=np.int64))
                packs[-1][2], place = -1, 0
            here = packs[-1][:, place : place + length]
            here[0], here[1], here[2] = prompt.ids[:-1], np.arange(length), prompt.slot
            place += room
        return [torch.from_numpy(pack) for pack in packs]

    def moved(self, tensor: Tensor) -> Tensor:
        """Moves a tensor to the device; out of other memory than pinned the host would wait."""
        if self.side is None:
            return tensor
        return tensor.pin_memory().to(self.decoder.device, non_blocking=True)

    # Writing

    def capture(self) -> None:
        """Captures what is done again and again, and sees how long a step takes."""
        self.prefill_graph = captured(self.prefill, [])  # of padding alone: nothing is kept
        self.step_graph = captured(self.step, self.state())
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for _ in range(STEPS_TIMED):
            self.step_graph.replay()
        ended.record()
        ended.synchronize()
        step_ms = begun.elapsed_time(ended) / STEPS_TIMED
        self.steps_a_round = max(LEAST_STEPS, math.ceil(ROUND_MS / step_ms))

    def run(self) -> None:
        """Adds up to `steps_a_round` tokens to each text."""
        for _ in range(self.steps_a_round):
            self.step() if self.step_graph is None else self.step_graph.replay()

    def state(self) -> list[Tensor]:
        """Returns what a step changes, but for the caches, where it writes what it would again."""
        written = [self.written, self.choose.counts]
        return [self.ids, self.positions, self.places, self.has_ended, *written]

    def step(self) -> None:
        hidden = decode(self.decoder, self.caches, self.ids, self.positions, self.slots)
        logits = hidden @ self.decoder.head.t()
        numbers = (self.rows, self.candidates, self.places)
        new = self.choose(logits, self.written, *numbers, self.has_ended)
        is_open = ~self.has_ended
        place = self.places.clamp(max=self.max_new_tokens - 1)[:, None]
        before = self.written.gather(1, place)
        self.written.scatter_(1, place, torch.where(is_open[:, None], new[:, None], before))
        self.places += is_open
        self.positions += is_open
        self.ids.copy_(torch.where(is_open, new, self.ids))
        is_end = (new[:, None] == self.end_ids).any(1)
        self.has_ended |= is_open & (is_end | (self.places >= self.max_new_tokens))
        # one that has ended stays where it can compute on
        self.positions.clamp_(max=self.longest + self.max_new_tokens - 1)

    # Taking: the card goes on while the host reads what it has done before

    def look(self) -> Look:
        """Returns which texts have ended when all that was asked for until now is done."""
        has_ended = self.has_ended.clone()
        event = None if self.side is None else torch.cuda.current_stream().record_event()
        return Look(has_ended, event)

    def take(self, look: Look, is_open: Sequence[bool]) -> list[Ended]:
        """Returns the texts that had ended at a look, of slots that were open then."""
        if self.side is None:
            return self.ended(look.has_ended, is_open)
        with torch.cuda.stream(self.side):
            self.side.wait_event(look.event)
            return self.ended(look.has_ended, is_open)

    def ended(self, has_ended: Tensor, is_open: Sequence[bool]) -> list[Ended]:
        pairs = zip(has_ended.tolist(), is_open, strict=True)
        new = [slot for slot, both in enumerate(pairs) if all(both)]
        if not new:
            return []
        chosen = self.moved(torch.tensor(new))
        written, lengths = self.written[chosen].tolist(), self.places[chosen].tolist()
        found = []
        for slot, ids, length in zip(new, written, lengths, strict=True):
            has_end = ids[length - 1] in self.ends
            found.append(Ended(slot, ids[: length - has_end], has_end))
        return found

    def so_far(self, slot: int) -> list[int]:
        """Returns what is written in a slot; waits for the card."""
        return self.written[slot, : int(self.places[slot])].tolist()


def captured(step: Callable[[], None], state: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
    """Captures a step as a CUDA graph, and leaves the state as it was.

    It runs before that, which compiles its kernels.
    """
    before = [tensor.clone() for tensor in state]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    return graph
