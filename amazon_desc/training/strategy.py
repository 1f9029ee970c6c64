"""How Lightning has several processes work as one: it joins them, and wraps nothing.

In comes who started the processes, out goes a strategy for a trainer. The gradients are summed by
us, over all targets of an optimizer step and on both paths (exchange.py): the fused path writes
them where DistributedDataParallel's hooks would never see them, and a mean over processes would
weigh targets unequally.
"""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from amazon_desc.support.ranks import Place
from amazon_desc.training import exchange


class Joined(DDPStrategy):
    """One process a device, each with the whole base, and no wrapper around the module."""

    def setup_environment(self) -> None:
        super().setup_environment()
        exchange.host_group()

    def setup(self, trainer: Any) -> None:
        """Does not send the frozen base to all, which have read it from the same bytes."""
        super(DDPStrategy, self).setup(trainer)


def meet(place: Place) -> None:
    """Has the processes of a command tell each other something without a trainer.

    exchange.leave() ends it; each may then work for itself.
    """
    if place.world_size == 1:
        return
    environment = environment_of(place)
    assert environment is not None, "who starts several processes says where they meet"
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    dist.init_process_group(
        "gloo", timeout=exchange.PATIENCE, rank=place.rank, world_size=place.world_size
    )
    exchange.host_group()  # from here on each sees at once that another has ended


def environment_of(place: Place) -> ClusterEnvironment | None:
    """Returns what tells Lightning of processes that it does not start itself.

    It is not to submit a SLURM job again: it would save in the middle of a signal's handler.
    """
    if place.started_by == "torchrun":
        return TorchElasticEnvironment()
    if place.started_by == "srun" or SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return None
