"""Where each tensor lies in a GGUF file, which is known before any of them is made.

In come the tensors of a file and a kind, out goes a place for each; then the head of the file is
written, and each tensor in its place, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from torch import Tensor

from amazon_desc.export.gguf.families import Target
from amazon_desc.export.gguf.package import gguf_package
from amazon_desc.export.gguf.quantizing import encoded, num_bytes, type_of
from amazon_desc.support.errors import UserError


class Place(NamedTuple):
    """Where a tensor lies in the file, and as what."""

    target: Target
    type: Any
    offset: int
    """in bytes, from where the tensors begin"""
    num_bytes: int


def placed(targets: Iterable[Target], kind: str, head: str = "") -> list[Place]:
    """Returns a place for each tensor, one after the other.

    Args:
        head: the name of the tensor that logits come from
    """
    places, offset = [], 0
    for target in targets:
        type_ = type_of(kind, target.name, target.shape, target.name == head)
        size = num_bytes(type_, target.shape)
        places.append(Place(target, type_, offset, size))
        offset += aligned(size)
    return places


def aligned(size: int) -> int:
    gguf = gguf_package()
    return gguf.GGUFWriter.ggml_pad(size, gguf.GGUF_DEFAULT_ALIGNMENT)


def bytes_of(places: Iterable[Place]) -> int:
    """Returns what all tensors take, with what is between them."""
    return sum(aligned(place.num_bytes) for place in places)


def add_tensors(writer: Any, places: Iterable[Place]) -> None:
    """Tells the writer of the tensors, in their order in the file."""
    import numpy as np

    for target, type_, _, size in places:
        # of the array's type it is only asked whether it is bytes; this shape counts weights
        as_weights = np.dtype(np.float32)
        writer.add_tensor_info(target.name, target.shape, as_weights, size, raw_dtype=type_)


def write_head(writer: Any, file: Path) -> int:
    """Writes all that comes before the tensors; returns where they begin, in bytes."""
    writer.write_header_to_file(path=file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    end = writer.fout[0].tell()
    writer.close()
    return aligned(end)


def write_tensor(out: IO[bytes], start: int, place: Place, name: str, weight: Tensor) -> None:
    """Writes one tensor to its place.

    Args:
        start: where the tensors begin in the file
        name: what a message calls it
    """
    target = place.target
    if weight.shape[1:] != target.shape[1:] or weight.shape[0] < target.shape[0]:
        raise UserError(
            f"GGUF: wanted {name} as {target.shape}, found {tuple(weight.shape)}. Export weights "
            f"and configuration of one model."
        )
    out.seek(start + place.offset)
    for block in encoded(target.of(weight), place.type, name):
        out.write(block.tobytes())


def fallbacks(kind: str, places: Iterable[Place]) -> str:
    """Returns a sentence on tensors whose rows are no whole blocks of a kind, "" if none are."""
    if kind not in ("q8_0", "q4_0"):
        return ""
    names = [place.target.name for place in places if place.type.name == "F16"]
    counts = Counter(name.split(".", 2)[-1] if name[:4] == "blk." else name for name in names)
    shown = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
    return shown and f"{kind}: rows that are no whole blocks of 32 weights stay f16: {shown}."
