"""Pickled weights become safetensors once, with the same numbers, and never run code."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amazon_desc.model import conversion
from amazon_desc.model.backbone import fingerprint, load_backbone, weights_folder
from amazon_desc.model.conversion import as_safetensors, cache_folder
from amazon_desc.support.errors import StorageError, UserError
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.layouts import weight_files
from tests import published_layouts as layouts
from tests.hub_stand_in import StandInHub

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of conversions, empty; that of the hub is beside it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home" / "amazon_desc"


def converted(base: Path) -> Path:
    return as_safetensors(weight_files(base), "some/base")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert wanted
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("layout", [layouts.one_bin, layouts.bin_shards])
@pytest.mark.parametrize("part_bytes", [1, 50_000, 10**9])
def test_the_numbers_are_those_of_the_pickle_in_parts_of_any_size(
    layout: Callable[[Path], Path],
    part_bytes: int,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(conversion, "PART_BYTES", part_bytes)
    folder = converted(layout(tmp_path / "base"))
    assert folder.parent == cache == cache_folder()
    assert_equal(tensors_of(folder), layouts.weights())
    num_files = len(list(folder.glob("*.safetensors")))
    assert (num_files == 1, num_files == len(layouts.weights())) == (
        part_bytes == 10**9,
        part_bytes == 1,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_stays_as_it_is(dtype: torch.dtype, tmp_path: Path):
    state = {"a": torch.arange(6).to(dtype).reshape(2, 3), "b": torch.tensor(1.5, dtype=dtype)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_equal(tensors_of(as_safetensors([tmp_path / "pytorch_model.bin"], "x")), state)


def test_shared_and_strided_tensors_are_written_out(tmp_path: Path):
    """A head that is the embedding, halves of one matrix, and a transposed one."""
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"embed": whole, "head": whole, "upper": whole[:2], "turned": whole.T}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_equal(tensors_of(as_safetensors([tmp_path / "pytorch_model.bin"], "x")), state)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize(
    "layout",
    [
        layouts.one_bin,
        layouts.bin_shards,
        layouts.one_safetensors,
        layouts.safetensors_shards,
        layouts.both_and_decoys,
    ],
    ids=lambda layout: layout.__name__,
)
def test_a_base_of_each_layout_computes_the_same(
    layout: Callable[[Path], Path], quantization: Any, tmp_path: Path
):
    """In full precision against the weights, given to the same architecture by hand."""
    from transformers import AutoConfig, LlamaForCausalLM

    def loaded(base: Path) -> Any:
        return load_backbone(find_backbone(str(base)), quantization, torch.float32, CPU)

    base = layout(tmp_path / "base")
    if quantization == "none":
        wanted: Any = LlamaForCausalLM(AutoConfig.from_pretrained(base))
        wanted.load_state_dict(layouts.weights())
    else:
        wanted = loaded(layouts.one_safetensors(tmp_path / "plain"))
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        found, expected = (m.eval()(input_ids=ids).logits for m in (loaded(base), wanted))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_conversion_is_said_once_with_its_size_and_reused(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
):
    base = layouts.one_bin(tmp_path / "base")
    folder = converted(base)
    size = (base / "pytorch_model.bin").stat().st_size / 1e9
    said = f"Converting the weights of some/base to safetensors, once: {size:.2f} GB, kept in "
    assert capsys.readouterr().out == f"{said}{folder}\n"
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert converted(base) == folder
    assert converted(layouts.one_bin(tmp_path / "copy")) == folder
    assert capsys.readouterr().out == ""
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == times
    assert sorted(p.name for p in cache.iterdir()) == sorted([folder.name, "known_files.json"])


def test_other_weights_are_another_conversion(tmp_path: Path):
    base = layouts.one_bin(tmp_path / "base")
    first, mark = converted(base), fingerprint(base)
    state = layouts.weights()
    state["lm_head.weight"] *= 2
    torch.save(state, base / "pytorch_model.bin")
    second = converted(base)
    assert second != first
    assert_equal(tensors_of(second), state)
    assert fingerprint(base) != mark


def test_a_base_of_the_hub_is_named_by_the_hubs_own_digest(
    stand_in_hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repo = stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))
    folder = weights_folder(find_backbone("some/base"))
    assert folder == stand_in_hub.home / "amazon_desc" / repo.etag("pytorch_model.bin")
    monkeypatch.setattr(conversion, "sha256_of", lambda _: pytest.fail("read it again"))
    assert weights_folder(find_backbone("some/base")) == folder


def test_a_file_of_the_cache_with_a_wrong_bit_is_refused(stand_in_hub: StandInHub, tmp_path: Path):
    stand_in_hub.publish("some/base", layouts.one_bin(tmp_path / "published"))
    base = find_backbone("some/base")
    file = (base.folder / "pytorch_model.bin").resolve()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged on its way or on the disk.*Remove .*fetches"):
        weights_folder(base)


# Never code


def test_a_pickle_that_asks_for_code_is_refused_and_runs_nothing(tmp_path: Path, cache: Path):
    created = tmp_path / "created"
    base = layouts.bin_that_runs_code(tmp_path / "base", created)
    with pytest.raises(UserError) as error:
        load_backbone(find_backbone(str(base)), "none", torch.float32, CPU)
    assert not created.exists()
    assert re.fullmatch(
        rf"--model\.backbone {base}: pytorch_model\.bin asks to run code when it is read "
        r"\(\w*io\.open\), which weights never need\. Nothing of it was run\. Name another base, "
        r"best one with safetensors\.",
        str(error.value).replace("some/base", str(base)),
    )
    assert [path.name for path in cache.iterdir()] == ["known_files.json"]
    torch.load(base / "pytorch_model.bin", weights_only=False)
    assert created.exists()  # so it was armed


def test_every_pickle_is_read_in_the_one_safe_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls, load = [], torch.load

    def watched(file: Path, **options: Any) -> Any:
        calls.append(options)
        return load(file, **options)

    monkeypatch.setattr(torch, "load", watched)
    base = find_backbone(str(layouts.bin_shards(tmp_path / "base")))
    load_backbone(base, "nf4", torch.float32, CPU)
    assert calls
    assert all(
        call == {"map_location": "cpu", "mmap": True, "weights_only": True} for call in calls
    )


# What cannot be read


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as error:
        as_safetensors([file], "some/base")
    return str(error.value)


@pytest.mark.parametrize("size", [0, 1, 1000, -1000])
def test_a_cut_pickle_is_refused_in_a_sentence(size: int, tmp_path: Path):
    file = layouts.one_bin(tmp_path / "base") / "pytorch_model.bin"
    with file.open("rb+") as opened:
        opened.truncate(size % file.stat().st_size)
    message = refusal(file)
    assert message.startswith("--model.backbone some/base: pytorch_model.bin cannot be read (")
    assert message.endswith("it is damaged or cut short. Copy or download it again.")


def test_the_form_of_old_versions_of_torch_is_named(tmp_path: Path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    assert "is in a form that torch wrote before version 1.6" in refusal(file)
    file.write_bytes(pickle.dumps({"a": 1}))
    assert "is in a form that torch wrote before version 1.6" in refusal(file)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {"a": torch.ones(2)}}, "found 'state_dict', which is none"),
        ({"a": torch.ones(2), "epoch": 3}, "found 'epoch', which is none"),
        ([torch.ones(2)], "found none"),
        ({}, "found none"),
    ],
)
def test_what_holds_other_things_than_weights_is_refused(content: Any, found: str, tmp_path: Path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path / "pytorch_model.bin")
    assert f"wanted the weights of a model, tensors by name, {found}. Name a base" in message


# Whole or not at all


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    base = layouts.one_bin(tmp_path / "base")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"which takes 0\.00 GB in .* set HF_HOME to a folder"):
        converted(base)
    assert [path.name for path in cache.iterdir()] == ["known_files.json"]


def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from safetensors import SafetensorError

    base = layouts.one_bin(tmp_path / "base")

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        converted(base)
    assert [path.name for path in cache.iterdir()] == ["known_files.json"]


def test_weights_that_change_while_they_are_read_are_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    base = layouts.one_bin(tmp_path / "base")
    save = conversion.save_part

    def save_and_touch(*arguments: Any) -> None:
        save(*arguments)
        (base / "pytorch_model.bin").touch()

    monkeypatch.setattr(conversion, "save_part", save_and_touch)
    with pytest.raises(UserError, match="its weights changed while they were read"):
        converted(base)
    assert [path.name for path in cache.iterdir()] == ["known_files.json"]


def started(program: str, base: Path, cache: Path) -> subprocess.Popen[str]:
    """Starts a program that is given the base's .bin file and keeps conversions in `cache`."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache.parent / "hub")}
    command = [sys.executable, "-c", program, str(base / "pytorch_model.bin")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_conversion_is_made_anew(tmp_path: Path, cache: Path):
    base = layouts.one_bin(tmp_path / "base")
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from amazon_desc.model import conversion\n"
        "conversion.PART_BYTES, save = 1, conversion.save_part\n"
        "def save_or_die(files, name, keys, path):\n"
        "    save(files, name, keys, path)\n"
        "    if path.name == 'model-00005.safetensors': os.kill(os.getpid(), signal.SIGKILL)\n"
        "conversion.save_part = save_or_die\n"
        "conversion.as_safetensors([Path(sys.argv[1])], 'some/base')"
    )
    assert started(program, base, cache).wait() == -9
    left = {path.name.split("-")[0] for path in cache.iterdir()}
    assert left == {".lock", ".tmp", "known_files.json"}
    folder = converted(base)
    assert_equal(tensors_of(folder), layouts.weights())
    assert sorted(p.name for p in cache.iterdir()) == sorted([folder.name, "known_files.json"])


@pytest.mark.slow
def test_two_processes_convert_once(tmp_path: Path, cache: Path):
    base = layouts.one_bin(tmp_path / "base")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from amazon_desc.model import conversion\n"
        "convert = conversion.convert\n"
        "def slow(*arguments): time.sleep(1.5); convert(*arguments)\n"
        "conversion.convert = slow\n"
        "print(conversion.as_safetensors([Path(sys.argv[1])], 'some/base'))"
    )
    processes = [started(program, base, cache) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({lines[-1] for lines in said}) == 1
    assert sum("Converting" in line for lines in said for line in lines) == 1
    assert_equal(tensors_of(Path(said[0][-1])), layouts.weights())


def test_others_may_read_what_was_converted(tmp_path: Path):
    base = layouts.one_bin(tmp_path / "base")
    (base / "pytorch_model.bin").chmod(0o444)
    folder = converted(base)
    assert {oct(f.stat().st_mode & 0o777) for f in folder.glob("*.safetensors")} == {"0o644"}


@pytest.mark.slow
def test_memory_is_that_of_a_part_not_of_the_base(tmp_path: Path, cache: Path):
    """200 MB of weights in parts of 20 MB."""
    state = {f"w{number}": torch.zeros(5_000_000) for number in range(10)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import safetensors.torch\n"
        "from amazon_desc.model import conversion\n"
        "conversion.PART_BYTES = 20_000_000\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "conversion.as_safetensors([Path(sys.argv[1])], 'some/base')\n"
        "print(peak() - before)"
    )
    process = started(program, tmp_path, cache)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert int(said.splitlines()[-1]) < 100_000_000
