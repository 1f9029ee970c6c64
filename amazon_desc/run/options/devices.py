"""How many processes a command has: one a device, on one machine or on several.

In come the options of a trainer and who started this process, out go the numbers, or a refusal that
names the nearest that fit. Processes are started in run/launching.py, and share the work out where
it is done.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from amazon_desc.support.errors import UserError
from amazon_desc.support.ranks import Place, here
from amazon_desc.training.strategy import Joined, environment_of

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
STRATEGIES = ("auto", "single_device", "ddp")

LAUNCHERS = {"torchrun": "--nproc-per-node and --nnodes", "srun": "--ntasks-per-node and --nodes"}


class Processes(NamedTuple):
    """The processes of a command.

    2 machines of 4 cards: Processes(4, 2), and world_size 8
    """

    num_local: int
    num_nodes: int

    @property
    def world_size(self) -> int:
        return self.num_local * self.num_nodes


def processes_of(trainer: Any, place: Place) -> Processes:
    """Returns how many processes a command has: as they were started, else as options say.

    Raises:
        UserError: the options say something else than who started them.
    """
    asked = Processes(num_devices(trainer), trainer.num_nodes)
    if not place.started_by:
        return asked
    started = Processes(place.local_world_size, place.num_nodes)
    if asked not in (started, Processes(1, 1)):
        raise UserError(
            f"--trainer.devices {trainer.devices} and --trainer.num_nodes {trainer.num_nodes}: "
            f"{place.started_by} has started {started.num_local} processes on each of "
            f"{started.num_nodes} machines. Leave both away, or give its "
            f"{LAUNCHERS[place.started_by]} these numbers."
        )
    return started


def joining(
    trainer: Any, place: Place, processes: Processes, *, is_apart: bool = False
) -> dict[str, Any]:
    """Returns what has Lightning work on the devices of a command, as arguments of its trainer.

    Args:
        is_apart: each process works for itself, whatever becomes of the others
    """
    if is_apart:
        return working_apart(trainer, place)
    environment = environment_of(place)
    if processes.world_size == 1:
        return {} if environment is None else {"plugins": [environment]}
    named = cards_named(trainer.devices)
    return {
        "strategy": Joined(cluster_environment=environment),
        "devices": named or processes.num_local,
        "num_nodes": processes.num_nodes,
        "use_distributed_sampler": False,  # rows and titles are dealt where they are ordered
    }


def working_apart(trainer: Any, place: Place) -> dict[str, Any]:
    """Returns what has Lightning work on this process's device alone, whatever others do."""
    device = device_of(trainer)
    return {
        "strategy": "auto",
        "devices": 1 if device.index is None else [device.index],
        "num_nodes": 1,
        "plugins": [LightningEnvironment()],  # or it would look for those who started this one
        "enable_progress_bar": place.is_first and trainer.enable_progress_bar is not False,
    }


def device_of(trainer: Any) -> torch.device:
    """Returns the device that the options of a trainer give this process."""
    if trainer.accelerator in ("cpu", "mps") or not torch.cuda.is_available():
        return torch.device("cpu")
    number, named = here().local_rank, cards_named(trainer.devices)
    return torch.device("cuda", named[number] if named else number)


def num_devices(trainer: Any) -> int:
    """Returns the devices of this machine that are asked for; Lightning takes "0,1" for two.

    Raises:
        UserError: there are not so many cards.
    """
    devices, on_cards = trainer.devices, trainer.accelerator not in ("cpu", "mps")
    num_cards = torch.cuda.device_count() if on_cards else 0
    if devices in ("auto", "-1", -1):
        return max(1, num_cards)
    num = len(cards_named(devices)) or int(devices)
    if num < 1:
        raise UserError(
            f"--trainer.devices {trainer.devices}: wanted at least one device. Give a number, or "
            f"-1 for all cards of this machine."
        )
    if num_cards and num > num_cards:
        raise UserError(
            f"--trainer.devices {trainer.devices}: wanted no more cards than this machine has, "
            f"which are {num_cards}. Set it to {num_cards}, or to -1 for all."
        )
    return num


def cards_named(devices: Any) -> list[int]:
    """Returns the cards that an option names by their numbers; none: it says how many.

    "2,3" and [2, 3] -> [2, 3]    "2" and 2 -> []
    """
    if isinstance(devices, str) and "," in devices:
        return [int(name) for name in devices.split(",") if name.strip()]
    return list(devices) if isinstance(devices, list) else []


def refuse_engines(accelerator: Any, strategy: Any) -> None:
    """Refuses devices that nothing here is made for, and ways to train that share weights out."""
    if isinstance(accelerator, str) and accelerator not in ACCELERATORS:
        raise UserError(
            f"--trainer.accelerator {accelerator}: wanted one of {', '.join(ACCELERATORS)}. Leave "
            f"it away to take a GPU if there is one."
        )
    name = getattr(strategy, "class_path", strategy)
    if name not in STRATEGIES:
        raise UserError(
            f"--trainer.strategy {name}: wanted one of {', '.join(STRATEGIES)}, since each device "
            f"holds the whole 4-bit base here, and gradients of LoRA alone are exchanged. Leave it "
            f"away."
        )


def refuse_uneven_rows(
    rows_per_step: int,
    row_tokens: int,
    batch_size: int | Literal["auto"],
    world_size: int = 1,
) -> None:
    """Refuses an optimizer step that processes and micro-batches do not divide.

    3 rows at a time of 8: wanted 2 or 4 of 8, or 3 of 6 or 9. 8 rows on 3 processes: wanted 6 or 9.
    """
    if rows_per_step % world_size:
        steps = neighbours(rows_per_step, world_size)
        tokens, split = rows_per_step * row_tokens, rows_per_step * world_size
        remedy = f"Set --data.rows_per_step to {' or '.join(map(str, steps))}"
        if tokens % split == 0:
            remedy += (
                f", or, for as many tokens a step as now, --data.rows_per_step to {split} and "
                f"--data.row_tokens to {tokens // split}"
            )
        fitting = max(d for d in range(1, world_size) if rows_per_step % d == 0)
        raise UserError(
            f"--data.rows_per_step {rows_per_step}: wanted a multiple of the processes, which are "
            f"{world_size}, since each takes as many rows of a step. {remedy}; or train on "
            f"{fitting}."
        )
    rows = rows_per_step // world_size
    if batch_size == "auto" or rows % batch_size == 0:
        return
    divisors = [size for size in range(1, rows + 1) if rows % size == 0]
    sizes = [d for d in divisors if d < batch_size][-1:]
    sizes += [d for d in divisors if d > batch_size][:1]
    steps = neighbours(rows_per_step, batch_size * world_size)
    whose = "" if world_size == 1 else f" over {world_size} processes"
    raise UserError(
        f"--data.batch_size {batch_size}: wanted a divisor of the rows of an optimizer step, which "
        f"are --data.rows_per_step {rows_per_step}{whose}. Set --data.batch_size to auto or "
        f"{' or '.join(map(str, sizes))}, or --data.rows_per_step to "
        f"{' or '.join(map(str, steps))}."
    )


def neighbours(number: int, factor: int) -> list[int]:
    """Returns the multiples of a factor on both sides of a number, without 0.

    neighbours(8, 3) -> [6, 9]    neighbours(1, 2) -> [2]
    """
    return [m for m in (number // factor * factor, -(-number // factor) * factor) if m]
