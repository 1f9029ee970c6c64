"""The adapter of a run as a folder to hand on: as it was written, verified, without local paths.

In comes RUN/adapter, out goes a folder that PEFT loads, with a card that says all that is known.
Weights are copied, not converted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from amazon_desc.export.card import Use, card_of
from amazon_desc.export.facts import Facts
from amazon_desc.export.folders import Contents
from amazon_desc.export.merged import NOT_OF_A_TOKENIZER, write_json
from amazon_desc.export.usage import adapter_lines, prompt_section
from amazon_desc.model.identity import FILES, RECORD_FILE, read_record
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import CheckpointError, UserError
from amazon_desc.support.files import read_json, write_text
from amazon_desc.support.layouts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from amazon_desc.training.finite import is_finite
from amazon_desc.training.module import DescriptionModule

CARD = "README.md"


def refuse_damaged(folder: Path) -> None:
    """Refuses an adapter's folder that is not what fit has written, by digests and by its form.

    One of before there were digests is read through: a file that is cut is found, a flipped bit
    is not.

    Raises:
        CheckpointError: it is damaged; what was wanted and found is said.
    """
    from safetensors import SafetensorError, safe_open

    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"{folder}: wanted a trained adapter, found none ({ADAPTER_WEIGHTS} is missing). Run "
            f"fit until it has finished."
        )
    for name, wanted in ((read_record(folder) or {}).get(FILES) or {}).items():
        file = folder / name
        found = sha256_of(file) if file.is_file() else "no such file"
        if found != wanted:
            raise damaged(file, f"wanted sha256 {wanted[:12]}, found {found[:12]}")
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            bad = [name for name in file.keys() if not is_finite(file.get_tensor(name))]  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(folder / ADAPTER_WEIGHTS, str(error).splitlines()[0][:160]) from error
    if bad:
        raise damaged(folder / ADAPTER_WEIGHTS, f"{bad[0]} is not finite")


def damaged(file: Path, flaw: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is damaged: {flaw}. Copy it back from where the run was trained, or train it "
        f"again: fit resumes from its newest checkpoint."
    )


def contents_of(adapter: Path, facts: Facts, card: str) -> Contents:
    """Returns what the folder will hold.

    Args:
        adapter: the run's
    """
    files = [path for path in sorted(adapter.iterdir()) if path.is_file()]
    files = [path for path in files if path.name != CARD and not path.name.startswith(".tmp-")]

    def write(folder: Path) -> None:
        for file in files:
            shutil.copyfile(file, folder / file.name)  # not its mode: weights are the owner's alone
        rewrite_without_paths(folder, facts.base)
        write_text(folder / CARD, card)

    return Contents(sum(path.stat().st_size for path in files), write)


def rewrite_without_paths(folder: Path, base: str) -> None:
    """Names the base as others can know it, and nothing else of this machine."""
    config = read_json(folder / ADAPTER_CONFIG)
    write_json(folder / ADAPTER_CONFIG, {**config, "base_model_name_or_path": base})
    file = folder / "tokenizer_config.json"
    if file.is_file():
        kept = {n: v for n, v in read_json(file).items() if n not in NOT_OF_A_TOKENIZER}
        write_json(file, kept)
    if (record := read_record(folder)) is None:  # PEFT or TRL wrote it
        return
    digests = {name: sha256_of(folder / name) for name in record.get(FILES) or {}}
    changed = {"backbone": base, **({FILES: digests} if digests else {})}
    write_json(folder / RECORD_FILE, {**record, **changed})


def adapter_card(module: DescriptionModule, facts: Facts, name: str) -> str:
    """Returns the README of the export under the name of its folder."""
    identity = module.identity(module.data)
    base = None if facts.is_on_hub else facts.base
    lines = adapter_lines(identity, module, name, base)
    what = f"LoRA matrices for `{facts.base}`, trained by amazon_desc."
    text = (
        "Load it with the base in the form that it was trained on: LoRA was learnt beside those "
        "weights, and beside others the texts differ."
    )
    uses = [Use("With PEFT", text, "python", lines)]
    return card_of("adapter", facts, what, prompt_section(identity), uses)
