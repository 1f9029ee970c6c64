"""Which of several processes this one is, as whoever started them says it.

In comes the environment that torchrun, srun or run/launching.py leave, out goes a Place. Reads
names only: nothing is started or joined here, and nothing is imported that takes time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What run/launching.py adds: it says itself what went wrong in one of its processes.
LAUNCHED = "AMAZON_DESC_LAUNCHED"
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

TORCHRUN = "TORCHELASTIC_RUN_ID"
SRUN = "SLURM_STEP_NUM_TASKS"  # the shell of a batch script has the job's, but not this one


@dataclass(frozen=True)
class Place:
    """One process among those of a command.

    Args:
        rank: its number among all, from 0
        world_size: how many there are, on all machines
        local_rank: its number among those of its machine
        local_world_size: how many its machine has
        started_by: who started them; "": nobody, this one is alone
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    started_by: Literal["", "torchrun", "srun"] = ""

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes, prints and decides."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        return self.world_size // self.local_world_size

    def named(self) -> str:
        """Returns how a user is told of it."""
        return f"process {self.rank} of {self.world_size} (on {socket.gethostname()})"


def place_of(environment: Mapping[str, str]) -> Place:
    """Returns the place that an environment names.

    {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1",
     "LOCAL_WORLD_SIZE": "2"}  ->  Place(3, 4, 1, 2, "torchrun")
    """

    def number(name: str) -> int:
        return int(environment[name])

    if TORCHRUN in environment:
        rank, size = number("RANK"), number("WORLD_SIZE")
        return Place(rank, size, number("LOCAL_RANK"), number("LOCAL_WORLD_SIZE"), "torchrun")
    if int(environment.get(SRUN) or 1) > 1:
        size = number(SRUN)
        per_node = size // int(environment.get("SLURM_STEP_NUM_NODES") or 1)
        return Place(number("SLURM_PROCID"), size, number("SLURM_LOCALID"), per_node, "srun")
    return Place()


def here() -> Place:
    """Returns the place of this process."""
    return place_of(os.environ)


def is_answered_for() -> bool:
    """Whether the process that started this one says what becomes of it."""
    return LAUNCHED in os.environ and bool(os.environ.get(ERROR_FILE))
