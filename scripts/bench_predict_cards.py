"""Speed of `amazon_desc predict` on one card and on several, side by side on this machine.

    python scripts/bench_predict_cards.py --devices 2

Each number of cards writes for twice as many titles as before: 24,000 for a card, then 48,000. What
the second run takes longer is the speed: imports, loading, merging and capturing are left out. Base
and LoRA are random, every text has 128 tokens, and nothing is downloaded. Where two runs have the
same titles, their files are compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from filecmp import cmp
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench_train import call
from random_base import SHAPES, make_base, write_products

ROOT = Path(__file__).resolve().parents[1]
NUM_PRODUCTS = 400  # to train one step on
WRITTEN = re.compile(r"Texts written: ([\d,]+) in ([\d,.]+) s: .*?([\d,]+) tokens/s")


class Run(NamedTuple):
    """A finished `predict`."""

    devices: int
    titles: int
    seconds: float
    """of writing, as it says itself"""
    output: Path


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    with TemporaryDirectory(prefix="bench_predict_cards-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return run(options, folder)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", choices=(*SHAPES, "tiny"), default="tinyllama")
    parser.add_argument("--devices", type=int, default=2, help="cards to compare with one")
    parser.add_argument("--titles", type=int, default=24_000, help="titles for each card")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens of each text")
    parser.add_argument("--folder", type=Path, help="keeps base, run and texts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    parser.add_argument("options", nargs="*", help="after --: further options of fit and predict")
    return parser


def run(options: argparse.Namespace, folder: Path) -> int:
    """Prints and writes what is found. 1: the same titles got other texts."""
    given = begin(options, folder)
    speeds, runs = {}, []
    for devices in dict.fromkeys((1, options.devices)):
        both = [
            predict(given, folder, devices, times * devices * options.titles) for times in (1, 2)
        ]
        runs += both
        speeds[devices] = speed_of(*both) * options.new_tokens
        times = f", {speeds[devices] / speeds[1]:.3f} times one" if devices > 1 else ""
        few, many = (f"{of.titles:,} titles in {of.seconds:.1f} s" for of in both)
        print(f"{devices} cards: {few}, {many}: {speeds[devices]:,.0f} tokens/s{times}", flush=True)
    different = list(differences(runs))
    print(*different or ["The same titles have the same texts."], sep="\n")
    if options.json:
        found = {"tokens_per_second": speeds, "runs": [(*of[:3], str(of.output)) for of in runs]}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(bool(different))


def begin(options: argparse.Namespace, folder: Path) -> list[str]:
    """Makes a base and a run of it, and returns the options of predict."""
    from amazon_desc.data.encoding.tokenizer import load_tokenizer

    base, products = make_base(options.base, folder), folder / "products.jsonl"
    write_products(products, load_tokenizer(base), NUM_PRODUCTS)
    settings = {
        "--config": ROOT / "configs" / "qlora.yaml",
        "--model.backbone": base,
        "--model.decoding.min_new_tokens": options.new_tokens,
        "--model.decoding.max_new_tokens": options.new_tokens,
        "--trainer.default_root_dir": folder / "run",
        "--trainer.enable_progress_bar": "false",
    }
    trained = {
        "--data.train_file": products,
        "--data.corpora": folder / "corpora",
        "--data.validation_fraction": 0.1,
        "--data.test_fraction": 0.1,
        "--trainer.max_steps": 1,
        "--trainer.limit_val_batches": 0,
        "--model.optimizer.init_args.lr": 1e-9,  # else the texts of one step end at once
    }
    shared = [*as_options(settings), *options.options]
    if not (folder / "run" / "adapter").is_dir():
        called(["fit", *shared, *as_options(trained)], folder)
    return shared


def predict(given: list[str], folder: Path, devices: int, num_titles: int) -> Run:
    titles, output = folder / f"{num_titles}.txt", folder / f"{num_titles}-by-{devices}.jsonl"
    titles.write_text("\n".join(titles_of(folder / "products.jsonl", num_titles)), "utf-8")
    output.unlink(missing_ok=True)
    own = {"--data.titles": titles, "--data.output": output, "--trainer.devices": devices}
    printed = called(["predict", *given, *as_options(own)], folder)
    return Run(devices, num_titles, seconds_in(printed, num_titles), output)


def titles_of(products: Path, num: int) -> Iterator[str]:
    """Yields so many titles, each once: those of the products in turn, with a number."""
    found = [json.loads(line)["title"] for line in products.read_text("utf-8").splitlines()]
    for number in range(num):
        yield f"{found[number % len(found)]} {number}"


def seconds_in(printed: str, num_titles: int) -> float:
    """Returns how long predict says that it wrote for."""
    found = WRITTEN.search(printed)
    if not found or int(found[1].replace(",", "")) != num_titles:
        raise SystemExit(f"{num_titles:,} texts were wanted, and predict said:\n{printed[-2000:]}")
    return float(found[2].replace(",", ""))


def speed_of(few: Run, many: Run) -> float:
    """Returns titles a second, without what a run takes however many titles there are.

    24,000 in 20.0 s, and 48,000 in 40.0 s  ->  1,200
    """
    if many.seconds <= few.seconds:
        raise SystemExit(f"{many.titles:,} titles took no longer than {few.titles:,}: too few")
    return (many.titles - few.titles) / (many.seconds - few.seconds)


def differences(runs: Sequence[Run]) -> Iterator[str]:
    """Yields a sentence for each two runs of the same titles whose files are not the same."""
    for number, one in enumerate(runs):
        for other in runs[:number]:
            if one.titles == other.titles and not cmp(one.output, other.output, shallow=False):
                yield f"{one.output} and {other.output} are not the same."


def as_options(settings: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def called(arguments: list[str], folder: Path) -> str:
    """Runs a command of the program in a folder; returns what it printed, or ends with it."""
    command = [sys.executable, "-m", "amazon_desc", *arguments]
    failure, output = call(command, folder, None, is_alone=False)
    if failure:
        raise SystemExit(f"{' '.join(command)}: {failure}\n{output[-3000:]}")
    return output


if __name__ == "__main__":
    sys.exit(main())
