"""A backbone's name becomes a folder, or a sentence that says how to get one."""

import shutil
from pathlib import Path

import pytest

from amazon_desc import hub
from amazon_desc.errors import UserError
from amazon_desc.hub import Backbone, find_backbone, first_line
from amazon_desc.resources import TINY_BASE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What one test downloads is not remembered for the next."""
    hub.download.cache_clear()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny base as some/base in a local cache of the hub; returns its snapshot."""
    repo = tmp_path / "cache" / "models--some--base"
    snapshot = repo / "snapshots" / COMMIT
    shutil.copytree(TINY_BASE, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return snapshot


def test_tiny_is_the_base_that_ships_with_the_package():
    assert find_backbone("tiny") == Backbone(TINY_BASE, str(TINY_BASE), None)


def test_a_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(TINY_BASE, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    expected = Backbone(tmp_path / "base", str(tmp_path / "base"), None)
    assert find_backbone("base") == find_backbone("./base/") == expected


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_hub_id_needs_no_network_and_names_its_commit(cached: Path, revision: str | None):
    assert find_backbone("some/base", revision) == Backbone(cached, "some/base", COMMIT)


def test_a_hub_id_is_looked_up_once(cached: Path):
    assert find_backbone("some/base") is find_backbone("some/base")


def test_an_unknown_revision_is_named(cached: Path):
    with pytest.raises(UserError, match=r"--model\.backbone some/base@v9: it is not in the local"):
        find_backbone("some/base", "v9")


def test_a_download_that_was_cut_short_is_incomplete(cached: Path):
    (cached / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is incomplete: missing \*\.safetensors; found config"):
        find_backbone("some/base")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", "no such folder"),
        ("base", "no such folder"),
        ("./base", "no such folder"),
        ("../some/base", "no such folder"),
        ("/nowhere/base", "no such folder"),
        ("~/no_such_base", "no such folder"),
        ("a/b/c", "no such folder"),
        ("some base", "no such folder"),
        (__file__, "a file"),
    ],
)
def test_what_is_neither_folder_nor_hub_id_is_refused_unasked(
    name: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def download(*_: object) -> None:
        pytest.fail("asked the hub")

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.chdir(tmp_path)
    if name == "":
        name = "no_such_base"
    with pytest.raises(UserError) as error:
        find_backbone(name)
    assert str(error.value) == (
        f"--model.backbone {name}: wanted `tiny`, a folder with config.json and safetensors, "
        f"or a hub id such as TinyLlama/TinyLlama_v1.1; found {found}."
    )


@pytest.mark.parametrize("name", ["some/-base", "some/base--x", "some/base."])
def test_a_name_that_the_hub_forbids_is_refused(name: str):
    with pytest.raises(UserError, match="could not be had from the hub"):
        find_backbone(name)


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        (["config.json"], "missing config.json;"),
        (["model.safetensors"], "missing *.safetensors;"),
        (["tokenizer.json", "tokenizer.model"], "missing tokenizer.json or tokenizer.model;"),
    ],
)
def test_an_incomplete_folder_is_refused_by_what_it_lacks(
    lost: list[str], missing: str, tmp_path: Path
):
    base = tmp_path / "base"
    shutil.copytree(TINY_BASE, base)
    for name in lost:
        (base / name).unlink(missing_ok=True)
    with pytest.raises(UserError) as error:
        find_backbone(str(base))
    assert f"--model.backbone {base}: the folder is incomplete: {missing} found " in str(
        error.value
    )
    assert "Copy the base's files there, or name its hub id." in str(error.value)


def test_only_safetensors_are_ever_fetched():
    assert hub.WANTED_FILES == ["*.safetensors", "*.json", "*.model", "*.jinja"]


def test_an_error_is_told_in_one_short_line():
    assert first_line(OSError("no\nand more")) == "OSError: no"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 500)) == "ValueError: " + "x" * 160
