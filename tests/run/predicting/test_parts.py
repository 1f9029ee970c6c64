"""What several processes wrote is joined in order, whoever was killed, and is written once."""

import random
from pathlib import Path

import pytest

from amazon_desc.data.loading.blocks import Blocks, Run
from amazon_desc.data.loading.order import Share
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.predicting.parts import Growing, Joined, Numbered, Part, Parts, line_of
from amazon_desc.support.errors import InUseError, StorageError
from amazon_desc.support.locks import alone


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "out.jsonl.parts")


def prediction(number: int) -> Prediction:
    return Prediction(f"title {number}", Description(f"text\n{number}", "stop", number))


def write(parts: Parts, rank: int, numbers: list[int], *, is_through: bool = True) -> None:
    with parts.begin(rank) as part:
        for number in numbers:
            part.add([number], [prediction(number)])
        if is_through:
            part.close()
        part.file.close()


def numbers_in(path: Path) -> list[int]:
    found, part = [], Growing(path)
    while (each := part.next()) is not None:
        found.append(each.number)
        part.waiting.popleft()
    return found


def joined(parts: Parts, num_parts: int, first: int = 0) -> Joined:
    return Joined(parts.before, [parts.path(rank) for rank in range(num_parts)], first)


def ready(of: Joined) -> list[tuple[int, bool]]:
    return [(found.description.num_tokens, is_old) for found, is_old in of.ready()]


# A part


def test_a_line_says_whose_it_is_and_all_that_was_written(parts: Parts):
    texts = [Description("A mug.", "stop", 3), Description("Holds tea", "length", 2)]
    written = Prediction("Mug", texts[0], texts[1:], is_shortened=True)
    with parts.begin(0) as part:
        part.add([7], [written])
        part.file.close()
    assert parts.path(0).read_text() == (
        '{"number":7,"texts":[["A mug.","stop",3],["Holds tea","length",2]],"is_shortened":true}\n'
    )
    assert Growing(parts.path(0)).next() == Numbered(7, written._replace(title=""))


def test_a_part_is_read_while_it_grows_and_line_by_whole_line(parts: Parts):
    growing = Growing(parts.path(0))
    assert growing.next() is None
    assert not growing.is_through()
    line = line_of(0, prediction(0))
    with parts.begin(0) as part:
        part.write(line[:9])
        assert growing.next() is None
        part.write(line[9:] + line_of(1, prediction(1))[:-1])
        assert numbers_of(growing) == [0]
        assert not growing.is_through()
        part.write(b"\n")
        part.close()
    assert numbers_of(growing) == [1]
    assert growing.is_through()


def numbers_of(growing: Growing) -> list[int]:
    growing.next()
    found = [each.number for each in growing.waiting]
    growing.waiting.clear()
    return found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_of_the_outputs_folder(tmp_path: Path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.jsonl").symlink_to("/dev/full")
    part = Part(tmp_path / "parts" / "0.jsonl")
    with pytest.raises(StorageError, match=f"{tmp_path} cannot be written: No space left"):
        part.add([0], [prediction(0)])


# Joining


def test_parts_are_joined_in_order_as_far_as_they_are_there(parts: Parts):
    """The worked example: 0 1 | 6 7 of the first process, 4 5 of the second, 2 3 of before."""
    of = joined(parts, 2)
    assert ready(of) == []
    write(parts, 0, [0, 1, 6, 7])
    assert ready(of) == [(0, False), (1, False)]
    assert of.unfinished() == [parts.path(1)]
    parts.before.write_bytes(b"".join(line_of(n, prediction(n)) for n in (2, 3)))
    assert ready(of) == [(2, True), (3, True)]
    assert not of.is_empty()
    write(parts, 1, [4, 5])
    assert ready(of) == [(4, False), (5, False), (6, False), (7, False)]
    assert of.is_empty()
    assert of.unfinished() == []


def test_what_the_output_has_already_is_passed_over(parts: Parts):
    write(parts, 0, [0, 1, 4, 5])
    write(parts, 1, [2, 3, 6])
    assert ready(joined(parts, 2, first=3)) == [(n, False) for n in (3, 4, 5, 6)]


# Going on


def test_nothing_is_there(parts: Parts):
    assert parts.gather(3, 9) == [(3, 9)]
    assert parts.gather(9, 9) == []
    assert not parts.folder.exists()


def gathered(parts: Parts, first: int, end: int, size: int) -> tuple[list[Run], list[int]]:
    left = parts.gather(first, end, size)
    assert parts.paths() == [parts.before]
    assert sorted(path.name for path in parts.folder.iterdir()) == ["before.jsonl"]
    return left, numbers_in(parts.before)


def test_titles_that_are_left_are_those_of_no_part(parts: Parts):
    write(parts, 0, [5, 6], is_through=False)
    write(parts, 1, [8, 9, 10])
    assert gathered(parts, 4, 12, 1) == ([(4, 5), (7, 8), (11, 12)], [5, 6, 8, 9, 10])


def test_titles_that_have_to_be_written_for_together_are_kept_together(parts: Parts):
    """The last group is smaller, and whole."""
    write(parts, 0, [5, 6])
    write(parts, 1, [8, 9, 10])
    assert gathered(parts, 4, 11, 2) == ([(4, 8)], [8, 9, 10])


def test_what_the_output_has_and_what_two_parts_have_is_kept_once(parts: Parts):
    write(parts, 0, [0, 1, 4, 5])
    write(parts, 1, [2, 3, 6])
    assert gathered(parts, 3, 9, 1) == ([(7, 9)], [3, 4, 5, 6])
    write(parts, 0, [4, 7])
    assert gathered(parts, 4, 9, 1) == ([(8, 9)], [4, 5, 6, 7])


@pytest.mark.parametrize("torn", [b'{"number":3,"te', b"\0" * 40, b"through\n"])
def test_a_torn_last_line_is_none(torn: bytes, parts: Parts):
    write(parts, 0, [0, 2], is_through=False)
    with parts.path(0).open("ab") as file:
        file.write(torn)
    assert gathered(parts, 0, 4, 1) == ([(1, 2), (3, 4)], [0, 2])


def test_a_part_that_a_process_still_writes_is_refused(parts: Parts):
    write(parts, 0, [0])
    write(parts, 1, [1])
    with (
        alone(parts.path(1), "written"),
        pytest.raises(InUseError, match=r"1\.jsonl is in use: written by process"),
    ):
        parts.gather(0, 2)
    assert parts.paths() == [parts.path(0), parts.path(1)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1, 3])
def test_commands_that_are_killed_again_and_again_write_each_title_once(
    size: int, seed: int, parts: Parts
):
    """Each with another number of processes, each of which is cut off somewhere.

    A text tells the titles that it was written for with: in groups, they are those of one process.
    """
    chance, num_titles = random.Random(seed), 40
    output: list[str] = []
    written = 0
    for _ in range(50):
        first = len(output) - len(output) % size if len(output) < num_titles else num_titles
        del output[first:]
        left = parts.gather(first, num_titles, size)
        world_size, at_a_time = chance.randint(1, 4), size * chance.randint(1, 3)
        for rank in range(world_size):
            with parts.begin(rank) as part:
                for block in Blocks(left, at_a_time, Share(rank, world_size)):
                    groups = [block[place : place + size] for place in range(0, len(block), size)]
                    for group in groups:
                        texts = [Prediction("", Description(str(group), "stop", 1))] * len(group)
                        part.add(group, texts)
                        written += len(group)
                    if chance.random() < 0.4:
                        break
                part.file.close()
            with parts.path(rank).open("rb+") as file:
                file.truncate(max(0, file.seek(0, 2) - chance.choice([0, 0, 30])))
        of = joined(parts, world_size, first)
        for found, _ in of.ready():
            output.append(found.description.text)
        if len(output) == num_titles:
            break
    groups = [range(n, min(n + size, num_titles)) for n in range(0, num_titles, size)]
    assert output == [str(group) for group in groups for _ in group]
    assert written < 3 * num_titles
