"""Digests: a file is what it contains, and is read again only when it may have changed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.support import digests
from amazon_desc.support.digests import Use, Verify, describe_file, remember, sha256_of
from amazon_desc.support.errors import DataError

# As sha256sum prints them.
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
SHA256_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content was read."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(digests, "sha256_of", noted)
    return names


@pytest.fixture
def products(tmp_path: Path) -> Path:
    path = tmp_path / "trn.json"
    path.write_bytes(b"abc")
    return path


@pytest.fixture
def known_files(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "known_files.json"


def described(path: Path, use: Use, known_files: Path, verify: Verify) -> dict[str, Any]:
    """Describes a file and keeps what was found out, as every run does."""
    file = describe_file(path, use, known_files, verify)
    remember([file], known_files)
    return file


def test_sha256_is_that_of_the_content(products: Path, tmp_path: Path):
    assert sha256_of(products) == SHA256_OF_ABC
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty") == SHA256_OF_NOTHING


def test_a_file_is_described(products: Path, known_files: Path):
    os.utime(products, ns=(5, 1_700_000_000_123_456_789))
    assert described(products, "train", known_files, "changed") == {
        "use": "train",
        "path": str(products),
        "bytes": 3,
        "mtime_ns": 1_700_000_000_123_456_789,
        "sha256": SHA256_OF_ABC,
    }
    assert json.loads(known_files.read_text()) == [
        {
            "path": str(products),
            "bytes": 3,
            "mtime_ns": 1_700_000_000_123_456_789,
            "sha256": SHA256_OF_ABC,
        }
    ]
    assert [path.name for path in known_files.parent.iterdir()] == ["known_files.json"]


def test_nothing_is_written_until_it_is_to_be_kept_or_when_it_is_known(
    products: Path, known_files: Path
):
    file = describe_file(products, "train", known_files, "changed")
    assert not known_files.exists()
    remember([file], known_files)
    os.utime(known_files, ns=(5, 7))
    remember([{**file, "use": "test"}], known_files)
    described(products, "train", known_files, "always")
    assert known_files.stat().st_mtime_ns == 7


def test_several_files_are_kept_together(products: Path, known_files: Path, read: list[str]):
    others = [products.with_name(f"{number}.json") for number in range(3)]
    for number, path in enumerate(others):
        path.write_bytes(b"abc" * number)
    described(products, "train", known_files, "changed")
    for _ in range(2):
        files = [describe_file(path, "train", known_files, "changed") for path in others]
        remember(files, known_files)
    assert read == ["trn.json", "0.json", "1.json", "2.json"]
    known = [Path(file["path"]).name for file in json.loads(known_files.read_text())]
    assert known == read


def test_a_relative_path_is_the_same_file(
    products: Path, known_files: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(products.parent)
    file = described(Path("trn.json"), "train", known_files, "changed")
    assert described(products, "train", known_files, "changed") == file
    assert file["path"] == str(products)
    assert read == ["trn.json"]


def test_a_file_is_read_once_for_every_use(products: Path, known_files: Path, read: list[str]):
    first = described(products, "train", known_files, "changed")
    for use in ("train", "test", "train"):
        again = described(products, use, known_files, "changed")
        assert again == {**first, "use": use}
    assert read == ["trn.json"]


def test_always_reads_the_file_again(products: Path, known_files: Path, read: list[str]):
    for _ in range(3):
        file = described(products, "train", known_files, "always")
        assert file["sha256"] == SHA256_OF_ABC
    assert read == ["trn.json"] * 3
    described(products, "train", known_files, "changed")
    assert read == ["trn.json"] * 3
    assert len(json.loads(known_files.read_text())) == 1


def test_always_finds_a_change_that_size_and_time_hide(products: Path, known_files: Path):
    os.utime(products, ns=(5, 7))
    described(products, "train", known_files, "changed")
    products.write_bytes(b"abd")
    os.utime(products, ns=(5, 7))
    unnoticed = described(products, "train", known_files, "changed")
    assert unnoticed["sha256"] == SHA256_OF_ABC
    found = described(products, "train", known_files, "always")
    assert found["sha256"] == sha256_of(products) != SHA256_OF_ABC
    assert described(products, "train", known_files, "changed") == found


@pytest.mark.parametrize("change", ["size", "time", "both"])
def test_a_changed_size_or_time_has_the_file_read_again(
    products: Path, known_files: Path, read: list[str], change: str
):
    os.utime(products, ns=(5, 7))
    described(products, "train", known_files, "changed")
    if change != "time":
        products.write_bytes(b"abcd")
    os.utime(products, ns=(5, 7 if change == "size" else 8))
    file = described(products, "train", known_files, "changed")
    assert file["sha256"] == sha256_of(products)
    assert (file["bytes"], file["mtime_ns"]) == (
        3 if change == "time" else 4,
        7 if change == "size" else 8,
    )
    described(products, "train", known_files, "changed")
    assert read == ["trn.json"] * 2
    assert len(json.loads(known_files.read_text())) == 1  # what it was is forgotten


def test_a_copy_is_read_once_more_and_is_the_same(
    products: Path, known_files: Path, read: list[str], tmp_path: Path
):
    copy = tmp_path / "copy.json"
    copy.write_bytes(products.read_bytes())
    for _ in range(2):
        for path in (products, copy):
            file = described(path, "train", known_files, "changed")
            assert file["sha256"] == SHA256_OF_ABC
    assert read == ["trn.json", "copy.json"]
    assert [known["path"] for known in json.loads(known_files.read_text())] == [
        str(products),
        str(copy),
    ]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[",
        b"\xff\xfe",
        b"null",
        b"5",
        b'"text"',
        b"{}",
        b'{"path": 1}',
        b"[null, 5, {}, [], {}]",
        b'[{"path": "trn.json"}]',
    ],
    ids=repr,
)
def test_a_damaged_note_of_known_files_costs_only_time(
    products: Path, known_files: Path, read: list[str], damaged: bytes
):
    known_files.parent.mkdir()
    known_files.write_bytes(damaged)
    for _ in range(2):
        file = described(products, "train", known_files, "changed")
        assert file["sha256"] == SHA256_OF_ABC
    assert read == ["trn.json"]
    assert [known["path"] for known in json.loads(known_files.read_text())] == [str(products)]


def test_a_missing_note_of_known_files_costs_only_time(
    products: Path, known_files: Path, read: list[str]
):
    first = described(products, "train", known_files, "changed")
    known_files.unlink()
    assert described(products, "train", known_files, "changed") == first
    assert read == ["trn.json"] * 2


def refusal(path: Path, use: Any, known_files: Path) -> str:
    with pytest.raises(DataError) as error:
        described(path, use, known_files, "changed")
    assert error.value.exit_code == 3
    assert not known_files.exists()
    return str(error.value)


def test_a_missing_file_is_refused_with_where_it_was_looked_for(
    known_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert refusal(Path("no.json"), "train", known_files) == (
        f"--data.train_file no.json: no such file (looked for {tmp_path / 'no.json'}). Name a file "
        f"of products, or `sample` for the invented ones that ship with the package."
    )
    assert refusal(Path("no.json"), "test", known_files).startswith("--data.test_file no.json: no")


def test_a_folder_is_refused(known_files: Path, tmp_path: Path):
    assert refusal(tmp_path, "test", known_files) == (
        f"--data.test_file {tmp_path}: wanted a file of products, found a directory. Name the file "
        f"in it (for example trn.json.gz)."
    )


@pytest.mark.parametrize(
    "name", ["x" * 300, "nul\0.json", "trn.json/trn.json.gz"], ids=["too long", "odd", "no folder"]
)
def test_a_path_that_cannot_be_looked_at_is_refused(
    products: Path, known_files: Path, tmp_path: Path, name: str
):
    assert refusal(tmp_path / name, "train", known_files).startswith("--data.train_file ")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file nobody can read")
def test_a_file_that_cannot_be_read_is_refused(known_files: Path):
    assert refusal(Path("/proc/self/mem"), "train", known_files) == (
        "/proc/self/mem cannot be read: [Errno 5] Input/output error. Check the file."
    )
