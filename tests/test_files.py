"""Files and folders are replaced whole or not at all, and nothing is left behind."""

from pathlib import Path

import pytest

from amazon_desc.errors import UserError
from amazon_desc.files import read_json, replacing_file, replacing_folder, write_text


class Killed(BaseException):
    """Stands for whatever ends a writer in the middle of its work."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, failure: type[BaseException]) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text("half of the new")
        raise failure


def write_half_of_folder(path: Path, failure: type[BaseException]) -> None:
    with replacing_folder(path) as temporary:
        (temporary / "new.bin").write_text("new")
        raise failure


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "deep" / "report.txt"
    with replacing_file(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent  # a rename needs the same file system
        assert ".tmp-" in temporary.name
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["report.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, OSError, KeyboardInterrupt, Killed])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    failure: type[BaseException], tmp_path: Path
):
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(failure):
        write_half(path, failure)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.txt"]


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing_file(path):
        pass
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old.bin").write_text("old")
    with replacing_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "new.bin").write_text("new")
        assert names(path) == ["old.bin"]
    assert names(tmp_path) == ["adapter"]
    assert names(path) == ["inner"]
    assert (path / "inner" / "new.bin").read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, Killed])
def test_a_failed_write_leaves_the_old_folder_and_nothing_else(
    failure: type[BaseException], tmp_path: Path
):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old.bin").write_text("old")
    with pytest.raises(failure):
        write_half_of_folder(path, failure)
    assert names(tmp_path) == ["adapter"]
    assert (path / "old.bin").read_text() == "old"


def test_a_failed_first_write_leaves_no_folder(tmp_path: Path):
    with pytest.raises(Killed):
        write_half_of_folder(tmp_path / "adapter", Killed)
    assert names(tmp_path) == []


def test_a_text_is_written_as_utf8(tmp_path: Path):
    write_text(tmp_path / "a.txt", "Título: “Mug”\n")
    assert (tmp_path / "a.txt").read_bytes() == b"T\xc3\xadtulo: \xe2\x80\x9cMug\xe2\x80\x9d\n"
    assert names(tmp_path) == ["a.txt"]


def test_json_is_read_or_refused_with_the_place_of_the_damage(tmp_path: Path):
    file = tmp_path / "run.json"
    file.write_text('{"finished": "today"}')
    assert read_json(file) == {"finished": "today"}
    for damaged, found in ((b'{"finished"', "line 1 column 12"), (b"\xff", "utf-8"), (b"", "char")):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"run\.json is damaged: wanted JSON") as error:
            read_json(file)
        assert found in str(error.value)
