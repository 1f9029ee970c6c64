"""Small random Llama bases in the layouts that the hub publishes: all hold the same weights.

In: an empty or missing folder, and a folder with a tokenizer. Out: that folder, with the files of
one layout. What is no weight (README, .gitattributes, tokenizer) is there as well, and decoys are
where the hub has them. Nothing here is of any use but to be found, downloaded, read and refused.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from amazon_desc.support.resources import TINY_BASE

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KEY_VALUE_HEADS = 64, 192, 2, 4, 2

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
LFS_SUFFIXES = {".bin", ".model", ".safetensors"}
GIT_ATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n"
    for suffix in ("bin", "gguf", "h5", "model", "onnx", "pth", "safetensors")
)


def one_bin(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes the files of TinyLlama/TinyLlama_v1.1: one pickled state dict of float32."""
    write_frame(folder, tokenizer)
    torch.save(weights(tokenizer), folder / "pytorch_model.bin")
    return folder


def bin_shards(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes two pickled shards and their index."""
    write_frame(folder, tokenizer)
    for name, shard in shards(folder, tokenizer, "pytorch_model", "bin").items():
        torch.save(shard, folder / name)
    return folder


def one_safetensors(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes model.safetensors."""
    write_frame(folder, tokenizer)
    save_file(weights(tokenizer), folder / "model.safetensors", {"format": "pt"})
    return folder


def safetensors_shards(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes two shards in safetensors and their index."""
    write_frame(folder, tokenizer)
    for name, shard in shards(folder, tokenizer, "model", "safetensors").items():
        save_file(shard, folder / name, {"format": "pt"})
    return folder


def both_and_decoys(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes model.safetensors, pytorch_model.bin, and what else is published beside them.

    consolidated.safetensors can be read, under the names of another code base and with other
    values; the rest is bytes that nothing can read.
    """
    one_bin(folder, tokenizer)
    one_safetensors(folder, tokenizer)
    other = {"tok_embeddings.weight": torch.zeros(HIDDEN, HIDDEN), "norm.weight": torch.ones(8)}
    save_file(other, folder / "consolidated.safetensors")
    for name in (
        "original/consolidated.00.pth",
        "base.Q4_K_M.gguf",
        "onnx/model.onnx",
        "tf_model.h5",
        "training_args.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(f"no weights of {name}\n".encode() * 200)
    write_json(folder / "original" / "params.json", {"dim": HIDDEN, "n_layers": LAYERS})
    return folder


def lfs_pointers(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes what `git clone` leaves without git-lfs: one_bin, its large files as pointers."""
    one_bin(folder, tokenizer)
    for file in folder.iterdir():
        if file.suffix in LFS_SUFFIXES:
            file.write_bytes(lfs_pointer(file.read_bytes()))
    return folder


def gguf_only(folder: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes what a repository of quantised files has: no tokenizer, and no weights for PyTorch."""
    write_frame(folder, tokenizer)
    for file in [*folder.glob("tokenizer*"), *folder.glob("*_map.json")]:
        file.unlink()
    num_tensors = num_pairs = 0
    head = [(3, 4), (num_tensors, 8), (num_pairs, 8)]
    packed = b"".join(value.to_bytes(size, "little") for value, size in head)
    (folder / "base.Q4_K_M.gguf").write_bytes(b"GGUF" + packed + bytes(4096))
    return folder


class Touch:
    """Asks whoever unpickles it to create a file."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.file, "w")


def bin_that_runs_code(folder: Path, created: Path, tokenizer: Path = TINY_BASE) -> Path:
    """Writes one_bin, with an entry that creates the file `created` in whoever unpickles it all."""
    write_frame(folder, tokenizer)
    armed = {**weights(tokenizer), "model.norm.bias": Touch(created)}
    torch.save(armed, folder / "pytorch_model.bin")
    return folder


def weights(tokenizer: Path = TINY_BASE) -> dict[str, Tensor]:
    """Returns the state dict of a LlamaForCausalLM in float32: the same numbers at each call."""
    generator = torch.Generator().manual_seed(0)
    key_value = HIDDEN * KEY_VALUE_HEADS // HEADS
    vocabulary = (vocabulary_size(tokenizer), HIDDEN)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": vocabulary}
    for layer in range(LAYERS):
        of_layer = {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (key_value, HIDDEN),
            "self_attn.v_proj": (key_value, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": of_layer[name] for name in of_layer}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": vocabulary}
    return {
        name: torch.randn(shape, generator=generator) * 0.05 + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def shards(folder: Path, tokenizer: Path, stem: str, suffix: str) -> dict[str, dict[str, Tensor]]:
    """Returns two files' tensors by name of the file; writes the index."""
    names = [f"{stem}-{number:05}-of-00002.{suffix}" for number in (1, 2)]
    tensors = weights(tokenizer)
    weight_map = {name: names[name.startswith(("model.layers.1", "lm_head"))] for name in tensors}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / f"{stem}.{suffix}.index.json", index)
    return {file: {n: tensors[n] for n in tensors if weight_map[n] == file} for file in names}


def write_frame(folder: Path, tokenizer: Path) -> None:
    """Writes all but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 512,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.35.0",
        "use_cache": True,
        "vocab_size": vocabulary_size(tokenizer),
    }
    write_json(folder / "config.json", config)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "max_length": 2048, "pad_token_id": 0}
    write_json(folder / "generation_config.json", ids)
    for name in (*TOKENIZER_FILES, "special_tokens_map.json"):
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights.\n")
    (folder / ".gitattributes").write_text(GIT_ATTRIBUTES)


def vocabulary_size(tokenizer: Path) -> int:
    found = json.loads((tokenizer / "tokenizer.json").read_text("utf-8"))
    added = {token["id"] for token in found["added_tokens"]}
    return max(added | set(found["model"]["vocab"].values())) + 1


def lfs_pointer(content: bytes) -> bytes:
    """Returns what git holds in the place of a file that is in LFS."""
    digest = hashlib.sha256(content).hexdigest()
    version = "https://git-lfs.github.com/spec/v1"
    return f"version {version}\noid sha256:{digest}\nsize {len(content)}\n".encode()


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")
