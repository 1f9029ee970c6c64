"""What is known of a tuned model: base, data, settings, scores, versions; nothing of this machine.

In come a run's records and its module, out go facts for cards and for files that hold metadata.
Paths are cut to names, and what is secret is masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import yaml

import amazon_desc
from amazon_desc.data.corpus.corpus import find_prepared
from amazon_desc.data.encoding.markers import TITLE_SHOWN
from amazon_desc.model.identity import Identity
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import is_hub_id
from amazon_desc.support.secrets import masked
from amazon_desc.training.module import DescriptionModule

# Of a run's settings: what stands elsewhere in a card.
ELSEWHERE = ("--model.backbone", "--data.train_file", "--data.test_file", "--data.prompt.")

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Facts:
    """What cards and metadata are made of."""

    base: str
    """hub id, or the name of its folder"""
    is_on_hub: bool
    revision: str | None
    base_sha256: str
    license: str | None
    """as the base says it, in the front matter of its card; None: it does not say"""
    quantization: str
    precision: str
    """that training computed in"""
    settings: dict[str, Any]
    """what decided the run, by option"""
    files: list[dict[str, str]]
    """of products: use, name and sha256"""
    counts: dict[str, Any]
    """of the prepared data; empty where that is gone"""
    num_steps: int | None
    scores: dict[str, Any]
    """as metrics.json has them"""
    decoding: dict[str, Any]
    versions: dict[str, str]
    exported_with: dict[str, str] = field(default_factory=dict)


def facts_of(
    module: DescriptionModule,
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    precision: str,
) -> Facts:
    """Returns the facts of a finished run.

    Args:
        module: with its data, and with or without its weights
        record: run.json
        metrics: metrics.json, or nothing
    """
    identity = module.identity(module.data)
    settings = dict(record.get("settings") or {})
    return Facts(
        base=shown_name(identity.backbone),
        is_on_hub=is_on_hub(identity),
        revision=identity.revision,
        base_sha256=identity.base_sha256,
        license=license_of(module.base.folder),
        quantization=identity.quantization,
        precision=precision,
        settings={
            option: without_paths(value)
            for option, value in settings.items()
            if not option.startswith(ELSEWHERE)
        },
        files=files_in(settings),
        counts=counts_of(module, files_in(settings)),
        num_steps=record.get("num_steps"),
        scores=dict(metrics),
        decoding=asdict(module.decoding),
        versions=dict(record.get("versions") or {}),
        exported_with=installed(),
    )


def is_on_hub(identity: Identity) -> bool:
    """Whether others find the base by its name: of a folder there is no revision."""
    return identity.revision is not None and is_hub_id(identity.backbone)


def shown_name(name: str) -> str:
    """/home/me/models/shop-base -> shop-base; TinyLlama/TinyLlama_v1.1 stays"""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def without_paths(value: Any) -> Any:
    """Returns a setting in which files and folders have their names alone."""
    if isinstance(value, str):
        return masked(shown_name(value))
    if isinstance(value, Mapping):
        return {name: without_paths(entry) for name, entry in value.items()}
    return [without_paths(entry) for entry in value] if isinstance(value, list) else value


def files_in(settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the files of products that a run's record names."""
    return [
        {"use": use, "name": PurePath(file["name"]).name, "sha256": file["sha256"]}
        for use in ("train", "test")
        for file in settings.get(f"--data.{use}_file") or []
    ]


def counts_of(module: DescriptionModule, files: list[dict[str, str]]) -> dict[str, Any]:
    """Returns what was counted when the data was prepared, if that is still there."""
    data, frame = module.data, module.data.encoder.prompter.dated_frame
    try:
        corpus = find_prepared(data.settings, module.base.folder, data.corpora_folder, frame)
    except (UserError, OSError):  # the files of products are gone, or elsewhere
        return {}
    if corpus is None:
        return {}
    digests = [file["sha256"] for file in corpus.manifest["files"]]
    return corpus.manifest["counts"] if digests == [file["sha256"] for file in files] else {}


def license_of(folder: Path) -> str | None:
    """Returns the license that the card in a base's folder names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    match = FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        found = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return None
    name = found.get("license") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def installed() -> dict[str, str]:
    found = {"amazon_desc": amazon_desc.__version__}
    for package in ("transformers", "peft", "bitsandbytes", "safetensors", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def metadata_of(facts: Facts, name: str, template: str) -> dict[str, str]:
    """Returns facts as texts by the names that GGUF's metadata has; what is not known is left out.

    Args:
        name: of the model
        template: of its prompt
    """
    found = {
        "name": name,
        "description": f"Writes a product description from a title, such as {TITLE_SHOWN!r}.",
        "finetune": "product-descriptions",
        "license": facts.license or "",
        "base_model": facts.base,
        "base_model_version": facts.revision or "",
        "base_model_repo_url": f"https://huggingface.co/{facts.base}" if facts.is_on_hub else "",
        "tags": "text-generation\nproduct-descriptions",
        "prompt": template,
    }
    return {name: value for name, value in found.items() if value}
