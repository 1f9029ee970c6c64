"""The layouts that tests publish: each has its files, and all that hold weights hold the same."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from amazon_desc.support.resources import TINY_BASE
from tests import published_layouts as layouts

FRAME = {"config.json", "generation_config.json", "README.md", ".gitattributes"}
FRAME |= {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def read(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("write", "weights", "others"),
    [
        (layouts.one_bin, ["pytorch_model.bin"], []),
        (
            layouts.bin_shards,
            ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
            ["pytorch_model.bin.index.json"],
        ),
        (layouts.one_safetensors, ["model.safetensors"], []),
        (
            layouts.safetensors_shards,
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model.safetensors.index.json"],
        ),
        (
            layouts.both_and_decoys,
            ["model.safetensors", "pytorch_model.bin"],
            [
                *("consolidated.safetensors", "original/consolidated.00.pth"),
                *("original/params.json", "base.Q4_K_M.gguf", "onnx/model.onnx"),
                *("tf_model.h5", "training_args.bin"),
            ],
        ),
    ],
)
def test_each_layout_has_its_files_and_the_same_weights(
    write: Callable[[Path], Path], weights: list[str], others: list[str], tmp_path: Path
):
    folder = write(tmp_path / "base")
    assert files(folder) == FRAME | {*weights, *others}
    expected = layouts.weights()
    found = [(name, tensor) for file in weights for name, tensor in read(folder / file).items()]
    assert {name for name, _ in found} == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found)
    assert len(expected) == 21
    for index in folder.glob("*.index.json"):
        weight_map = json.loads(index.read_text())["weight_map"]
        assert {file: {n for n in weight_map if weight_map[n] == file} for file in weights} == {
            file: set(read(folder / file)) for file in weights
        }


def test_transformers_finds_every_weight_and_no_other(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    folder = layouts.one_bin(tmp_path / "base")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert torch.equal(model.state_dict()["lm_head.weight"], layouts.weights()["lm_head.weight"])


def test_pointers_stand_for_all_that_is_large(tmp_path: Path):
    folder = layouts.lfs_pointers(tmp_path / "base")
    assert files(folder) == FRAME | {"pytorch_model.bin"}
    size = (TINY_BASE / "tokenizer.model").stat().st_size
    for name, length in (("tokenizer.model", str(size)), ("pytorch_model.bin", r"\d{7}")):
        text = (folder / name).read_text()
        pattern = (
            rf"version https://git-lfs\.github\.com/spec/v1\noid sha256:\w{{64}}\nsize {length}\n"
        )
        assert re.fullmatch(pattern, text), name


def test_a_repository_of_quantised_files_has_no_tokenizer(tmp_path: Path):
    folder = layouts.gguf_only(tmp_path / "base")
    named = {"config.json", "generation_config.json", "README.md", ".gitattributes"}
    assert files(folder) == named | {"base.Q4_K_M.gguf"}
    assert (folder / "base.Q4_K_M.gguf").read_bytes()[:8] == b"GGUF\x03\0\0\0"


def test_the_bin_that_runs_code_does_so_where_it_is_let(tmp_path: Path):
    created = tmp_path / "created"
    file = layouts.bin_that_runs_code(tmp_path / "base", created) / "pytorch_model.bin"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    assert not created.exists()
    torch.load(file, weights_only=False)
    assert created.exists()


@pytest.mark.real
def test_another_tokenizer_sets_the_vocabulary(tmp_path: Path, real_dir: Path):
    folder = layouts.one_bin(tmp_path / "base", real_dir / "tinyllama")
    assert files(folder) == FRAME | {"pytorch_model.bin", "special_tokens_map.json"}
    assert read(folder / "pytorch_model.bin")["lm_head.weight"].shape == (32_000, 64)
