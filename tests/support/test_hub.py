"""A model's name becomes a folder, or a sentence: how to get one, or what it is instead."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amazon_desc.support import hub
from amazon_desc.support.errors import StorageError, UserError
from amazon_desc.support.hub import Backbone, find_adapter, find_backbone, first_line
from amazon_desc.support.layouts import small_files, weight_files, weights_entry
from amazon_desc.support.resources import TINY_BASE
from tests import published_layouts as layouts
from tests.conftest import forget_downloads, slow_case
from tests.hub_stand_in import LISTING, StandInHub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    forget_downloads()


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
    assert find_backbone("some/base") == find_backbone("some/base")
    assert hub.download_base.cache_info()[:2] == (1, 1)  # one of them was remembered


def test_an_unknown_revision_is_named(cached: Path):
    with pytest.raises(UserError, match=r"--model\.backbone some/base@v9: it is not in the local"):
        find_backbone("some/base", "v9")


def test_a_download_that_was_cut_short_is_incomplete(cached: Path):
    (cached / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"some/base: it is incomplete: .* found config\.json"):
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

    monkeypatch.setattr(hub, "download_base", download)
    monkeypatch.chdir(tmp_path)
    if name == "":
        name = "no_such_base"
    with pytest.raises(UserError) as error:
        find_backbone(name)
    assert str(error.value) == (
        f"--model.backbone {name}: wanted `tiny`, a folder with config.json, weights and "
        f"tokenizer, or a hub id such as TinyLlama/TinyLlama_v1.1; found {found}."
    )


@pytest.mark.parametrize("name", ["some/-base", "some/base--x", "some/base."])
def test_a_name_that_the_hub_forbids_is_refused(name: str):
    with pytest.raises(UserError, match="could not be had from the hub"):
        find_backbone(name)


# What a folder or a repository holds


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        (["config.json"], "missing config.json;"),
        (
            ["model.safetensors"],
            "missing its weights (model.safetensors or pytorch_model.bin);",
        ),
        (
            ["tokenizer.json", "tokenizer.model"],
            "missing a tokenizer (tokenizer.json or tokenizer.model);",
        ),
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
    assert f"--model.backbone {base}: it is incomplete: {missing} found " in str(error.value)
    assert "Put the missing files of the base into its folder" in str(error.value)


def test_a_shard_that_is_missing_is_named(tmp_path: Path):
    base = layouts.safetensors_shards(tmp_path / "base")
    (base / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"incomplete: missing model-00002-of-00002\.safetensors;"):
        find_backbone(str(base))


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ("model.safetensors.index.json", "model-1.bin"),
        ("model.safetensors.index.json", "../model-1.safetensors"),
        ("pytorch_model.bin.index.json", "optimizer.pt"),
        ("pytorch_model.bin.index.json", "/etc/pytorch_model.bin"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(index: str, named: str, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(TINY_BASE, base)
    (base / "model.safetensors").unlink()
    (base / index).write_text(json.dumps({"weight_map": {"lm_head.weight": named}}))
    with pytest.raises(UserError, match=r"files of the same folder only") as error:
        find_backbone(str(base))
    assert f"--model.backbone {base}: {index} names {named}:" in str(error.value)


def test_an_index_without_a_map_is_refused(tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(TINY_BASE, base)
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json names no files: wanted a weight_map"):
        find_backbone(str(base))


def write_adapter(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("is_on_hub", [False, True])
def test_an_adapter_that_is_named_as_a_base_is_told_from_one(
    is_on_hub: bool, stand_in_hub: StandInHub, tmp_path: Path
):
    folder = write_adapter(tmp_path / "adapter", base_model_name_or_path="some/base")
    stand_in_hub.publish("some/adapter", folder)
    name = "some/adapter" if is_on_hub else str(folder)
    with pytest.raises(UserError) as error:
        find_backbone(name)
    assert str(error.value) == (
        f"--model.backbone {name}: it holds an adapter, not a base. Name the adapter with "
        f"--model.adapter {name}, and with --model.backbone the base that it was trained on: "
        f"some/base."
    )
    assert "adapter_model.safetensors" not in stand_in_hub.fetched("some/adapter")


def test_a_base_and_an_adapter_in_one_folder_are_not_loaded_as_one(tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(TINY_BASE, base)
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a base and an adapter .* a folder of its own"):
        find_backbone(str(base))


@pytest.mark.parametrize("place", ["folder", "file", "hub"])
def test_gguf_is_told_to_be_for_running_only(place: str, stand_in_hub: StandInHub, tmp_path: Path):
    folder = layouts.gguf_only(tmp_path / "gguf")
    stand_in_hub.publish("some/GGUF", folder)
    file = folder / "base.Q4_K_M.gguf"
    name = {"folder": str(folder), "file": str(file), "hub": "some/GGUF"}[place]
    with pytest.raises(UserError, match=r"GGUF files are for running a model, not for training"):
        find_backbone(name)
    assert stand_in_hub.fetched("some/GGUF") == []


def test_pointers_that_the_hub_itself_holds_are_told(stand_in_hub: StandInHub, tmp_path: Path):
    stand_in_hub.publish("some/base", layouts.lfs_pointers(tmp_path / "pointers"))
    with pytest.raises(UserError) as error:
        find_backbone("some/base")
    assert str(error.value) == (
        "--model.backbone some/base: tokenizer.model is a Git LFS pointer, not the file itself. "
        "The content was never uploaded there: name another base."
    )


@pytest.mark.parametrize("is_on_hub", [False, True])
def test_weights_for_other_frameworks_are_told_from_ours(
    is_on_hub: bool, stand_in_hub: StandInHub, tmp_path: Path
):
    base = layouts.one_bin(tmp_path / "base")
    (base / "pytorch_model.bin").rename(base / "tf_model.h5")
    (base / "flax_model.msgpack").touch()
    stand_in_hub.publish("some/base", base)
    with pytest.raises(UserError, match=r"it holds weights for JAX and TensorFlow only"):
        find_backbone("some/base" if is_on_hub else str(base))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "tokenizer.model"])
def test_a_git_lfs_pointer_is_told_from_the_file(file: str, tmp_path: Path):
    pointers = layouts.lfs_pointers(tmp_path / "pointers")
    base = layouts.one_bin(tmp_path / "base")
    shutil.copy(pointers / file, base / file)
    with pytest.raises(UserError) as error:
        find_backbone(str(base))
    assert str(error.value) == (
        f"--model.backbone {base}: {file} is a Git LFS pointer, not the file itself. Fetch the "
        f"content with `git lfs pull` in that folder, or name the base's hub id."
    )


# What is fetched


SMALL = [
    *("config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
]


@pytest.mark.parametrize(
    ("layout", "weights"),
    [
        (layouts.one_bin, ["pytorch_model.bin"]),
        (
            layouts.bin_shards,
            [
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
                "pytorch_model.bin.index.json",
            ],
        ),
        (layouts.one_safetensors, ["model.safetensors"]),
        (
            layouts.safetensors_shards,
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
        (layouts.both_and_decoys, ["model.safetensors"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_of_each_layout_one_form_of_the_weights_is_fetched(
    layout: Callable[[Path], Path], weights: list[str], stand_in_hub: StandInHub, tmp_path: Path
):
    repo = stand_in_hub.publish("some/base", layout(tmp_path / "published"))
    small = find_backbone("some/base", needs_weights=False)
    assert [n for n in stand_in_hub.fetched("some/base") if "index" not in n] == SMALL
    base = find_backbone("some/base")
    assert base == small == Backbone(base.folder, "some/base", repo.commit)
    assert stand_in_hub.fetched("some/base") == sorted([*SMALL, *weights])
    found = [file.name for file in weight_files(base.folder)]
    assert found == [name for name in weights if "index" not in name]
    assert all((base.folder / n).read_bytes() == repo.files[n].read_bytes() for n in weights)


def test_a_command_asks_for_each_listing_once(stand_in_hub: StandInHub, tmp_path: Path):
    """Once by us, whether the hub answers at all, and once by the library."""
    stand_in_hub.publish("some/base", layouts.bin_shards(tmp_path / "published"))
    for needs_weights in (False, True, False, True):
        find_backbone("some/base", needs_weights=needs_weights)
    asked = [r.path.rpartition("/")[0] for r in stand_in_hub.requests if r.file is None]
    models = "/api/models"
    assert asked == [f"{models}/some", f"{models}/some/base/revision", f"{models}/some/base/tree"]


def test_a_second_command_fetches_nothing_and_needs_no_hub(
    stand_in_hub: StandInHub, tmp_path: Path
):
    stand_in_hub.publish("some/base", layouts.bin_shards(tmp_path / "published"))
    first = find_backbone("some/base")
    num_requests = len([r for r in stand_in_hub.requests if r.file])
    forget_downloads()
    assert find_backbone("some/base") == first
    assert len([r for r in stand_in_hub.requests if r.file]) == num_requests
    stand_in_hub.close()
    forget_downloads()
    assert find_backbone("some/base") == first


def test_a_tag_and_a_commit_are_revisions(stand_in_hub: StandInHub, tmp_path: Path):
    published = layouts.one_safetensors(tmp_path / "published")
    repo = stand_in_hub.publish("some/base", published, tag="v1.1")
    assert find_backbone("some/base", "v1.1").revision == repo.commit
    assert find_backbone("some/base", repo.commit).revision == repo.commit
    with pytest.raises(UserError, match=r"some/base@v9: .*: it has no --model\.revision v9"):
        find_backbone("some/base", "v9")


def test_names_are_chosen_by_layout_and_never_from_a_subfolder():
    names = [
        *("original/params.json", "onnx/model.onnx", "config.json", "merges.txt", "README.md"),
        *("requirements.txt", "spiece.model", "chat_template.jinja", "model.gguf"),
    ]
    expected = ["chat_template.jinja", "config.json", "merges.txt", "spiece.model"]
    assert small_files(names) == expected
    assert weights_entry(["consolidated.safetensors", "training_args.bin"]) is None
    assert weights_entry(["pytorch_model.bin", "model.safetensors.index.json"]) == (
        "model.safetensors.index.json"
    )


# What the hub refuses

TOKEN = "hf_secretsecretsecretsecretsecretse"


def refusal(name: str = "some/base") -> str:
    with pytest.raises(UserError) as error:
        find_backbone(name)
    assert TOKEN not in str(error.value)
    return str(error.value)


def use_token(monkeypatch: pytest.MonkeyPatch, hub_: StandInHub, is_known: bool = True) -> None:
    if is_known:
        hub_.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forget_downloads()


@pytest.mark.parametrize("kind", ["base", "adapter"])
def test_a_gated_model_says_where_its_licence_is_and_to_set_a_token(
    kind: str, stand_in_hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write, find = (layouts.one_safetensors, find_backbone)
    if kind == "adapter":
        write, find = (write_adapter, find_adapter)
    stand_in_hub.publish("some/model", write(tmp_path / "published"), access="gated")
    licence = f"accept the licence on {stand_in_hub.endpoint}/some/model"

    def refused() -> str:
        with pytest.raises(UserError) as error:
            find("some/model")
        assert TOKEN not in str(error.value)
        return str(error.value)

    assert f"it is gated: {licence}, and set HF_TOKEN in the environment to a token" in refused()
    assert {r.status for r in stand_in_hub.requests if r.file} == {401}

    stand_in_hub.requests.clear()
    use_token(monkeypatch, stand_in_hub)
    message = refused()
    assert f"the token in HF_TOKEN may not read it: {licence} with its account, or set" in message
    assert "or set HF_TOKEN in the environment to a token that may read it" in message
    assert {r.status for r in stand_in_hub.requests if r.file} == {403}

    stand_in_hub.accept(TOKEN, "some/model")
    forget_downloads()
    find("some/model")


@pytest.mark.parametrize("has_token", [False, True])
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("asked", [LISTING, "config.json"])
def test_either_status_says_where_the_licence_is_and_to_set_a_token(
    asked: str,
    status: int,
    has_token: bool,
    stand_in_hub: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Also where a proxy, or another hub, says no more than the status."""
    stand_in_hub.publish("some/base", layouts.one_safetensors(tmp_path / "published"))
    stand_in_hub.fault("some/base", "error", asked, status=status)
    if has_token:
        use_token(monkeypatch, stand_in_hub)
    message = refusal()
    assert f"accept the licence on {stand_in_hub.endpoint}/some/base" in message
    assert "set HF_TOKEN in the environment to " in message
    assert ("the token in HF_TOKEN " in message) == has_token


def test_a_private_or_unknown_base_is_told_alike(
    stand_in_hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stand_in_hub.publish("some/base", layouts.one_safetensors(tmp_path / "b"), access="private")
    unknown = "there is no such model, or it is private or gated: check its name, accept the"
    for name in ("some/base", "no/base"):
        message = refusal(name)
        assert (
            f"{unknown} licence on {stand_in_hub.endpoint}/{name} if there is one, and" in message
        )
        assert "set HF_TOKEN in the environment to a token of an account that may read" in message
    use_token(monkeypatch, stand_in_hub)
    assert unknown in refusal()


def test_a_token_that_the_hub_does_not_know_is_said(
    stand_in_hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stand_in_hub.publish("some/base", layouts.one_safetensors(tmp_path / "published"))
    use_token(monkeypatch, stand_in_hub, is_known=False)
    message = refusal()
    assert "the token in HF_TOKEN is not valid: set HF_TOKEN in the environment to one" in message
    assert f"accept the licence on {stand_in_hub.endpoint}/some/base as well" in message


# What a network does


def test_a_slow_and_a_once_broken_download_succeed(stand_in_hub: StandInHub, tmp_path: Path):
    repo = stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))
    stand_in_hub.fault("some/base", "slow", "pytorch_model.bin", seconds=0.5, times=1)
    stand_in_hub.fault("some/base", "broken", "tokenizer.json", times=1)
    folder = find_backbone("some/base").folder
    for name in ("pytorch_model.bin", "tokenizer.json"):
        assert (folder / name).read_bytes() == repo.files[name].read_bytes()


@pytest.mark.parametrize("kind", ["broken", "short", slow_case("hanging")])
def test_a_download_that_breaks_off_is_said_and_the_next_one_succeeds(
    kind: str, stand_in_hub: StandInHub, tmp_path: Path
):
    repo = stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))
    stand_in_hub.fault("some/base", kind, "pytorch_model.bin")  # pyright: ignore
    message = refusal()
    assert "--model.backbone some/base: it could not be fetched from the hub: no answer" in message
    assert "Files that are whole are kept: run the same command again." in message
    repo.faults.clear()
    forget_downloads()
    folder = find_backbone("some/base").folder
    wanted = repo.files["pytorch_model.bin"].read_bytes()
    assert (folder / "pytorch_model.bin").read_bytes() == wanted


@pytest.mark.parametrize("kind", [slow_case("stalled"), "error"])
def test_a_hub_that_is_out_of_order_leaves_what_is_in_the_cache(
    kind: str, stand_in_hub: StandInHub, tmp_path: Path
):
    repo = stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))
    stand_in_hub.fault("some/base", kind, LISTING)  # pyright: ignore
    assert "it is not in the local cache and could not be had from the hub: no answer" in refusal()
    repo.faults.clear()
    forget_downloads()
    first = find_backbone("some/base")
    stand_in_hub.fault("some/base", kind, LISTING)  # pyright: ignore
    forget_downloads()
    assert find_backbone("some/base") == first


def test_a_cache_without_room_is_said_with_the_way_out(
    stand_in_hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(StorageError, match=r"No space left on device .*set HF_HOME to a folder"):
        find_backbone("some/base")


# Adapters


def test_an_adapter_is_a_folder_or_fetched_like_a_base(stand_in_hub: StandInHub, tmp_path: Path):
    folder = write_adapter(tmp_path / "adapter")
    (folder / "optimizer.pt").write_bytes(b"not wanted")
    assert find_adapter(str(folder)) == folder
    repo = stand_in_hub.publish("some/adapter", folder)
    fetched = find_adapter("some/adapter")
    assert fetched.name == repo.commit
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert stand_in_hub.fetched("some/adapter") == names
    assert sorted(file.name for file in fetched.iterdir()) == names
    forget_downloads()
    stand_in_hub.close()
    assert find_adapter("some/adapter") == fetched


def test_a_base_that_is_named_as_an_adapter_is_told_from_one(
    stand_in_hub: StandInHub, tmp_path: Path
):
    stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))
    with pytest.raises(UserError, match=r"it is no adapter.*a base is named with --model\.backb"):
        find_adapter("some/base")
    with pytest.raises(UserError, match=r"--model\.adapter no/adapter: it is not in the local"):
        find_adapter("no/adapter")


def test_an_error_is_told_in_one_short_line():
    assert first_line(OSError("no\nand more")) == "OSError: no"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 500)) == "ValueError: " + "x" * 160


# What huggingface_hub documents under no name


def test_all_that_the_library_raises_on_the_way_is_known(stand_in_hub: StandInHub):
    """Its own errors, and those of the HTTP client that it is built on: no more than those."""
    from huggingface_hub import HfApi

    http_error, os_error, _ = hub.hub_errors()
    assert (http_error.__name__, os_error) == ("HTTPError", OSError)
    assert http_error.__module__.startswith("httpx")
    with pytest.raises(http_error, match="401") as refused:
        HfApi().model_info("no/such")
    with pytest.raises(http_error, match="refused") as unreached:
        HfApi(endpoint="http://127.0.0.1:9").model_info("some/base")
    assert isinstance(refused.value, OSError)
    assert not isinstance(unreached.value, OSError)


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_cache_is_where_the_library_looks(cached: Path, tmp_path: Path, variable: str):
    cache = tmp_path / "cache"
    if variable == "HF_HOME":
        cache = cache.rename(tmp_path / "hub")
    program = (
        "from huggingface_hub import try_to_load_from_cache as look\n"
        "from amazon_desc.support.hub import hub_cache\n"
        "print(hub_cache(), look('some/base', 'config.json'), sep='\\n')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment[variable] = str(tmp_path if variable == "HF_HOME" else cache)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    found = cache / "models--some--base" / "snapshots" / COMMIT / "config.json"
    assert done.stdout.splitlines() == [str(cache), str(found)]
