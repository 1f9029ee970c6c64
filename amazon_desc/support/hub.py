"""Turns a model's name into a folder on this machine: `tiny`, a folder, or a hub id.

Everything after this works on folders only, so there is one place that can meet the network. A hub
token is read from the environment (HF_TOKEN) and from nowhere else; it is never an option here,
because options are written to `config.yaml`. Nothing is loaded into memory here.
"""

import errno
import functools
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from amazon_desc.support import layouts
from amazon_desc.support.errors import StorageError, UserError
from amazon_desc.support.files import free_space, read_json
from amazon_desc.support.hub_access import refusal_of
from amazon_desc.support.layouts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from amazon_desc.support.resources import TINY_BASE

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# What a user does who has no room for models where the hub keeps them.
ANOTHER_DISK = "set HF_HOME to a folder on another disk"

# How long the hub may take to answer before what is in the local cache has to do.
HUB_SECONDS = 5


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
        needs_weights: False: its configuration suffices, and what small files it has

    Raises:
        UserError: it is neither a folder with a base nor a hub id that can be had, or something
            else than a base; the message says what.
    """
    path = TINY_BASE if name == "tiny" else Path(name).expanduser()
    if path.is_dir():
        check_folder(path, str(path), needs_weights)
        return Backbone(path.resolve(), str(path.resolve()))
    if path.suffix == ".gguf":
        raise UserError(layouts.gguf(name))
    if path.exists() or not is_hub_id(name):
        raise UserError(
            f"--model.backbone {name}: wanted `tiny`, a folder with config.json, weights and "
            f"tokenizer, or a hub id such as TinyLlama/TinyLlama_v1.1; found "
            f"{'a file' if path.exists() else 'no such folder'}."
        )
    folder = download_base(name, revision, needs_weights)
    return Backbone(folder, name, folder.name)


def find_adapter(name: str) -> Path:
    """Returns the folder of an adapter: as it is named, or fetched where the name is a hub id.

    Raises:
        UserError: it is no folder, and cannot be had from the hub.
    """
    path = Path(name).expanduser()
    return path if path.exists() or not is_hub_id(name) else download_adapter(name)


def is_hub_id(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and not name.startswith(".")


def check_folder(folder: Path, place: str, needs_weights: bool) -> None:
    """Refuses a folder that does not hold a base, or lacks what a base needs."""
    names = {path.name for path in folder.iterdir()}
    if ADAPTER_CONFIG in names and CONFIG not in names:
        layouts.refuse_adapter(place, folder / ADAPTER_CONFIG)
    layouts.check_names(place, names, needs_weights)
    small = [folder / name for name in layouts.small_files(names)]
    layouts.refuse_pointers(place, small)
    read_json(folder / CONFIG)
    if needs_weights:
        weights = layouts.weight_files(folder)
        if lost := [file.name for file in weights if not file.exists()]:
            raise UserError(layouts.incomplete(place, ", ".join(lost), names))
        layouts.refuse_pointers(place, weights)


# The hub


@functools.cache
def download_base(name: str, revision: str | None, needs_weights: bool) -> Path:
    """Fetches a base's files, or takes them from the local cache when the hub is away.

    What it is shows by the names of its files, before one of them is fetched. Of weights in several
    forms one is fetched: safetensors, or else PyTorch's pickles.
    """
    hub = repository("--model.backbone", name, revision)
    if hub.names is None:
        folder = hub.cached(CONFIG)
    else:
        if ADAPTER_CONFIG in hub.names and CONFIG not in hub.names:
            layouts.refuse_adapter(name, hub.fetch([ADAPTER_CONFIG]) / ADAPTER_CONFIG)
        layouts.check_names(name, hub.names, needs_weights)
        folder = hub.small_files
        entry = layouts.weights_entry(hub.names)
        if needs_weights and entry:
            folder = hub.fetch(layouts.weight_names(folder, entry), commit=folder.name)
    check_folder(folder, name, needs_weights)
    return folder


@functools.cache
def download_adapter(name: str) -> Path:
    """Fetches an adapter's files, or takes them from the local cache when the hub is away."""
    hub = repository("--model.adapter", name, None)
    if hub.names is None:
        return hub.cached(ADAPTER_CONFIG)
    if ADAPTER_CONFIG not in hub.names:
        raise UserError(
            f"--model.adapter {name}: it is no adapter: it has no {ADAPTER_CONFIG}. Name one that "
            f"PEFT saved{'; a base is named with --model.backbone' if CONFIG in hub.names else ''}."
        )
    return hub.fetch([*layouts.small_files(hub.names), ADAPTER_WEIGHTS])


class Repository:
    """A repository of the hub, for an option that names it."""

    def __init__(self, option: str, name: str, revision: str | None) -> None:
        self.option, self.name, self.revision = option, name, revision
        self.refusal = ""

    @functools.cached_property
    def names(self) -> Collection[str] | None:
        """The names of its files, or None where the hub does not say.

        Asked ahead of a download, which would wait for ever for a hub that does not answer.
        """
        from huggingface_hub import HfApi, is_offline_mode

        if is_offline_mode():
            self.refusal = "HF_HUB_OFFLINE is set"
            return None
        try:
            found = HfApi().model_info(
                self.name, revision=self.revision, timeout=HUB_SECONDS, token=hub_token()
            )
        except hub_errors() as error:
            self.refusal = self.reason(error)
            return None
        return [file.rfilename for file in found.siblings or []]

    @functools.cached_property
    def small_files(self) -> Path:
        """The folder with all but its weights, which are fetched."""
        return self.fetch(layouts.small_files(self.names or []))

    def fetch(self, names: Collection[str], commit: str | None = None) -> Path:
        """Fetches files that are not in the local cache yet; returns the folder that holds them.

        Args:
            commit: of the revision, where it is known: it may have moved on since
        """
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(
                self.name,
                revision=commit or self.revision,
                allow_patterns=[glob_of(name) for name in names],
                etag_timeout=HUB_SECONDS,
                token=hub_token(),
            )
        except hub_errors() as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(self.without_room()) from None
            raise UserError(
                f"{self.place}: it could not be fetched from the hub: {self.reason(error)}. Files "
                f"that are whole are kept: run the same command again."
            ) from None
        return Path(folder)

    def cached(self, name: str) -> Path:
        """Returns the folder of the local cache that holds the file `name`."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(self.name, name, revision=self.revision)
        except HFValidationError:
            found = None
        if not isinstance(found, str):
            raise UserError(
                f"{self.place}: it is not in the local cache and could not be had from the hub: "
                f"{self.refusal}. Check the name and the network (there is no folder of that name "
                f"either), fetch it once with `hf download {self.name}`, or name a folder that "
                f"holds it."
            )
        return Path(found).parent

    @property
    def place(self) -> str:
        return f"{self.option} {self.name}{f'@{self.revision}' if self.revision else ''}"

    def without_room(self) -> str:
        cache = hub_cache()
        return (
            f"{self.place}: {cache} cannot hold it: No space left on device{free_space(cache)}. "
            f"Make room there, or {ANOTHER_DISK}."
        )

    def reason(self, error: Exception) -> str:
        """Returns why the hub does not hand something out, and what a user can do about it."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            RevisionNotFoundError,
        )

        # What the hub answered is the cause of the news that nothing is in the local cache.
        error = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error
        if isinstance(error, RevisionNotFoundError):
            return f"it has no --model.revision {self.revision}"
        page = f"{HfApi().endpoint}/{self.name}"
        if (refusal := refusal_of(error, page, hub_token() is not False)) is not None:
            return refusal
        kind = "" if isinstance(error, HFValidationError) else "no answer, or not all of it: "
        return f"{kind}{first_line(error)}"


repository = functools.cache(Repository)


def hub_token() -> str | bool:
    """Returns the token of the environment, or False: a file that holds one is not looked for."""
    return os.environ.get("HF_TOKEN") or False


# What huggingface_hub has, but under no documented name


def hub_cache() -> Path:
    """Returns the folder in which huggingface_hub keeps what it fetches."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def hub_errors() -> tuple[type[Exception], ...]:
    """Returns what can be raised on the way to the hub and back."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Of httpx or httpx2, whichever huggingface_hub is built on: all errors of theirs are of it.
    (http_error,) = (base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    assert issubclass(http_error, Exception)
    return (http_error, OSError, HFValidationError)


def glob_of(name: str) -> str:
    """Returns the pattern that matches this name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, short enough for one sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
