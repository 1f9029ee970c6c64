"""What is pushed is what export wrote and nothing else, once, however often it broke."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amazon_desc.export import hub as exporting
from amazon_desc.export.folders import MANIFEST, Contents, write_export
from amazon_desc.export.hub import push
from amazon_desc.support.errors import CheckpointError, UserError
from tests.conftest import SCRIPTS, Ended, talk_to
from tests.hub_upload_stand_in import SIGNATURE, Fault, Repo, UploadHub

TOKEN = "hf_not_a_real_token_of_me"
WEIGHTS = {f"model-0000{n}-of-00003.safetensors": bytes([n]) * 200_000 for n in (1, 2, 3)}
SMALL = {"README.md": b"---\nlibrary_name: transformers\n---\n# Card\n", "config.json": b"{}"}
FILES = WEIGHTS | SMALL


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    from huggingface_hub import close_session

    with UploadHub(tmp_path / "hf_home") as stand_in:
        stand_in.writers[TOKEN] = "me"
        talk_to(stand_in, monkeypatch)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        close_session()
        yield stand_in
        close_session()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    def write(folder: Path) -> None:
        for name, content in FILES.items():
            (folder / name).write_bytes(content)

    folder = tmp_path / "shop-merged"
    write_export(folder, {"form": "merged"}, lambda: Contents(600_000, write))
    return folder


def go(source: Path, repo: str = "me/shop", *, is_public: bool = False) -> None:
    push(source, repo, is_public=is_public, is_sure=True)


def test_all_that_export_wrote_arrives_in_one_commit_for_its_owner_alone(
    hub: UploadHub, source: Path, capsys: pytest.CaptureFixture[str]
):
    go(source)
    repo = hub.repos["me/shop"]
    assert repo.private
    assert len(repo.commits) == 1
    assert repo.files == {**FILES, MANIFEST: (source / MANIFEST).read_bytes()}
    out = capsys.readouterr().out
    assert "  model-00001-of-00003.safetensors  0.2 MB\n" in out
    assert "6 files, 0.6 MB, to https://huggingface.co/me/shop, for its owner alone" in out
    assert f"Uploaded: {hub.endpoint}/me/shop (commit {repo.commits[0][:12]})" in out


def test_a_storage_of_another_origin_never_sees_the_token(
    hub: UploadHub, source: Path, capfd: pytest.CaptureFixture[str]
):
    go(source)
    assert [asked.has_token for asked in hub.steps("put")] == [False] * 3
    assert all(asked.has_token for asked in hub.steps("batch") + hub.steps("commit"))
    assert TOKEN not in "".join(capfd.readouterr())


def test_nothing_else_goes(hub: UploadHub, source: Path, capsys: pytest.CaptureFixture[str]):
    (source / "customers.csv").write_text("secret")
    (source / ".env").write_text("secret")
    go(source)
    assert set(hub.repos["me/shop"].files) == {*FILES, MANIFEST}
    assert "Not uploaded, since export did not write it: .env, customers.csv." in (
        capsys.readouterr().out
    )


def test_public_is_what_is_asked_for_only(hub: UploadHub, source: Path):
    go(source, is_public=True)
    assert not hub.repos["me/shop"].private
    with pytest.raises(UserError, match="wanted a private repository, found one that all can see"):
        go(source)
    assert len(hub.repos["me/shop"].commits) == 1


def test_the_same_again_sends_nothing(hub: UploadHub, source: Path):
    go(source)
    go(source)
    assert len(hub.steps("put")) == 3


def test_weights_of_before_are_not_left_beside_new_ones(hub: UploadHub, source: Path):
    """transformers would take one model.safetensors before the shards that the index names."""
    hub.repos["me/shop"] = Repo(True, {"model.safetensors": b"old"})
    with pytest.raises(UserError, match=r"found model\.safetensors there, which would be loaded"):
        go(source)
    assert not hub.storage
    assert hub.repos["me/shop"].files == {"model.safetensors": b"old"}


def test_a_file_that_the_hub_ignores_is_missed(hub: UploadHub, source: Path):
    hub.repos["me/shop"] = Repo(True, ignored={"config.json"})
    with pytest.raises(UserError, match=r"found config\.json left out by the \.gitignore"):
        go(source)


# Before anything is sent


def test_without_a_yes_nothing_is_sent(
    hub: UploadHub,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(UserError, match=r"found no terminal to ask on.*add --yes"):
        push(source, "me/shop", is_public=False, is_sure=False)
    monkeypatch.setattr(exporting.sys.stdin, "isatty", lambda: True)
    for answer in ("", "n", "nein"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        push(source, "me/shop", is_public=False, is_sure=False)
    assert "Nothing was uploaded." in capsys.readouterr().out
    assert hub.asked == []
    monkeypatch.setattr("builtins.input", lambda _: " Y ")
    push(source, "me/shop", is_public=False, is_sure=False)
    assert hub.repos["me/shop"].files


def test_without_a_token_nothing_is_sent(
    hub: UploadHub, source: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="in the environment as HF_TOKEN; found none"):
        go(source)
    assert hub.asked == []


@pytest.mark.parametrize("repo", [None, "shop", "me/shop/x", "../me", "https://x/me/shop"])
def test_a_repository_has_an_owner_and_a_name(repo: str | None, hub: UploadHub, source: Path):
    with pytest.raises(UserError, match=r"--to hub: wanted --from FOLDER and --repo NAME/MODEL"):
        push(source, repo, is_public=False, is_sure=True)
    with pytest.raises(UserError, match="--from None"):
        push(None, "me/shop", is_public=False, is_sure=True)
    assert hub.asked == []


def test_what_export_did_not_write_is_not_pushed(hub: UploadHub, source: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"found no export\.json of ours in it"):
        go(tmp_path)
    (source / "config.json").write_text("{ }")
    with pytest.raises(CheckpointError, match=r"config\.json has 3 bytes, wanted 2"):
        go(source)
    assert hub.asked == []


# What goes wrong


@pytest.mark.parametrize("step", ["create", "preupload", "batch", "put", "commit"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "is no valid token"),
        (403, "may not write there"),
        (413, "larger than the hub takes"),
        (404, "no such repository|status 404"),
        (400, "status 400"),
    ],
)
def test_a_refusal_says_what_to_do_and_no_secret(
    step: str, status: int, words: str, hub: UploadHub, source: Path,
    capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    hub.faults.append(Fault(step, status))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=words) as refused:
        go(source)
    shown = str(refused.value) + "".join(capfd.readouterr())
    assert SIGNATURE not in shown
    assert TOKEN not in shown
    assert not hub.repos.get("me/shop", Repo(True)).files
    hub.faults.clear()
    go(source)
    assert set(hub.repos["me/shop"].files) == {*FILES, MANIFEST}


def test_the_account_of_somebody_else_is_refused(hub: UploadHub, source: Path):
    with pytest.raises(UserError, match=r"HF_TOKEN may not write there.*of your own account"):
        go(source, "somebody/shop")
    hub.writers.clear()
    with pytest.raises(UserError, match="HF_TOKEN in the environment is no valid token"):
        go(source)


@pytest.mark.parametrize("step", ["create", "preupload", "batch", "put", "commit"])
def test_a_connection_that_breaks_once_is_made_again_or_said(
    step: str, hub: UploadHub, source: Path
):
    hub.faults.append(Fault(step, "broken", times=1))  # pyright: ignore[reportArgumentType]
    is_made_again = step in ("preupload", "batch", "put")  # which the library does itself
    if not is_made_again:
        with pytest.raises(UserError, match=r"connection to the hub broke.*same command again"):
            go(source)
        assert not hub.repos.get("me/shop", Repo(True)).files
    go(source)
    assert set(hub.repos["me/shop"].files) == {*FILES, MANIFEST}


def test_what_has_arrived_of_an_upload_that_broke_is_not_sent_again(hub: UploadHub, source: Path):
    hub.faults.append(Fault("commit", 500))
    with pytest.raises(UserError, match=r"status 500.*what has arrived is not sent a second time"):
        go(source)
    assert len(hub.storage) == 3
    hub.faults.clear()
    go(source)
    assert sorted(asked.what for asked in hub.steps("put")) == sorted(hub.storage)
    assert len(hub.repos["me/shop"].commits) == 1


def test_a_hub_that_is_gone_is_said(hub: UploadHub, source: Path):
    hub.__exit__()
    with pytest.raises(UserError, match=r"connection to the hub broke, or there is none.*again"):
        go(source)


@pytest.mark.slow
def test_an_upload_that_is_killed_goes_on_where_it_was(
    hub: UploadHub, source: Path, run_program: Callable[..., Ended]
):
    """While a shard is half sent: readers see nothing, and only what is missing is sent."""
    command = [sys.executable, str(SCRIPTS / "export.py"), "any", "--to", "hub", "--yes"]
    command += ["--from", str(source), "--repo", "me/shop"]
    first = sorted(WEIGHTS)[0]
    hub.storage[hashlib.sha256(WEIGHTS[first]).hexdigest()] = WEIGHTS[first]
    hub.faults.append(Fault("put", "hanging", times=1))
    environment = {**os.environ, **hub.environment(), "HF_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, cwd=SCRIPTS.parent) as process:
        assert hub.reached.wait(60)
        process.send_signal(signal.SIGKILL)
    assert not hub.repos["me/shop"].files
    before = len(hub.storage)
    done = run_program(*command[1:], cwd=SCRIPTS.parent)
    assert done.returncode == 0, done.stderr
    assert set(hub.repos["me/shop"].files) == {*FILES, MANIFEST}
    assert before >= 1
    sent = [asked.what for asked in hub.steps("put") if asked.status == 200]
    assert len(sent) == len(set(sent)) == 2  # the first one was there
    assert TOKEN not in done.stdout + done.stderr
