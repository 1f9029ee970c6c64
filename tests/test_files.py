"""Files and folders are replaced whole or not at all, and nothing is left behind."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amazon_desc.errors import DataError, StorageError, UserError
from amazon_desc.files import (
    empty_folder_removed,
    one_at_a_time,
    read_json,
    remove_leftovers,
    replacing_file,
    replacing_folder,
    storage,
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


def test_leftovers_of_a_killed_writer_are_those_that_are_removed(tmp_path: Path):
    """Whatever names the writers choose: here they are killed between all of their steps."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from amazon_desc.files import replacing_file, replacing_folder\n"
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


# One process at a time


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


HOLDER = """
import sys
from pathlib import Path
from amazon_desc.files import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), say=lambda text: print(text, flush=True)):
    print("in", flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""


class Holder:
    """A process that is in a block of one_at_a_time for a path until it gets a line."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def says(self) -> str:
        """Returns the next line that it prints; it fails when there is none within 20 seconds."""
        assert self.process.stdout is not None
        timer = threading.Timer(20, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().rstrip()
        finally:
            timer.cancel()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=20)


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    """Those that a test starts, ended with it."""
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def hold(path: Path, holders: list[Holder]) -> Holder:
    holders.append(Holder(path))
    return holders[-1]


def waiting(path: Path) -> str:
    return f"Another process is at work on {path}; waiting for it."


def one_that_waits_for_another(path: Path, holders: list[Holder]) -> tuple[Holder, Holder]:
    """Returns the one that is in, and the one that waits for it."""
    first = hold(path, holders)
    assert first.says() == "in"
    second = hold(path, holders)
    assert second.says() == waiting(path)
    return first, second


def test_a_second_process_waits_and_says_so(tmp_path: Path, holders: list[Holder]):
    first, second = one_that_waits_for_another(tmp_path / "corpus", holders)
    first.leave()
    assert second.says() == "in"  # and not before: it had said that it waits
    second.leave()
    assert (first.process.returncode, second.process.returncode) == (0, 0)
    assert names(tmp_path) == []


def test_many_processes_are_never_in_at_the_same_time(tmp_path: Path):
    """Each of four comes and goes as often as it can; while it is in it is alone."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from amazon_desc.files import one_at_a_time\n"
        "path, name = Path(sys.argv[1]), sys.argv[2]\n"
        "for _ in range(1000):\n"
        "    with one_at_a_time(path, lambda _: None), open(path, 'a') as log:\n"
        "        for _ in range(2):\n"
        "            print(name, end='', file=log, flush=True)\n"
    )
    path = tmp_path / "corpus"
    command = [sys.executable, "-c", script, path]
    started = [subprocess.Popen([*command, name], env=environment()) for name in "abcd"]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0, 0]
    log = path.read_text()
    assert sorted(log) == sorted("abcd" * 2000)
    assert log[::2] == log[1::2]
    assert names(tmp_path) == ["corpus"]


def test_nobody_waits_for_another_path_or_for_one_who_is_done(
    tmp_path: Path, holders: list[Holder]
):
    first, other = hold(tmp_path / "corpus", holders), hold(tmp_path / "other", holders)
    assert first.says() == "in"
    assert other.says() == "in"
    first.leave()
    said: list[str] = []
    for _ in range(2):
        with one_at_a_time(tmp_path / "corpus", said.append):
            pass
    assert said == []


def test_a_killed_process_holds_nobody_up(tmp_path: Path, holders: list[Holder]):
    first, second = one_that_waits_for_another(tmp_path / "corpus", holders)
    first.process.send_signal(signal.SIGKILL)
    assert second.says() == "in"


def test_who_fails_in_the_block_holds_nobody_up(tmp_path: Path, holders: list[Holder]):
    path = tmp_path / "corpus"
    with pytest.raises(Killed), one_at_a_time(path, print):
        raise Killed
    assert hold(path, holders).says() == "in"


@pytest.mark.parametrize("failure", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
@pytest.mark.parametrize("left", [None, "", "4242\nanother-host\n"])
def test_without_locks_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str | None, failure: int
):
    """Some network file systems have none; a lost machine may have left the lock's file there."""
    fcntl = pytest.importorskip("fcntl")

    def no_lock(*_: object) -> None:
        raise OSError(failure, os.strerror(failure))

    def refuse(text: str) -> None:
        raise AssertionError(text)

    if left is not None:
        (tmp_path / ".lock-corpus").write_text(left)
    monkeypatch.setattr(fcntl, "flock", no_lock)
    for _ in range(2):
        with one_at_a_time(tmp_path / "corpus", refuse):
            (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus").rmdir()


# What turns out to be empty


def test_a_folder_in_which_nothing_was_put_is_removed(tmp_path: Path):
    folder = tmp_path / "deep" / "run"
    with empty_folder_removed(folder):
        assert names(folder) == []
    assert names(tmp_path / "deep") == []
    with pytest.raises(Killed), empty_folder_removed(folder):
        raise Killed
    assert names(tmp_path / "deep") == []


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
