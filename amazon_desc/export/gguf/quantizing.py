"""How weights are stored: which type a tensor gets, and its bytes, a block of rows at a time.

In come a kind (q8_0, ...), a tensor's GGUF name and shape, and float32 weights; out go the type of
the tensor and its bytes. The block formats themselves are the `gguf` package's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from amazon_desc.export.gguf.package import gguf_package
from amazon_desc.support.errors import NotFiniteError, UserError

if TYPE_CHECKING:
    import numpy as np

# What a kind is called in `general.file_type`.
KINDS = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
}
ADAPTER_KINDS = ("f32", "f16", "bf16", "q8_0")

LARGEST_FLOAT16 = 65_504.0
# Of a tensor that is turned into bytes in one piece: 64 MiB in float32.
WEIGHTS_AT_ONCE = 1 << 24


def check_kind(kind: str, kinds: Iterable[str] = KINDS) -> None:
    """Refuses a kind that cannot be written."""
    if kind not in kinds:
        raise UserError(
            f"GGUF: wanted a type of weights out of {', '.join(kinds)}, found {kind}. llama.cpp's "
            f"own llama-quantize makes others out of an f16 file."
        )


def file_type(kind: str) -> int:
    return int(gguf_package().LlamaFileType[KINDS[kind]])


def type_of(kind: str, name: str, shape: Sequence[int], is_head: bool = False) -> Any:
    """Returns the type of a tensor in a file of a kind, by the rules of llama.cpp's own converter.

    Vectors and norms stay f32, and where a row is no whole number of blocks its tensor stays f16.
    The head of a q4_0 file is q8_0: llama.cpp has q6_K there, which the package cannot write.

    q8_0, "blk.0.ffn_down.weight", (64, 172) -> F16: blocks have 32 weights
    """
    gguf = gguf_package()
    types = gguf.GGMLQuantizationType
    if len(shape) < 2 or name.endswith("_norm.weight") or name.endswith(".bias"):
        return types.F32
    wanted = types["Q8_0" if kind == "q4_0" and is_head else kind.upper()]
    block_size, _ = gguf.GGML_QUANT_SIZES[wanted]
    return types.F16 if shape[-1] % block_size else wanted


def num_bytes(type_: Any, shape: Sequence[int]) -> int:
    """Returns what a tensor takes, without padding."""
    block_size, block_bytes = gguf_package().GGML_QUANT_SIZES[type_]
    count = 1
    for length in shape:
        count *= length
    return count // block_size * block_bytes


def encoded(weight: torch.Tensor, type_: Any, name: str) -> Iterator[np.ndarray]:
    """Yields the bytes of a float32 tensor, in order, some rows at a time.

    Raises:
        UserError: a weight is larger than float16 holds; it would become infinite without a word.
        NotFiniteError: a weight is NaN or infinite.
    """
    gguf = gguf_package()
    rows = weight.detach().reshape(-1, weight.shape[-1])
    for some in rows.split(max(1, WEIGHTS_AT_ONCE // rows.shape[-1])):
        block = some.to("cpu", torch.float32).contiguous()
        largest = block.abs().max().item()
        if not largest < float("inf"):
            raise NotFiniteError(
                f"GGUF: {name} has weights that are NaN or infinite. Export another checkpoint."
            )
        if type_ == gguf.GGMLQuantizationType.F16 and largest > LARGEST_FLOAT16:
            raise UserError(
                f"GGUF: {name} has a weight of {largest:.0f}, which f16 cannot hold (at most "
                f"{LARGEST_FLOAT16:.0f}). Write bf16 or f32 instead."
            )
        yield gguf.quants.quantize(block.numpy(), type_)
