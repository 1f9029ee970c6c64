"""An export's folder is whole or not there, and nobody else's folder is ever replaced."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.export import folders
from amazon_desc.export.folders import (
    MANIFEST,
    Contents,
    flaw_of,
    read_manifest,
    size,
    write_export,
)
from amazon_desc.support.errors import InUseError, StorageError, UserError

MADE_OF = {"form": "merged", "adapter": "a" * 64, "dtype": "bfloat16"}


def contents(text: str = "weights", num_bytes: int = 7) -> Callable[[], Contents]:
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "config.json").write_text("{}")

    return lambda: Contents(num_bytes, write)


def never() -> Contents:
    raise AssertionError("it was there already")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "exports" / "shop"
    assert write_export(folder, MADE_OF, contents())
    return folder


def test_a_manifest_holds_what_it_is_made_of_and_each_files_digest(there: Path):
    manifest = json.loads((there / MANIFEST).read_text())
    assert manifest["made_of"] == MADE_OF
    assert manifest["files"] == {
        "sub/config.json": {
            "bytes": 2,
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        },
        "weights.bin": {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
    }
    assert flaw_of(there, manifest) is None
    assert names(there.parent) == ["shop"]


def test_the_same_is_not_written_twice(there: Path):
    before = (there / "weights.bin").stat().st_mtime_ns
    assert not write_export(there, dict(MADE_OF), never)
    assert not write_export(there, dict(MADE_OF), never, overwrite=True)
    assert (there / "weights.bin").stat().st_mtime_ns == before


def test_another_export_is_replaced_only_when_that_is_asked_for(there: Path):
    other = {**MADE_OF, "dtype": "float32"}
    with pytest.raises(UserError, match=r"another export there \(its dtype differs\).*--overwrite"):
        write_export(there, other, never)
    assert (there / "weights.bin").read_text() == "weights"
    assert write_export(there, other, contents("others"), overwrite=True)
    assert (there / "weights.bin").read_text() == "others"
    assert names(there.parent) == ["shop"]


def test_an_export_that_was_changed_is_not_taken_for_whole(there: Path):
    (there / "weights.bin").write_text("Weights")
    with pytest.raises(UserError, match=r"changed since \(weights.bin has other bytes\)"):
        write_export(there, MADE_OF, never)
    (there / "weights.bin").unlink()
    with pytest.raises(UserError, match=r"changed since \(weights.bin is missing\)"):
        write_export(there, MADE_OF, never)
    assert write_export(there, MADE_OF, contents(), overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_export_did_not_write_is_never_replaced(overwrite: bool, tmp_path: Path, there: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    for folder in (mine, mine / "thesis.txt"):
        with pytest.raises(UserError, match="something else there, which is never replaced"):
            write_export(folder, MADE_OF, never, overwrite=overwrite)
    (there / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match=r"files of somebody else in it \(first: thesis.txt\)"):
        write_export(there, MADE_OF, never, overwrite=overwrite)
    assert (mine / "thesis.txt").read_text() == (there / "thesis.txt").read_text() == "years"


def test_an_empty_folder_may_be_named(tmp_path: Path):
    (tmp_path / "new").mkdir()
    assert write_export(tmp_path / "new", MADE_OF, contents())
    assert read_manifest(tmp_path / "new") is not None


def test_a_disk_without_room_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * 10**9)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage)

    def never_written(folder: Path) -> None:
        raise AssertionError

    with pytest.raises(StorageError) as refused:
        write_export(tmp_path / "new", MADE_OF, lambda: Contents(8 * 10**9, never_written))
    assert "wanted 8.02 GB of free disk (8,016,777,216 bytes), found 3.00 GB (3,000,000,000" in str(
        refused.value
    )
    assert names(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SystemExit])
def test_half_of_an_export_never_gets_its_name(failure: Any, tmp_path: Path):
    def half(folder: Path) -> None:
        (folder / "weights.bin").write_text("wei")
        raise failure

    wanted = StorageError if isinstance(failure, OSError) else SystemExit
    with pytest.raises(wanted) as raised:
        write_export(tmp_path / "new", MADE_OF, lambda: Contents(7, half))
    if wanted is StorageError:
        assert "No space left on device (" in str(raised.value)
        assert "name another --output" in str(raised.value)
    assert names(tmp_path) == []


def test_a_folder_that_was_made_for_a_refused_export_goes_and_no_other(tmp_path: Path):
    def refused() -> Contents:
        raise UserError("no")

    for name in ("runs/exports/new", "new"):
        with pytest.raises(UserError, match="no"):
            write_export(tmp_path / name, MADE_OF, refused)
        assert names(tmp_path) == []


def test_what_a_killed_export_left_is_removed(tmp_path: Path):
    half = tmp_path / ".tmp-99999-new"
    half.mkdir()
    (half / "weights.bin").write_text("wei")
    assert write_export(tmp_path / "new", MADE_OF, contents())
    assert names(tmp_path) == ["new"]


def test_two_exports_do_not_write_one_folder(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from amazon_desc.support.locks import alone\n"
        f"with alone(Path({str(tmp_path / 'new')!r}), 'written'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match="is in use: written by"):
            write_export(tmp_path / "new", MADE_OF, never)
        holder.communicate("")
    assert write_export(tmp_path / "new", MADE_OF, contents())


def test_sizes_are_read_at_a_glance():
    assert [size(n) for n in (0, 629_744, 2_200_000_000)] == ["0.0 MB", "0.6 MB", "2.20 GB"]
