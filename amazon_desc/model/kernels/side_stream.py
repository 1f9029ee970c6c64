"""A second stream, for work whose results are needed at the very end only.

Gradients of LoRA matrices are small products that leave most of a GPU idle: beside the large ones
they cost almost nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch


class SideStream:
    """Work on a stream of its own.

    Memory goes back to the current stream's allocator, which knows nothing of this one: so what the
    work reads is held until the current stream has waited for it.

    Args:
        is_used: False: work is done at once
    """

    def __init__(self, device: torch.device, is_used: bool) -> None:
        is_used = is_used and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if is_used else None
        self.held: list[Callable[[], None]] = []
        self.turns: deque[tuple[torch.Event, list[Callable[[], None]]]] = deque()

    def run(self, work: Callable[[], None]) -> None:
        """Does work that reads what the current stream has made; `work` holds what it reads."""
        if self.stream is None:
            work()
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        self.held.append(work)

    def turn(self) -> None:
        """Ends a turn, and lets go of what was read in the one before."""
        if self.stream is None:
            return
        self.turns.append((self.stream.record_event(), self.held))
        self.held = []
        if len(self.turns) > 1:
            torch.cuda.current_stream().wait_event(self.turns.popleft()[0])

    def join(self) -> None:
        """Has the current stream wait for all work."""
        if self.stream is None:
            return
        torch.cuda.current_stream().wait_stream(self.stream)
        self.turns.clear()
        self.held.clear()
