"""Each title is dealt to one process, in the blocks in which one process would write."""

import pytest

from amazon_desc.data.loading.blocks import Blocks, Run, picked
from amazon_desc.data.loading.order import WHOLE, Share


def dealt(runs: list[Run], size: int, share: Share = WHOLE) -> list[list[int]]:
    return list(map(list, Blocks(runs, size, share)))


def test_blocks_are_those_of_the_worked_example():
    runs = [(0, 5), (8, 11)]
    assert dealt(runs, 2) == [[0, 1], [2, 3], [4], [8, 9], [10]]
    assert dealt(runs, 2, Share(0, 2)) == [[0, 1], [4], [10]]
    assert dealt(runs, 2, Share(1, 2)) == [[2, 3], [8, 9]]
    assert Blocks(runs, 2, Share(1, 2)).num_dealt == 8


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize("runs", [[(0, 17)], [(3, 4), (5, 12), (20, 23)], []])
def test_processes_together_have_each_number_once_and_as_many_blocks(
    runs: list[Run], size: int, world_size: int
):
    parts = [Blocks(runs, size, Share(rank, world_size)) for rank in range(world_size)]
    found = sorted(number for part in parts for block in part for number in block)
    assert found == [number for run in runs for number in range(*run)]
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert all(0 < len(block) <= size for part in parts for block in part)


def test_a_billion_titles_take_no_memory():
    blocks = Blocks([(0, 10**9)], 128, Share(3, 8))
    assert len(blocks) == 976_563
    assert blocks[976_562] == range(999_999_872, 10**9)


def test_items_of_blocks_are_read_once_and_in_order():
    asked = []

    def items_from(first: int) -> str:
        asked.append(first)
        return "abcdefgh"[first:]

    assert list(picked(items_from, [range(2, 4), range(4, 5), range(6, 7)])) == list("cdeg")
    assert list(picked(items_from, [])) == []
    assert asked == [2]
