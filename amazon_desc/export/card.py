"""The README of an export: what the model is, what it was made of and measured at, how to use it.

In come facts and lines of code, out goes Markdown with YAML in front, as the hub reads it. Any text
may be in the facts: names of files and prompts end no fence, no table and no YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import yaml

from amazon_desc.export.facts import Facts
from amazon_desc.export.usage import fenced
from amazon_desc.support.secrets import masked

Kind = Literal["adapter", "merged", "gguf"]

# What the hub calls an export's library, and how it is related to its base.
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}


class Use(NamedTuple):
    """One way to use an export."""

    title: str
    text: str
    """Markdown before the lines"""
    language: str
    lines: str


def card_of(kind: Kind, facts: Facts, what: str, prompt: str, uses: Sequence[Use]) -> str:
    """Returns the README of an export.

    Args:
        what: Markdown that says what the files are
        prompt: Markdown that says what the model is asked with
        uses: in the order in which they are shown
    """
    sections = [
        f"# Product descriptions from titles\n\n{what} {prompt}",
        *(f"## {use.title}\n\n{use.text}\n\n{code(use)}" for use in uses),
        "## Base\n\n" + "\n".join(base_lines(facts)),
        "## Data\n\n" + "\n".join(data_lines(facts)),
        "## Scores\n\n" + scores_section(facts),
        "## Decoding\n\nWhat the texts of these scores and of the lines above are written with, "
        "by amazon_desc's names:\n\n" + fenced_yaml(facts.decoding),
        "## Training\n\n" + training_section(facts),
        "## Limits\n\n" + LIMITS,
    ]
    return masked(front_matter(kind, facts) + "\n" + "\n\n".join(map(str.strip, sections)) + "\n")


def front_matter(kind: Kind, facts: Facts) -> str:
    """Returns what the hub reads of a card; a base that is not on the hub is not named there."""
    found: dict[str, Any] = {}
    if facts.license:
        found["license"] = facts.license
    if facts.is_on_hub:
        found |= {"base_model": facts.base, "base_model_relation": RELATIONS[kind]}
    found |= {"library_name": LIBRARIES[kind], "pipeline_tag": "text-generation"}
    tags = ["product-descriptions", "amazon_desc"]
    found["tags"] = [*(["lora"] if kind == "adapter" else []), *tags]
    return f"---\n{as_yaml(found)}---\n"


def base_lines(facts: Facts) -> Iterator[str]:
    if facts.is_on_hub:
        yield f"- [{facts.base}](https://huggingface.co/{facts.base})"
        yield f"- revision: {span(facts.revision or '')}"
    else:
        yield f"- a local folder named {span(facts.base)}: it is on no hub by that name"
    yield f"- weights: sha256 {span(facts.base_sha256)} of their sizes and samples"
    in_4_bits = "in 4 bits (NF4, double quantisation)" if facts.quantization == "nf4" else "dense"
    yield f"- kept {in_4_bits} while LoRA was trained"
    yield f"- license: {span(facts.license) if facts.license else 'not known here, see the base'}"


def data_lines(facts: Facts) -> Iterator[str]:
    for file in facts.files:
        yield f"- {file['use']}: {span(file['name'])}, sha256 {span(file['sha256'])}"
    counts = facts.counts
    if not counts:
        yield "- counts: the prepared data was gone when this was exported"
        return
    splits = ", ".join(f"{num:,} {name}" for name, num in counts["splits"].items())
    refused = ", ".join(f"{num:,} {plain(name)}" for name, num in counts["refused"].items())
    yield f"- {counts['num_records']:,} records, {counts['num_pairs']:,} of them used: {splits}"
    yield f"- left out: {refused or 'none'}"
    yield f"- {counts['num_tokens']:,} tokens to train on, {counts['num_target_tokens']:,} learnt"


def scores_section(facts: Facts) -> str:
    found = {
        name: of for name, of in facts.scores.items() if isinstance(of, dict) and "tuned" in of
    }
    if not found:
        return "None were measured."
    parts = [scores_of(command, of, facts) for command, of in found.items()]
    return "\n\n".join([*parts, SCORES])


def scores_of(command: str, of: dict[str, Any], facts: Facts) -> str:
    """Returns the table of a command, and with what its texts were written, where that differs."""
    base, tuned = of.get("base") or {}, of["tuned"]
    lines = [measured_on(command, facts), "", "| | base | tuned |", "|---|---|---|"]
    lines += [
        f"| {plain(name)} | {number(base.get(name))} | {number(value)} |"
        for name, value in tuned.items()
    ]
    if of.get("decoding") not in (None, facts.decoding):
        lines += ["", "Their texts were written with other settings:", ""]
        lines.append(fenced_yaml(of["decoding"]))
    return "\n".join(lines)


def measured_on(command: str, facts: Facts) -> str:
    """Returns what the scores of a command were measured on."""
    split = {"validate": "validation", "test": "test"}.get(command, command)
    most, there = facts.settings.get("--data.num_scored"), facts.counts.get("splits", {}).get(split)
    numbers = [number for number in (most, there) if isinstance(number, int)]
    how_many = f"{min(numbers):,}" if there is not None and numbers else f"at most {most}"
    file = next((f["name"] for f in facts.files if f["use"] == "test"), None)
    if split == "test" and file is not None:
        return f"`{plain(command)}`: {how_many} titles of {span(file)}, none of them trained on."
    share = facts.settings.get(f"--data.{split}_fraction")
    part = f" ({share:.1%} of all titles)" if isinstance(share, float) else ""
    held_out = f"titles that were held out for {plain(split)}{part}"
    return f"`{plain(command)}`: the first {how_many} {held_out}; none of them was trained on."


def training_section(facts: Facts) -> str:
    steps = f"{facts.num_steps:,} optimizer steps" if facts.num_steps else "A fit"
    return (
        f"{steps}, computed in {plain(facts.precision)}, with\n\n{fenced_yaml(facts.settings)}\n\n"
        f"Trained with {versions_in(facts.versions)}.\n"
        f"Exported with {versions_in(facts.exported_with)}."
    )


def versions_in(versions: dict[str, str]) -> str:
    return ", ".join(f"{plain(name)} {plain(of)}" for name, of in versions.items()) or "unknown"


# Texts that end nothing around them


def code(use: Use) -> str:
    return fenced(use.lines, use.language)


def fenced_yaml(values: dict[str, Any]) -> str:
    return fenced(as_yaml(values).rstrip("\n"), "yaml")


def as_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


def span(text: str) -> str:
    """Returns a text as Markdown's code on one line, in which no mark counts.

    "a`b|c\\nd" -> "``a`b¦c d``": a bar would end the cell of a table
    """
    line = " ".join(text.split()).replace("|", "¦")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def plain(text: Any) -> str:
    """Returns a short text as it is shown, without what Markdown or HTML would read."""
    return re.sub(r"[^\w .,:;+=%/()-]", "?", str(text))


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "–"


SCORES = (
    "Loss is in nats a target token, perplexity its exponential, ROUGE goes from 0 to 1, BLEU from "
    "0 to 100. They compare words, not facts: read them as base beside tuned weights."
)

LIMITS = (
    "A title leaves most of a description open: the model invents sizes, materials and names that "
    "sound right. Check every text before a customer reads it."
)
