"""Speed of `amazon_desc predict` on each card of this machine alone, and on all of them together.

    python scripts/bench_predict_cards.py --devices 2

Each card writes for as many titles as on its own. A process is timed from its first text to its
last, by how its file grows: imports, loading, merging and capturing are left out. Of several, the
slowest decides. Base and LoRA are random, every text has 128 tokens, and nothing is downloaded.
What two runs have written for the same titles is compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, NamedTuple

from bench_train import call
from random_base import SHAPES, make_base, write_products

ROOT = Path(__file__).resolve().parents[1]
NUM_PRODUCTS = 400  # to train one step on
WRITTEN = re.compile(r"Texts written: ([\d,]+) in ([\d,.]+) s: .*?([\d,]+) tokens/s")
LOOKED_EVERY_SECONDS = 0.01


@dataclass
class Growth:
    """How a file grew: when it was looked at, by the clock, and the bytes that it had then."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def add(self, at: float, size: int) -> None:
        if size > (self.seen[-1][1] if self.seen else 0):
            self.seen.append((at, size))

    @property
    def seconds(self) -> float:
        """From the first that was there to the last."""
        return self.seen[-1][0] - self.seen[0][0]

    @property
    def share(self) -> float:
        """What came in this time, of all."""
        return 1 - self.seen[0][1] / self.seen[-1][1]


class Run(NamedTuple):
    """A finished `predict`."""

    card: int | None
    """that wrote alone; None: several did"""
    titles: int
    seconds: float
    """that it says it wrote for, capturing and differences in starting among them"""
    titles_per_second: float
    """from the first text to the last"""
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
    parser.add_argument("--devices", type=int, default=2, help="cards to compare with each alone")
    parser.add_argument("--titles", type=int, default=48_000, help="titles for each card")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens of each text")
    parser.add_argument("--folder", type=Path, help="keeps base, run and texts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    parser.add_argument("options", nargs="*", help="after --: further options of fit and predict")
    return parser


def run(options: argparse.Namespace, folder: Path) -> int:
    """Prints and writes what is found. 1: the same titles got other texts."""
    given = begin(options, folder)
    alone = []
    for card in range(options.devices):
        alone.append(predict(given, folder, [card], options.titles))
        say(f"card {card} alone", alone[-1], options.new_tokens, "")
    together = predict(given, folder, range(options.devices), options.devices * options.titles)
    of_first = together.titles_per_second / alone[0].titles_per_second
    of_each = together.titles_per_second / mean(each.titles_per_second for each in alone)
    times = f", {of_first:.3f} times card 0, {of_each:.3f} times the mean of all alone"
    say(f"{options.devices} cards", together, options.new_tokens, times)
    runs = [*alone, together]
    different = list(differences(runs))
    print(*different or ["The same titles have the same texts."], sep="\n")
    if options.json:
        found = [{**of._asdict(), "output": str(of.output)} for of in runs]
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(bool(different))


def say(name: str, found: Run, new_tokens: int, times: str) -> None:
    speed = found.titles_per_second * new_tokens
    took = f"{found.titles:,} titles in {found.seconds:.1f} s"
    print(f"{name}: {took}, from first to last {speed:,.0f} tokens/s{times}", flush=True)


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
        called(["fit", *shared, *as_options(trained)], folder, 0)
    return shared


def predict(given: list[str], folder: Path, cards: Sequence[int], num_titles: int) -> Run:
    card = cards[0] if len(cards) == 1 else None
    name = f"{num_titles}-by-{'-'.join(map(str, cards))}"
    titles, output = folder / f"{name}.txt", folder / f"{name}.jsonl"
    titles.write_text("\n".join(titles_of(folder / "products.jsonl", num_titles)), "utf-8")
    output.unlink(missing_ok=True)
    own = {"--data.titles": titles, "--data.output": output, "--trainer.devices": len(cards)}
    with watched(output, len(cards)) as growing:
        printed = called(["predict", *given, *as_options(own)], folder, card)
    return Run(
        card, num_titles, seconds_in(printed, num_titles), speed_of(growing, num_titles), output
    )


@contextmanager
def watched(output: Path, num_processes: int) -> Iterator[list[Growth]]:
    """Yields how the file of each process grows meanwhile."""
    grows = output.with_name(f"{output.name}.partial")
    parts = output.with_name(f"{output.name}.parts")
    several = [parts / f"{rank}.jsonl" for rank in range(num_processes)]
    paths = [grows] if num_processes == 1 else several
    growing, is_over = [Growth() for _ in paths], Event()

    def watch() -> None:
        while not is_over.wait(LOOKED_EVERY_SECONDS):
            for path, growth in zip(paths, growing, strict=True):
                with suppress(OSError):  # it is not there yet, or not any more
                    growth.add(time.perf_counter(), path.stat().st_size)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield growing
    finally:
        is_over.set()
        thread.join()


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


def speed_of(growing: Sequence[Growth], num_titles: int) -> float:
    """Returns titles a second of all processes, each of which has as many, by the slowest.

    24,000 titles, of which 23,000 came in 10 s after the first 1,000  ->  2,300
    """
    if not all(growth.seen and growth.seconds for growth in growing):
        raise SystemExit(f"all of {num_titles:,} titles came at once: too few")
    return num_titles * min(growth.share / growth.seconds for growth in growing)


def differences(runs: Sequence[Run]) -> Iterator[str]:
    """Yields a sentence for each two runs that have other lines for the titles of both."""
    for one, other in combinations(runs, 2):
        with one.output.open("rb") as lines, other.output.open("rb") as others:
            num = min(one.titles, other.titles)
            both = zip(islice(lines, num), islice(others, num), strict=True)
            if any(line != wanted for line, wanted in both):
                yield f"{one.output} and {other.output} have other texts for the same titles."


def as_options(settings: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def called(arguments: list[str], folder: Path, card: int | None) -> str:
    """Runs a command of the program on a card, or all; returns what it printed, or ends with it."""
    command = [sys.executable, "-m", "amazon_desc", *arguments]
    failure, output = call(command, folder, None, card=card)
    if failure:
        raise SystemExit(f"{' '.join(command)}: {failure}\n{output[-3000:]}")
    return output


if __name__ == "__main__":
    sys.exit(main())
