"""torch's loaders as training needs them: processes that neither outlive it nor hold it up.

In come rows and their order, out goes a loader. Its processes ignore the signals that are meant for
the one that trains, end with it, and count as hung after a few seconds.
"""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from amazon_desc.data.loading.blocks import Blocks
from amazon_desc.data.loading.order import WHOLE, RowOrder, Share
from amazon_desc.support.parents import end_with
from amazon_desc.support.signals import stopping_signals

# How long a loader process may take for a batch, which takes it milliseconds, before it counts as
# hung: on a disk that does not answer, say.
HUNG_SECONDS = 8


def ordered_loader(
    rows: Any, order: RowOrder, collate: Callable[[list[Any]], Any], num_workers: int, seed: int
) -> DataLoader[Any]:
    """Returns a loader of `rows` in `order`; it draws from no random state but its own."""
    return DataLoader(
        rows,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
        timeout=HUNG_SECONDS if num_workers else 0,
        worker_init_fn=outlive_nobody,
    )


def fixed_loader(
    items: Sequence[Any],
    batch_size: int,
    collate: Callable[[list[Any]], Any],
    seed: int,
    share: Share = WHOLE,
) -> DataLoader[Any]:
    """Returns a loader of what is scored, in its order.

    A process for which there is none has an empty batch: Lightning would pass over its validation,
    and the others would wait for it.
    """
    starts = range(0, len(items), batch_size)[share.rank :: share.world_size]
    batches = [range(start, min(start + batch_size, len(items))) for start in starts]
    return DataLoader(
        items,  # pyright: ignore[reportArgumentType] (has all that a map-style Dataset needs)
        batch_sampler=batches or [range(0)],  # pyright: ignore[reportArgumentType]
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
    )


def block_loader(blocks: Blocks, seed: int) -> DataLoader[list[int]]:
    """Returns a loader of the numbers of blocks, which keeps none of them.

    Blocks([(3, 8)], 2) -> [3, 4], [5, 6], [7]
    """
    return DataLoader(
        blocks,  # pyright: ignore[reportArgumentType] (has all that a map-style Dataset needs)
        batch_size=None,  # Lightning notes what else a batch is made of, as long as it predicts
        collate_fn=list,
        generator=torch.Generator().manual_seed(seed),
    )


def outlive_nobody(worker: int) -> None:
    """Has a loader process ignore the signals meant for its parent, and end with it.

    Ctrl-C, and many a job manager's SIGTERM, reach all processes of a job at once, while the parent
    still needs batches to finish its step.
    """
    for number in stopping_signals():
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    end_with(parent.pid)


def end_loader_processes() -> None:
    """Kills the processes that loaders have started, and waits until they are gone."""
    children = multiprocessing.active_children()
    # torch answers a loader process's death with an error, wherever the main thread just is
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if children else None
    for child in children:
        child.kill()
    for child in children:
        child.join()
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
