"""Turns a backbone's name into a folder on this machine: `tiny`, a folder, or a hub id.

Everything after this works on folders only, so there is one place that can meet the network. A hub
token is read from the environment (HF_TOKEN) and from nowhere else; it is never an option here,
because options are written to `config.yaml`. Nothing is loaded into memory here.
"""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from amazon_desc.errors import UserError
from amazon_desc.files import read_json
from amazon_desc.printing import TOKEN
from amazon_desc.resources import TINY_BASE

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# How long the hub may take to answer before what is in the local cache has to do.
HUB_SECONDS = 5

# Never pickles: weights come from safetensors only.
SMALL_FILES = ["*.json", "*.model", "*.jinja"]
WANTED_FILES = ["*.safetensors", *SMALL_FILES]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A base model's files, and the name by which anyone else can find the same ones.

    `name` is a hub id or an absolute path; `revision` is a commit of the hub, or None for a folder.
    """

    folder: Path
    name: str
    revision: str | None = None


def find_backbone(
    name: str, revision: str | None = None, *, needs_weights: bool = True
) -> Backbone:
    """Returns the folder that holds the base `name`, downloading it from the hub if need be.

    Args:
        needs_weights: False: its configuration suffices

    Raises:
        UserError: it is neither a folder with a config.json nor a hub id that can be had.
    """
    path = TINY_BASE if name == "tiny" else Path(name).expanduser()
    if path.is_dir():
        check_folder(path, needs_weights)
        return Backbone(path.resolve(), str(path.resolve()))
    if path.exists() or not HUB_ID.fullmatch(name) or name.startswith("."):
        raise UserError(
            f"--model.backbone {name}: wanted `tiny`, a folder with config.json and safetensors, "
            f"or a hub id such as TinyLlama/TinyLlama_v1.1; found "
            f"{'a file' if path.exists() else 'no such folder'}."
        )
    return download(name, revision, needs_weights)


def check_folder(folder: Path, needs_weights: bool) -> None:
    """Refuses a folder that lacks what a base needs, naming what is missing."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if needs_weights and not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if needs_weights and not any(
        (folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")
    ):
        missing.append("tokenizer.json or tokenizer.model")
    if missing:
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
        raise UserError(
            f"--model.backbone {folder}: the folder is incomplete: missing {'; '.join(missing)}; "
            f"found {found}. Copy the base's files there, or name its hub id."
        )
    read_json(folder / "config.json")
    for index in folder.glob("*.index.json"):
        refuse_pickles(index)


def refuse_pickles(index: Path) -> None:
    """Refuses an index of weights that names other files than safetensors, which may hold code."""
    names = read_json(index).get("weight_map", {}).values()
    if pickled := sorted({str(name) for name in names if not str(name).endswith(".safetensors")}):
        raise UserError(
            f"--model.backbone {index.parent}: {index.name} names weights that are no safetensors "
            f"({pickled[0]}), which are never loaded. Convert them, or name another base."
        )


@functools.cache
def download(name: str, revision: str | None, needs_weights: bool) -> Backbone:
    """Fetches the files of a hub id, or takes them from the local cache when the hub is away."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    refusal = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else hub_refusal(name, revision)
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=WANTED_FILES if needs_weights else SMALL_FILES,
            etag_timeout=HUB_SECONDS,
            token=hub_token(),
            local_files_only=bool(refusal),
        )
    except (OSError, HFValidationError) as error:
        place = f"{name}@{revision}" if revision else name
        raise UserError(
            f"--model.backbone {place}: it is not in the local cache and could not be had from the "
            f"hub ({refusal or first_line(error)}). Check the name and the network (a gated model "
            f"also needs HF_TOKEN in the environment), fetch it once with `hf download {name}`, or "
            f"name a folder that holds it."
        ) from None
    check_folder(Path(folder), needs_weights)
    return Backbone(Path(folder), name, Path(folder).name)


def hub_token() -> str | bool:
    """Returns the token of the environment, or False: a file that holds one is not looked for."""
    return os.environ.get(TOKEN) or False


def hub_refusal(name: str, revision: str | None) -> str | None:
    """Returns why the hub does not hand out `name`, or None where it does.

    Asked ahead of the download, which would wait for ever for a hub that does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The errors of httpx or httpx2, whichever huggingface_hub is built on.
    http_error = HfHubHTTPError.__bases__[0]
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS, token=hub_token())
    except (http_error, OSError, HFValidationError) as error:  # pyright: ignore
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, short enough for one sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
