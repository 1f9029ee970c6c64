"""huggingface_hub meets the stand-in as it meets the hub: listings, files, refusals, faults."""

import hashlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, model_info, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_stand_in import LISTING, TREE, StandInHub

HTTP_ERROR = HfHubHTTPError.__bases__[0]  # of httpx or httpx2
TOKEN = "hf_not_a_real_token"
WEIGHTS = bytes(range(256)) * 400  # 102,400 bytes
NAMES = ["config.json", "model.bin", "onnx/model.onnx", "original/params.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'{{"in": "{name}"}}')
    (folder / "model.bin").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def hub(stand_in_hub: StandInHub, folder: Path) -> StandInHub:
    """The hub, with an open some/base."""
    stand_in_hub.publish("some/base", folder, tag="v1.1")
    return stand_in_hub


def snapshot(**settings: object) -> Path:
    return Path(snapshot_download("some/base", etag_timeout=1, **settings))  # pyright: ignore


def fetch(file: str, repo_id: str = "some/base", **settings: object) -> Path:
    return Path(hf_hub_download(repo_id, file, etag_timeout=1, **settings))  # pyright: ignore


def asked(hub: StandInHub) -> list[tuple[str, str | None, int | None]]:
    return [(request.method, request.file, request.status) for request in hub.requests]


# --- What is there


@pytest.mark.parametrize("revision", [None, "main", "v1.1", "commit"])
def test_a_model_is_described_at_each_name_of_its_commit(hub: StandInHub, revision: str | None):
    commit = hub.repos["some/base"].commit
    info = model_info("some/base", revision=commit if revision == "commit" else revision)
    assert (info.id, info.sha, info.private, info.gated) == ("some/base", commit, False, False)
    assert [file.rfilename for file in info.siblings or []] == NAMES
    assert len(commit) == 40


@pytest.mark.parametrize("revision", [None, "v1.1", "commit"])
def test_a_snapshot_has_all_files_byte_for_byte(
    hub: StandInHub, folder: Path, revision: str | None
):
    commit = hub.repos["some/base"].commit
    here = snapshot(revision=commit if revision == "commit" else revision)
    assert here == hub.home / "hub" / "models--some--base" / "snapshots" / commit
    assert sorted(p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()) == NAMES
    assert all((here / name).read_bytes() == (folder / name).read_bytes() for name in NAMES)
    assert hub.fetched("some/base") == NAMES


def test_only_what_is_asked_for_is_fetched(hub: StandInHub):
    snapshot(allow_patterns=["*.json"])
    assert hub.fetched("some/base") == ["config.json", "original/params.json"]
    before = len(hub.requests)
    snapshot(allow_patterns=["*.json"])
    assert [request.file for request in hub.requests[before:]] == [None]


def test_blobs_are_named_as_the_hub_names_them(hub: StandInHub):
    git = hashlib.sha1(b'blob 21\0{"in": "config.json"}').hexdigest()
    assert fetch("config.json").resolve().name == git
    assert fetch("model.bin").resolve().name == hashlib.sha256(WEIGHTS).hexdigest()


def test_large_files_come_from_another_origin_which_never_sees_the_token(hub: StandInHub):
    hub.tokens.add(TOKEN)
    fetch("model.bin", token=TOKEN)
    fetch("config.json", token=TOKEN)
    assert [(r.method, r.path, r.has_token, r.status) for r in hub.requests] == [
        ("HEAD", "/some/base/resolve/main/model.bin", True, 302),
        ("GET", "/cdn/some/base/model.bin", False, 200),
        ("HEAD", "/some/base/resolve/main/config.json", True, 200),
        ("GET", "/some/base/resolve/main/config.json", True, 200),
    ]
    assert TOKEN not in repr(hub.requests)


def test_a_new_commit_is_seen(hub: StandInHub, folder: Path):
    old = snapshot()
    (folder / "config.json").write_text("{}")
    hub.publish("some/base", folder)
    new = snapshot()
    assert old.name != new.name == hub.repos["some/base"].commit
    assert (new / "config.json").read_text() == "{}"


# --- Who may read what


def test_without_a_token_what_is_private_or_unknown_looks_the_same(hub: StandInHub, folder: Path):
    hub.publish("some/secret", folder, access="private")
    for name in ("some/secret", "no/such"):
        for ask in (model_info, snapshot_download, lambda name: fetch("config.json", name)):
            with pytest.raises(RepositoryNotFoundError, match="Invalid username or pass") as error:
                ask(name)
            assert error.value.response.status_code == 401


def test_with_a_token_they_are_not_found(hub: StandInHub, folder: Path):
    hub.publish("some/secret", folder, access="private")
    hub.tokens.add(TOKEN)
    for name in ("some/secret", "no/such"):
        with pytest.raises(RepositoryNotFoundError, match="Repository Not Found") as error:
            model_info(name, token=TOKEN)
        assert error.value.response.status_code == 404
    hub.accept(TOKEN, "some/secret")
    assert model_info("some/secret", token=TOKEN).private is True
    assert fetch("model.bin", "some/secret", token=TOKEN).read_bytes() == WEIGHTS


def test_a_gated_model_is_listed_for_all_and_its_files_are_for_those_who_accepted(
    hub: StandInHub, folder: Path
):
    hub.publish("some/gated", folder, access="gated")
    assert model_info("some/gated").gated == "manual"
    for token in (False, "hf_unknown"):
        with pytest.raises(GatedRepoError, match=r"is restricted\. You must have") as error:
            fetch("config.json", "some/gated", token=token)
        assert error.value.response.status_code == 401
    with pytest.raises(GatedRepoError, match="is restricted"):
        snapshot_download("some/gated")
    hub.tokens.add(TOKEN)
    assert model_info("some/gated", token=TOKEN).gated == "manual"
    with pytest.raises(GatedRepoError, match="not in the authorized list") as error:
        fetch("config.json", "some/gated", token=TOKEN)
    assert error.value.response.status_code == 403
    assert hub.fetched("some/gated") == []
    hub.accept(TOKEN, "some/gated")
    assert fetch("model.bin", "some/gated", token=TOKEN).read_bytes() == WEIGHTS


def test_a_token_that_is_not_valid_is_refused_even_for_what_is_open(hub: StandInHub):
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Auth") as error:
        model_info("some/base", token="hf_revoked")
    assert (type(error.value), error.value.response.status_code) == (HfHubHTTPError, 401)


def test_an_unknown_revision_and_an_unknown_file_are_told_apart(hub: StandInHub):
    for ask in (model_info, snapshot_download):
        with pytest.raises(RevisionNotFoundError, match="Invalid rev id: v9"):
            ask("some/base", revision="v9")
    with pytest.raises(RevisionNotFoundError):
        fetch("config.json", revision="v9")
    with pytest.raises(RemoteEntryNotFoundError, match="Entry Not Found"):
        fetch("no.json")


def test_a_token_of_the_environment_is_used_only_where_a_test_sets_it(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
):
    assert "HF_TOKEN" not in os.environ
    model_info("some/base")
    hub.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model_info("some/base")
    assert [request.has_token for request in hub.requests] == [False, True]


# --- What a network does


@pytest.mark.slow
def test_a_slow_download_succeeds(hub: StandInHub):
    hub.fault("some/base", "slow", "*.bin", seconds=1.5)
    begun = time.monotonic()
    assert fetch("model.bin").read_bytes() == WEIGHTS
    assert 1.4 < time.monotonic() - begun < 10


def test_a_broken_download_is_resumed_where_it_broke(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
):
    # The library keeps whole chunks only, of 10 MB unless told otherwise.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    hub.fault("some/base", "broken", "model.bin", times=2)
    assert fetch("model.bin").read_bytes() == WEIGHTS
    assert asked(hub)[1:] == [("GET", "model.bin", s) for s in (200, 206, 206)]


def test_a_download_that_breaks_always_fails(hub: StandInHub):
    hub.fault("some/base", "broken", "model.bin")
    with pytest.raises(HTTP_ERROR, match="closed connection"):
        fetch("model.bin")
    assert asked(hub)[1:] == [("GET", "model.bin", 200)] * 6
    assert fetch("config.json").is_file()


def test_a_download_that_falls_silent_is_resumed(hub: StandInHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.fault("some/base", "hanging", "model.bin", times=1)
    assert fetch("model.bin").read_bytes() == WEIGHTS
    assert asked(hub)[1:] == [("GET", "model.bin", 200), ("GET", "model.bin", 206)]


def test_a_listing_that_is_never_answered_times_out(hub: StandInHub):
    hub.fault("some/base", "stalled", LISTING)
    with pytest.raises(HTTP_ERROR, match="timed out"):
        model_info("some/base", timeout=0.5)
    assert asked(hub) == [("GET", None, None)]
    assert fetch("config.json").is_file()


def test_a_tree_can_fail_alone(hub: StandInHub):
    hub.fault("some/base", "error", TREE, status=501)
    assert model_info("some/base").id == "some/base"
    with pytest.raises(HfHubHTTPError, match="501"):
        HfApi().list_repo_files("some/base", revision="v1.1")
    assert fetch("config.json").is_file()


def test_a_file_that_is_never_answered_times_out(hub: StandInHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.1)
    hub.fault("some/base", "stalled", "config.json")
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download("some/base", "config.json", etag_timeout=0.1)
    assert set(asked(hub)) == {("HEAD", "config.json", None)}


def test_errors_of_the_server_are_tried_again_and_then_told(hub: StandInHub):
    hub.fault("some/base", "error", LISTING, times=1, status=500)
    with pytest.raises(HfHubHTTPError, match="500"):
        model_info("some/base")
    hub.fault("some/base", "error", "config.json", method="HEAD", times=2)
    assert fetch("config.json").is_file()
    statuses = [("HEAD", 503), ("HEAD", 503), ("HEAD", 200), ("GET", 200)]
    assert [(r.method, r.status) for r in hub.requests[1:]] == statuses
    hub.fault("some/base", "error", "*", method="GET")
    with pytest.raises(HfHubHTTPError, match="503"):
        fetch("model.bin")


def test_a_file_that_is_shorter_than_announced_is_noticed(hub: StandInHub):
    hub.fault("some/base", "short", "model.bin", times=1)
    with pytest.raises(OSError, match="should be of size 102400 but has size 51200"):
        fetch("model.bin")
    assert fetch("model.bin").read_bytes() == WEIGHTS


def test_a_hub_that_is_gone_leaves_the_cache(hub: StandInHub):
    cached = snapshot()
    hub.close()
    assert snapshot() == cached
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("some/other")


# --- Other processes


def test_another_process_downloads_with_the_environment(hub: StandInHub, tmp_path: Path):
    code = "import huggingface_hub as h; print(h.snapshot_download('some/base'))"
    environment = {**os.environ, **hub.environment()}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    here = Path(run.stdout.strip().splitlines()[-1])
    assert here.is_relative_to(hub.home)
    assert (here / "model.bin").read_bytes() == WEIGHTS
    assert {r.path.split("/")[1] for r in hub.requests} == {"api", "some", "cdn"}


def test_it_is_served_by_hand_too(folder: Path):
    script = Path(__file__).with_name("hub_stand_in.py")
    command = [sys.executable, "-I", script, f"some/base={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            line = next(line for line in lines if line.startswith("HF_ENDPOINT=http://127.0.0.1:"))
            address = f"{line.strip().partition('=')[2]}/some/base/resolve/v1.1/model.bin"
            with urllib.request.urlopen(address.replace("v1.1", "main"), timeout=10) as answer:
                assert answer.read() == WEIGHTS
        finally:
            process.terminate()
