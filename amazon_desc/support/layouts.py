"""What the files of a model are, by their names: a base, its weights, or something else.

In come the names of a folder's files or of a repository's on the hub, out go those that are wanted,
or a refusal that says what the files are instead. Nothing is downloaded or loaded here; a file is
opened only to see whether it is there in earnest.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json

# In the order in which they are looked for; an index names the files that hold the weights.
SAFETENSORS_INDEX = "model.safetensors.index.json"
WEIGHTS = (
    "model.safetensors",
    SAFETENSORS_INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX = ".index.json"
CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Configuration, tokenizer, chat template: all that a base has besides its weights.
SMALL_FILES = (".json", ".model", ".jinja", ".tiktoken")
VOCABULARIES = ("merges.txt", "vocab.txt")
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")

OTHER_FRAMEWORKS = {".h5": "TensorFlow", ".msgpack": "JAX", ".onnx": "ONNX Runtime"}

NO_WEIGHTS = "its weights (model.safetensors or pytorch_model.bin)"

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def small_files(names: Collection[str]) -> list[str]:
    """Returns what is wanted of a repository besides the weights; none of it is in a subfolder."""
    return sorted(
        name
        for name in names
        if "/" not in name and (name.endswith(SMALL_FILES) or name in VOCABULARIES)
    )


def weights_entry(names: Collection[str]) -> str | None:
    """Returns the file that holds the weights, or the index of those that do; safetensors first.

    ["pytorch_model.bin", "model.safetensors", "consolidated.safetensors"] -> "model.safetensors"
    """
    return next((name for name in WEIGHTS if name in names), None)


def weight_names(folder: Path, entry: str) -> list[str]:
    """Returns the names of the files that hold the weights, by the index where there is one.

    Raises:
        UserError: the index names files of another kind or in another folder.
    """
    if not entry.endswith(INDEX):
        return [entry]
    kind = ".safetensors" if entry == SAFETENSORS_INDEX else ".bin"
    index = read_json(folder / entry)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f"--model.backbone {folder}: {entry} names no files: wanted a weight_map. Copy or "
            f"download it again."
        )
    names = sorted({str(name) for name in weight_map.values()})
    if others := [name for name in names if not name.endswith(kind) or Path(name).name != name]:
        raise UserError(
            f"--model.backbone {folder}: {entry} names {others[0]}: wanted {kind} files of the "
            f"same folder only. Name another base."
        )
    return names


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a base's folder that hold its weights; those it lacks are not left out.

    Raises:
        UserError: there are none, or the index cannot be used.
    """
    names = {path.name for path in folder.iterdir()}
    entry = weights_entry(names)
    if entry is None:
        raise UserError(incomplete(str(folder), NO_WEIGHTS, names))
    return [folder / name for name in weight_names(folder, entry)]


def check_names(place: str, names: Collection[str], needs_weights: bool) -> None:
    """Refuses what is no base, by the names of its files.

    Args:
        place: the folder, or the hub id
        needs_weights: False: its configuration suffices

    Raises:
        UserError: it holds an adapter, a GGUF file or weights of another framework, or lacks
            something; what is missing is named.
    """
    here = {name for name in names if "/" not in name}
    entry, option = weights_entry(here), f"--model.backbone {place}"
    if ADAPTER_CONFIG in here and CONFIG in here and entry:
        raise UserError(
            f"{option}: it holds a base and an adapter ({ADAPTER_CONFIG}), which would be loaded "
            f"as one. Give each a folder of its own, and name the adapter with --model.adapter."
        )
    if has(here, ".gguf") and not entry:
        raise UserError(gguf(place))
    if needs_weights and not entry:
        found = {kind for suffix, kind in OTHER_FRAMEWORKS.items() if has(here, suffix)}
        if found:
            raise UserError(
                f"{option}: it holds weights for {' and '.join(sorted(found))} only. Wanted "
                f"model.safetensors or pytorch_model.bin: name a base that has them."
            )
    missing = [] if CONFIG in here else [CONFIG]
    if needs_weights and not entry:
        missing.append(NO_WEIGHTS)
    has_tokenizer = has(here, ".model") or has(here, ".tiktoken") or here & set(TOKENIZERS)
    if needs_weights and not has_tokenizer:
        missing.append("a tokenizer (tokenizer.json or tokenizer.model)")
    if missing:
        raise UserError(incomplete(place, "; ".join(missing), here))


def has(names: Collection[str], suffix: str) -> bool:
    return any(name.endswith(suffix) for name in names)


def gguf(place: str) -> str:
    return (
        f"--model.backbone {place}: GGUF files are for running a model, not for training it. Name "
        f"the base that they were made from; their page on the hub says which one that is."
    )


def incomplete(place: str, missing: str, names: Collection[str]) -> str:
    found = ", ".join(sorted(names)[:8]) or "nothing"
    return (
        f"--model.backbone {place}: it is incomplete: missing {missing}; found {found}. Put the "
        f"missing files of the base into its folder, or name another base."
    )


def refuse_adapter(place: str, config: Path) -> None:
    """Refuses an adapter that is named as a base; says what its own base is.

    Args:
        config: its adapter_config.json
    """
    settings = read_json(config)
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    raise UserError(
        f"--model.backbone {place}: it holds an adapter, not a base. Name the adapter with "
        f"--model.adapter {place}, and with --model.backbone "
        f"{f'the base that it was trained on: {base}' if base else 'the base it was trained on'}."
    )


def refuse_pointers(place: str, files: Collection[Path]) -> None:
    """Refuses files of which only a Git LFS pointer is there: a clone without their content.

    Args:
        place: the folder that was named, or the hub id
    """
    remedy = "Fetch the content with `git lfs pull` in that folder, or name the base's hub id."
    if not Path(place).is_dir():
        remedy = "The content was never uploaded there: name another base."
    for file in files:
        if is_pointer(file):
            raise UserError(
                f"--model.backbone {place}: {file.name} is a Git LFS pointer, not the file itself. "
                f"{remedy}"
            )


def is_pointer(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size >= 1024:
        return False
    with file.open("rb") as opened:
        return opened.read(len(LFS_POINTER)) == LFS_POINTER
