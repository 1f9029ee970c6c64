"""Gives a finished run's model to other programs: an adapter, merged, as GGUF, or on the hub.

In: a run folder, and in which form. Out: a folder, whole or not there, with a card that says how it
is used; the last line names it. `hub` uploads such a folder and nothing else.

    python scripts/export.py runs/shop --to adapter
    python scripts/export.py runs/shop --to merged --dtype bfloat16
    python scripts/export.py runs/shop --to gguf --type q8_0
    python scripts/export.py runs/shop --to hub --from runs/shop/exports/shop-merged --repo me/shop
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from amazon_desc.describer import opened
from amazon_desc.export import adapter, hub, llama_cpp, merged
from amazon_desc.export.facts import facts_of
from amazon_desc.export.folders import Contents, size, size_of, write_export
from amazon_desc.export.gguf.quantizing import ADAPTER_KINDS, KINDS, check_kind
from amazon_desc.run.checkpoints import trained_precision
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.support.printing import say


def main(arguments: list[str]) -> None:
    parser = build_parser()
    options = parser.parse_args(arguments)
    with errors_in_a_sentence(arguments, "python scripts/export.py"):
        if options.to == "hub":
            hub.push(options.source, options.repo, is_public=options.public, is_sure=options.yes)
        else:
            export(options)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the run folder; fit has finished in it")
    forms = ("adapter", "merged", "gguf", "hub")
    parser.add_argument("--to", required=True, choices=forms, help="the form")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: RUN/exports/NAME-FORM"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another export there")
    of_merged = parser.add_argument_group("merged")
    of_merged.add_argument(
        "--dtype",
        choices=merged.DTYPES,
        default="bfloat16",
        help="precision of the weights; bfloat16: what models are published in, at half of "
        "float32's size, and without float16's limit",
    )
    of_merged.add_argument(
        "--full",
        action="store_true",
        help="of a Gemma that reads images too: all of it, not its text model alone",
    )
    of_gguf = parser.add_argument_group("gguf", "wants the package gguf: the extra [gguf]")
    of_gguf.add_argument("--type", choices=KINDS, default="f16", help="of the numbers")
    of_gguf.add_argument(
        "--adapter-only", action="store_true", help="LoRA alone, for a base that is GGUF already"
    )
    of_hub = parser.add_argument_group("hub", "the token comes from the environment: HF_TOKEN")
    of_hub.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="what another --to has written"
    )
    of_hub.add_argument("--repo", metavar="NAME/MODEL", help="where to; made if it is not there")
    of_hub.add_argument("--public", action="store_true", help="a new repository is for all to see")
    of_hub.add_argument("--yes", action="store_true", help="do not ask before the upload")
    return parser


def export(options: argparse.Namespace) -> None:
    """Writes the folder that was asked for, or finds it there."""
    run = RunFolder(options.run)
    refuse_unfinished(run)
    adapter.refuse_damaged(run.adapter)
    precision = precision_of(run)
    module, _ = opened(run.path, accelerator="cpu", precision=precision)
    metrics = read_json(run.metrics) if run.metrics.is_file() else {}
    facts = facts_of(module, run.read_record(), metrics, precision)
    name = f"{run.path.resolve().name}-{options.to}"
    folder = options.output or run.path / "exports" / name

    made_of: dict[str, Any] = {
        "form": options.to,
        "adapter": sha256_of(run.adapter / ADAPTER_WEIGHTS),
        "base": facts.base_sha256,
    }
    if options.to == "adapter":
        card = adapter.adapter_card(module, facts, folder.name)

        def plan() -> Contents:
            return adapter.contents_of(run.adapter, facts, card)
    elif options.to == "gguf":
        name, kind, is_adapter = run.path.resolve().name, options.type, options.adapter_only
        check_kind(kind, ADAPTER_KINDS if is_adapter else KINDS)
        card = llama_cpp.card_for(module, facts, name, kind, is_adapter)
        made_of |= {"type": kind, "is_adapter": is_adapter, "name": name}

        def plan() -> Contents:
            if is_adapter:
                of_run = (run.adapter, facts, card, name, kind)
                return llama_cpp.adapter_contents_of(module, *of_run)
            return llama_cpp.contents_of(module, facts, card, name, kind)
    else:
        form = {"dtype": options.dtype, "is_whole": options.full}
        merged.refuse_precision(module.base, options.dtype)
        card = merged.merged_card(module, facts, folder.name, **form)
        made_of |= form

        def plan() -> Contents:
            return merged.contents_of(module, card, **form)

    made_of["card"] = hashlib.sha256(card.encode()).hexdigest()
    is_new = write_export(folder, made_of, plan, overwrite=options.overwrite)
    say(
        f"{'Written' if is_new else 'There already, and whole'}: {folder} ({size(size_of(folder))})"
    )


def refuse_unfinished(run: RunFolder) -> None:
    if not run.config.is_file():
        raise UserError(f"{run.path}: wanted a run folder, found no config.yaml. Run fit.")
    if not run.is_finished():
        raise UserError(
            f"{run.path}: wanted a run that has finished, found one that was stopped. Run the same "
            f"fit again: it resumes where it stopped."
        )


def precision_of(run: RunFolder) -> str:
    """Returns the precision to load the base in: what it was trained in, where a CPU has that."""
    recorded = (run.read_record().get("settings") or {}).get("--trainer.precision")
    found = trained_precision(run) or recorded or "32-true"
    return "bf16-mixed" if found == "bf16-mixed" else "32-true"


if __name__ == "__main__":
    main(sys.argv[1:])
