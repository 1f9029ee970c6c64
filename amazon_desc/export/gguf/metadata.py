"""What a GGUF file says of its model: name, base, license; only what is known.

In come facts, by names of ours, out go keys under `general.`; a fact without a key there is written
under `amazon_desc.`, so that nothing said is lost.
"""

from __future__ import annotations

from typing import Any

# Fact -> the writer's method of a key that is one text.
SIMPLE = (
    *("name", "author", "version", "organization", "finetune", "basename", "description"),
    *("license", "license_name", "license_link", "url", "repo_url"),
)


def add_facts(writer: Any, facts: dict[str, str]) -> None:
    """Writes the facts; empty ones are left out.

    Beside those of SIMPLE: base_model (its name), base_model_version (its revision),
    base_model_repo_url, and datasets, tags and languages, one a line.

    {"name": "Shop", "base_model": "TinyLlama", "datasets": "a.csv\\nb.csv", "prompt": "Title: "}
        -> general.name, general.base_model.0.name, general.dataset.0.name, general.dataset.1.name,
           amazon_desc.prompt
    """
    known = {name: value for name, value in facts.items() if value}
    for name in SIMPLE:
        if name in known:
            getattr(writer, f"add_{name}")(known.pop(name))
    of_base = {name: known.pop(name) for name in list(known) if name.startswith("base_model")}
    if "base_model" in of_base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, of_base.pop("base_model"))
        for name, value in of_base.items():
            getattr(writer, f"add_{name}")(0, value)
    if "datasets" in known:
        names = known.pop("datasets").splitlines()
        writer.add_dataset_count(len(names))
        for index, name in enumerate(names):
            writer.add_dataset_name(index, name)
    for name in ("tags", "languages"):
        if name in known:
            getattr(writer, f"add_{name}")(known.pop(name).splitlines())
    for name, value in known.items():
        writer.add_string(f"amazon_desc.{name}", value)
