"""What processes tell each other: of all, in the order of their ranks, and the same in each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from amazon_desc.support.errors import UserError
from amazon_desc.training import exchange

Task = Callable[[int], Any]


def joined(rank: int, world_size: int, folder: str, task: Task) -> None:
    """What each process does: joins the others, and leaves what its task has found."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    torch.save(task(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def in_processes(world_size: int, folder: Path, task: Task) -> list[Any]:
    """Returns what a task finds in each of several processes."""
    mp.spawn(joined, (world_size, str(folder), task), nprocs=world_size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def all_that_is_told(rank: int) -> dict[str, Any]:
    votes = exchange.Votes()
    votes.asked = {"leave": lambda: 143 * (rank == 1), "late": lambda: 0}
    gradients = [torch.full((2, 3), 1.0 + rank), torch.full((4,), 10.0 * rank)]
    exchange.sum_in_place(gradients)
    flat = [torch.tensor([1.0, float("inf") if rank == 2 else 0.0])]
    exchange.sum_in_place(flat)
    exchange.wait_for_all()
    return {
        "num_processes": exchange.num_processes(),
        "rank": dist.get_rank(),
        "values": exchange.gathered(["a", "b"][: rank + 1]),
        "told": exchange.told(f"by {rank}"),
        "numbers": exchange.gathered_numbers([rank, 7]),
        "tensors": exchange.gathered_tensors(torch.tensor([float(rank)])),
        "gradients": gradients,
        "flat": flat,
        "targets": votes.take(5 * rank),
        "leave": votes.agreed("leave"),
        "late": votes.agreed("late"),
    }


def test_three_processes_know_the_same_of_all(tmp_path: Path):
    found = in_processes(3, tmp_path, all_that_is_told)
    for rank, of in enumerate(found):
        assert (of["num_processes"], of["rank"]) == (3, rank)
        assert of["values"] == [["a"], ["a", "b"], ["a", "b"]]
        assert of["told"] == "by 0"
        assert of["numbers"] == [[0, 7], [1, 7], [2, 7]]
        assert [tensor.tolist() for tensor in of["tensors"]] == [[0], [1], [2]]
        assert of["gradients"][0].tolist() == [[6, 6, 6], [6, 6, 6]]
        assert of["gradients"][1].tolist() == [30, 30, 30, 30]
        assert of["flat"][0].tolist() == [3, float("inf")]
        assert of["targets"] == [[0], [5], [10]]
        assert (of["leave"], of["late"]) == (143, 0)


def differing(rank: int) -> str:
    exchange.refuse_differences({"seed": 1, "rows": 8})
    try:
        exchange.refuse_differences({"seed": 1, "rows": 8 - rank})
    except UserError as error:
        return str(error)
    return ""


def test_all_refuse_what_only_one_has_otherwise(tmp_path: Path):
    first, second = in_processes(2, tmp_path, differing)
    assert first == second
    assert first.startswith("rows: process 1 has 7, process 0 has 8, and all have to have the same")


def test_a_process_alone_tells_itself():
    gradients = [torch.ones(2), torch.ones(3)]
    exchange.sum_in_place(gradients)
    assert [gradient.tolist() for gradient in gradients] == [[1, 1], [1, 1, 1]]
    assert exchange.gathered("x") == ["x"]
    assert exchange.gathered_numbers([3]) == [[3]]
    assert exchange.num_processes() == 1
    exchange.wait_for_all()
    exchange.refuse_differences({"seed": 1})


def test_a_process_alone_is_asked_when_its_answer_is_needed():
    """What it was asked after its gradients were known still counts for the same step."""
    votes, answers = exchange.Votes(), iter([0, 143])
    votes.asked["leave"] = lambda: next(answers)
    assert votes.take(5) == [[5]]
    assert votes.agreed("leave") == 0
    assert votes.agreed("leave") == 143


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([["a", "c"], ["b"]], ["a", "b", "c"]),
        ([[], []], []),
        ([["a"], [], []], ["a"]),
        ([["a", "d"], ["b"], ["c"]], ["a", "b", "c", "d"]),
        ([["a", None], [None]], ["a", None, None]),
    ],
)
def test_what_was_dealt_in_turn_is_put_together_in_its_order(parts: Any, whole: Any):
    assert exchange.interleaved(parts) == whole
