"""Order: every row once an epoch, and from any point on exactly what is left."""

import pytest
from torch.utils.data import DataLoader

from amazon_desc.data.loading.order import RowOrder, Share, sizes_of_round


def rows_of(order: RowOrder) -> list[int]:
    return [row for batch in order for row in batch]


def test_the_worked_example(monkeypatch: pytest.MonkeyPatch):
    permutations = [[2, 0, 1], [0, 2, 1]]
    monkeypatch.setattr(RowOrder, "permutation", lambda self, epoch: permutations[epoch])
    assert list(RowOrder(3, 2, 2, seed=0)) == [[2, 0], [1, 0], [2, 1]]
    assert list(RowOrder(3, 2, 2, seed=0, first_row=2)) == [[1, 0], [2, 1]]
    assert list(RowOrder(3, 2, 2, seed=0, max_rows=3)) == [[2, 0], [1]]


def test_the_order_is_the_one_it_always_was():
    """A checkpoint's position means nothing if another version draws other permutations."""
    assert list(RowOrder(5, 2, 2, seed=0)) == [[4, 0], [1, 3], [2, 0], [4, 2], [3, 1]]
    assert list(RowOrder(5, 5, 2, seed=1)) == [[4, 2, 1, 0, 3], [3, 4, 0, 1, 2]]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 20])
def test_every_row_comes_exactly_once_an_epoch(batch_size: int):
    rows = rows_of(RowOrder(13, batch_size, 3, seed=5))
    epochs = [rows[start : start + 13] for start in (0, 13, 26)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(13))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert len(rows) == 39


def test_only_the_last_micro_batch_is_smaller():
    assert [len(batch) for batch in RowOrder(7, 4, 3, seed=0)] == [4, 4, 4, 4, 4, 1]


def test_seed_decides():
    assert list(RowOrder(50, 4, 2, seed=3)) == list(RowOrder(50, 4, 2, seed=3))
    assert rows_of(RowOrder(50, 4, 2, seed=3)) != rows_of(RowOrder(50, 4, 2, seed=4))


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_from_every_row_on_exactly_the_rest_follows(batch_size: int):
    whole = rows_of(RowOrder(7, batch_size, 3, seed=11))
    assert len(whole) == 21
    for first_row in range(22):
        order = RowOrder(7, batch_size, 3, seed=11, first_row=first_row)
        assert rows_of(order) == whole[first_row:]


@pytest.mark.parametrize("first_row", range(0, 22, 4))
def test_from_every_full_batch_on_the_batches_are_the_same(first_row: int):
    whole = list(RowOrder(7, 4, 3, seed=11))
    assert list(RowOrder(7, 4, 3, seed=11, first_row=first_row)) == whole[first_row // 4 :]


def test_another_batch_size_keeps_the_order_of_the_rows():
    whole = rows_of(RowOrder(9, 2, 2, seed=1))
    for batch_size in (1, 3, 4, 18, 100):
        assert rows_of(RowOrder(9, batch_size, 2, seed=1)) == whole
        assert rows_of(RowOrder(9, batch_size, 2, seed=1, first_row=6)) == whole[6:]


def test_more_epochs_go_on_where_fewer_ended():
    once, twice = (rows_of(RowOrder(9, 2, epochs, seed=1)) for epochs in (1, 2))
    assert twice[:9] == once
    assert rows_of(RowOrder(9, 2, 2, seed=1, first_row=9)) == twice[9:]


@pytest.mark.parametrize(("first_row", "length"), [(0, 6), (4, 6), (21, 6)])
def test_the_length_is_that_of_the_whole_run(first_row: int, length: int):
    assert len(RowOrder(7, 4, 3, seed=0, first_row=first_row)) == length


def test_a_loader_can_be_read_twice():
    loader = DataLoader(list(range(7)), batch_sampler=RowOrder(7, 4, 1, seed=2), collate_fn=list)
    assert list(loader) == list(loader) == list(RowOrder(7, 4, 1, seed=2))


# A limit of rows


@pytest.mark.parametrize("max_rows", range(1, 25))
def test_a_limit_ends_the_same_order_early(max_rows: int):
    """Of 3 epochs of 7 rows: in the first, at its end, in a later one, and beyond all 21."""
    whole = rows_of(RowOrder(7, 4, 3, seed=11))
    order = RowOrder(7, 4, 3, seed=11, max_rows=max_rows)
    assert rows_of(order) == whole[:max_rows]
    assert len(order) == len(list(order)) == -(-min(max_rows, 21) // 4)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("max_rows", [1, 6, 7, 8, 13, 14, 17])
def test_from_every_row_on_the_rest_follows_up_to_the_limit(batch_size: int, max_rows: int):
    whole = rows_of(RowOrder(7, batch_size, 3, seed=11))[:max_rows]
    for first_row in range(max_rows + 1):
        order = RowOrder(7, batch_size, 3, seed=11, first_row=first_row, max_rows=max_rows)
        assert rows_of(order) == whole[first_row:]
        assert len(order) == -(-max_rows // batch_size)  # of the whole run


def test_only_the_last_micro_batch_before_the_limit_is_smaller():
    order = RowOrder(7, 4, 3, seed=0, max_rows=17)
    assert [len(batch) for batch in order] == [4, 4, 4, 4, 1]
    resumed = RowOrder(7, 4, 3, seed=0, first_row=8, max_rows=17)
    assert list(resumed) == list(order)[2:]


def test_behind_the_limit_there_is_nothing():
    assert list(RowOrder(7, 4, 3, seed=0, first_row=9, max_rows=9)) == []
    assert list(RowOrder(7, 4, 3, seed=0, first_row=21)) == []


def test_a_limit_does_not_depend_on_the_size_of_the_micro_batches():
    whole = rows_of(RowOrder(9, 2, 2, seed=1, max_rows=12))
    assert len(whole) == 12
    for batch_size in (1, 3, 4, 5, 100):
        assert rows_of(RowOrder(9, batch_size, 2, seed=1, max_rows=12)) == whole
        resumed = RowOrder(9, batch_size, 2, seed=1, first_row=8, max_rows=12)
        assert rows_of(resumed) == whole[8:]


def test_the_worked_example_is_dealt_to_two_processes(monkeypatch: pytest.MonkeyPatch):
    permutations = [[2, 0, 1], [0, 2, 1]]
    monkeypatch.setattr(RowOrder, "permutation", lambda self, epoch: permutations[epoch])
    assert list(RowOrder(3, 2, 2, seed=0, share=Share(0, 2))) == [[2, 0], [2, 1]]
    assert list(RowOrder(3, 2, 2, seed=0, share=Share(1, 2))) == [[1, 0], []]


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("batch_size", "first_row"), [(1, 0), (2, 0), (2, 12), (3, 12)])
def test_processes_have_the_micro_batches_of_one_in_turn(
    world_size: int, batch_size: int, first_row: int
):
    settings = {"seed": 4, "first_row": first_row}
    whole = list(RowOrder(11, batch_size, 3, **settings))
    parts = [
        list(RowOrder(11, batch_size, 3, **settings, share=Share(rank, world_size)))
        for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1  # or some would wait for the others for ever
    dealt = [batch for of in zip(*parts, strict=True) for batch in of]
    assert dealt[: len(whole)] == whole
    assert dealt[len(whole) :] == [[]] * (len(dealt) - len(whole))


@pytest.mark.parametrize("first_row", [0, 4])
def test_a_process_has_as_many_micro_batches_as_its_loader_says(first_row: int):
    for rank in range(2):
        order = RowOrder(5, 2, 1, seed=0, first_row=first_row, share=Share(rank, 2))
        assert len(order) == 2  # of the whole run, whatever the first row
        assert len(list(order)) == (2, 1)[first_row // 4]


def test_the_rows_of_a_round_are_known_without_asking_the_others():
    assert sizes_of_round(0, 5, 2, 2) == [2, 2]
    assert sizes_of_round(4, 5, 2, 2) == [1, 0]
    assert sizes_of_round(0, 5, 4, 1) == [4]
    parts = [list(RowOrder(11, 2, 1, seed=0, share=Share(rank, 3))) for rank in range(3)]
    first = 0
    for of in zip(*parts, strict=True):
        assert sizes_of_round(first, 11, 2, 3) == [len(batch) for batch in of]
        first += sum(map(len, of))
    assert first == 11
