"""Weights in files of a bounded size, one in memory at a time, every number as it was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from amazon_desc.export import shards
from amazon_desc.export.shards import Part, shards_of, write_shards
from amazon_desc.support.errors import NotFiniteError, UserError


def part(name: str, tensor: Tensor, dtype: torch.dtype = torch.float32) -> Part:
    return Part(name, tuple(tensor.shape), dtype, lambda: tensor)


def of_bytes(*sizes: int) -> list[Part]:
    zeros = (torch.zeros(size // 4) for size in sizes)
    return [part(f"w{number}", tensor) for number, tensor in enumerate(zeros)]


def test_a_shard_holds_what_fits_and_one_that_is_larger_stands_alone():
    groups = shards_of(of_bytes(16, 12, 20, 36, 4), 32)
    assert [[p.num_bytes for p in group] for group in groups] == [[16, 12], [20], [36], [4]]
    assert list(shards_of([], 32)) == []


def test_one_file_needs_no_index(tmp_path: Path):
    write_shards(tmp_path, [part("a", torch.tensor([1.5, -2.0]))])
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["a"].tolist() == [1.5, -2.0]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_index_names_the_file_of_each_weight(tmp_path: Path):
    write_shards(tmp_path, of_bytes(16, 12, 20), 32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {
        "metadata": {"total_size": 48},
        "weight_map": {"w0": first, "w1": first, "w2": second},
    }
    assert set(load_file(tmp_path / first)) == {"w0", "w1"}
    assert set(load_file(tmp_path / second)) == {"w2"}


def test_no_more_than_one_shard_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each tensor is made when its own file is written, and not before."""
    events: list[str] = []

    def made(name: str) -> Tensor:
        events.append(name)
        return torch.zeros(4)

    save = shards.write_shard

    def noting(file: Path, group: list[Part]) -> None:
        save(file, group)
        events.append(file.name[:11])

    monkeypatch.setattr(shards, "write_shard", noting)
    parts = [Part(n, (4,), torch.float32, lambda n=n: made(n)) for n in "abc"]
    write_shards(tmp_path, parts, 32)
    assert events == ["a", "b", "model-00001", "c", "model-00002"]


def test_numbers_are_cast_last(tmp_path: Path):
    write_shards(tmp_path, [part("a", torch.tensor([1 + 2**-9]), torch.bfloat16)])
    assert load_file(tmp_path / "model.safetensors")["a"].dtype == torch.bfloat16


def test_a_number_that_a_precision_cannot_hold_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"big: wanted numbers that float16 can hold, found one of"):
        write_shards(tmp_path, [part("big", torch.tensor([1.0, -70_000.0]), torch.float16)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path):
    with pytest.raises(NotFiniteError, match="bad is not finite"):
        write_shards(tmp_path, [part("bad", torch.tensor([0.0, value]))])


def test_a_disk_that_is_full_is_the_disks_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_shards(tmp_path, of_bytes(16))
