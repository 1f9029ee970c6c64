"""Files and folders are replaced whole or not at all, and nothing is left behind."""

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from amazon_desc.support.errors import DataError, StorageError, UserError
from amazon_desc.support.files import (
    empty_folder_removed,
    read_json,
    refuse_unwritable,
    remove_leftovers,
    replacing_file,
    replacing_folder,
    storage,
    temporary_folder,
    write_text,
)


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


def test_where_no_folder_can_be_opened_files_and_folders_are_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on Windows."""
    open_file = os.open

    def refuse_folders(path: Path, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse_folders)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "report.txt", "old")
    monkeypatch.setattr(sys, "platform", "win32")
    write_text(tmp_path / "report.txt", "new")
    with replacing_folder(tmp_path / "adapter") as temporary:
        (temporary / "new.bin").write_text("new")
    assert (tmp_path / "report.txt").read_text() == "new"
    assert names(tmp_path / "adapter") == ["new.bin"]


def folders_answer(patch: pytest.MonkeyPatch, failure: int) -> None:
    """Has every flush of a folder, and of no file, fail."""
    fsync = os.fsync

    def answer(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(failure, os.strerror(failure))
        fsync(descriptor)

    patch.setattr(os, "fsync", answer)


@pytest.mark.parametrize(
    "failure", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]
)
def test_a_file_system_that_cannot_flush_a_folder_is_written_to(
    failure: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders_answer(monkeypatch, failure)
    write_text(tmp_path / "report.txt", "new")
    with replacing_folder(tmp_path / "adapter") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "new.bin").write_text("new")
    assert (tmp_path / "report.txt").read_text() == "new"
    assert names(tmp_path / "adapter" / "inner") == ["new.bin"]
    assert names(tmp_path) == ["adapter", "report.txt"]


def test_a_disk_that_takes_bytes_and_cannot_keep_them_is_refused_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one on a network does that is full."""
    refuse_unwritable(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        refuse_unwritable(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_another_failure_to_flush_a_folder_is_a_failed_write(
    failure: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders_answer(monkeypatch, failure)
    with pytest.raises(StorageError, match="cannot be written"), storage(tmp_path):
        write_text(tmp_path / "report.txt", "new")


def test_a_full_disk_is_said_of_the_folder_that_its_user_knows(tmp_path: Path):
    """Not of one that goes with the command."""
    with (
        pytest.raises(StorageError, match=rf"^{tmp_path} cannot be written: No space left .*free"),
        temporary_folder(tmp_path / "shop.csv") as scratch,
        storage(scratch / "table"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


# What killed writers left


def test_leftovers_of_a_path_are_removed_and_nothing_else(tmp_path: Path):
    kept = ["corpus", "corpus-2", "my-corpus", ".lock-corpus", "corpus.tmp-1", "tmp-1-corpus"]
    kept += [".tmp-12-my-corpus", ".tmp-old-12-my-corpus", ".tmp-12-corpus-2", ".tmp-12-corpus.x"]
    gone = [".tmp-1-corpus", ".tmp-4194304-corpus", ".tmp-old-12-corpus"]
    for name in [*kept, *gone]:
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "half.arrow").write_text("half")
    remove_leftovers(tmp_path / "corpus")
    assert names(tmp_path) == sorted(kept)
    assert all((tmp_path / name / "inner" / "half.arrow").exists() for name in kept)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_leftovers_of_a_killed_writer_are_those_that_are_removed(tmp_path: Path):
    """Whatever names the writers choose: here they are killed between all of their steps."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from amazon_desc.support.files import replacing_file, replacing_folder\n"
        "replacing = {'file': replacing_file, 'folder': replacing_folder}[sys.argv[1]]\n"
        "with replacing(Path(sys.argv[2])) as temporary:\n"
        "    path = temporary if sys.argv[1] == 'file' else temporary / 'half'\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for kind in ("file", "folder"):
        path = tmp_path / kind
        killed = subprocess.run([sys.executable, "-c", script, kind, path], env=environment())
        assert killed.returncode == -9
        assert len(names(tmp_path)) == 1
        remove_leftovers(path)
        assert names(tmp_path) == []


def test_leftovers_of_a_path_with_odd_characters_are_removed(tmp_path: Path):
    (tmp_path / ".tmp-1-run[1]*").mkdir()
    (tmp_path / ".tmp-1-run1x").mkdir()
    remove_leftovers(tmp_path / "run[1]*")
    assert names(tmp_path) == [".tmp-1-run1x"]


def test_no_leftovers_are_no_failure(tmp_path: Path):
    remove_leftovers(tmp_path / "corpus")
    remove_leftovers(tmp_path / "no folder" / "corpus")
    assert names(tmp_path) == []


# What turns out to be empty


def test_a_folder_in_which_nothing_was_put_is_removed(tmp_path: Path):
    folder = tmp_path / "deep" / "run"
    with empty_folder_removed(folder):
        assert names(folder) == []
    assert names(tmp_path) == []
    with pytest.raises(Killed), empty_folder_removed(folder):
        raise Killed
    assert names(tmp_path) == []


def test_a_folder_around_it_that_was_there_or_is_filled_stays(tmp_path: Path):
    (tmp_path / "old").mkdir()
    with empty_folder_removed(tmp_path / "old" / "run"):
        pass
    with empty_folder_removed(tmp_path / "new" / "deep" / "run"):
        (tmp_path / "new" / "corpora").mkdir()
    assert names(tmp_path) == ["new", "old"]
    assert names(tmp_path / "new") == ["corpora"]


def test_a_folder_in_which_something_is_stays(tmp_path: Path):
    for name in ("old.txt", "new.txt"):
        with empty_folder_removed(tmp_path / "run"):
            (tmp_path / "run" / name).touch()
    with pytest.raises(Killed), empty_folder_removed(tmp_path / "run"):
        raise Killed
    assert names(tmp_path / "run") == ["new.txt", "old.txt"]


# What the disk refuses


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x.arrow"), "Disk quota exceeded"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Permission denied"),
        (OSError("odd"), "odd"),
        (  # as pyarrow says it
            OSError(
                "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"
            ),
            "No space left on device",
        ),
    ],
)
def test_what_the_disk_refuses_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9e9, 8e9, 2.5e8))
    with pytest.raises(StorageError) as refusal, storage(tmp_path / "not" / "there"):
        raise error
    assert str(refusal.value) == (
        f"{tmp_path / 'not' / 'there'} cannot be written: {reason} (0.2 GB free). Make room there, "
        f"or name another folder."
    )
    assert refusal.value.exit_code == 7
    assert refusal.value.__cause__ is error


def test_the_free_space_is_that_of_the_folders_disk(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as refusal, storage(tmp_path / "not" / "there"):
        (tmp_path / "file" / "corpora").mkdir()
    found = re.search(r"written: Not a directory \((\d+\.\d) GB free\)", str(refusal.value))
    assert found
    assert float(found[1]) == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.2, abs=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_explained(tmp_path: Path):
    with (
        pytest.raises(StorageError, match=r"cannot be written: No space left on device \(\d"),
        storage(tmp_path),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)


@pytest.mark.parametrize("error", [DataError("no titles"), ValueError("odd"), KeyboardInterrupt()])
def test_what_is_not_the_disks_fault_goes_through(tmp_path: Path, error: BaseException):
    with pytest.raises(type(error)) as raised, storage(tmp_path):
        raise error
    assert raised.value is error


def test_what_the_disk_takes_goes_through(tmp_path: Path):
    with storage(tmp_path / "corpora"):
        write_text(tmp_path / "corpora" / "a.txt", "whole")
    assert (tmp_path / "corpora" / "a.txt").read_text() == "whole"
