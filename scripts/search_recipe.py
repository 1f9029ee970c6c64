"""A better recipe for one's data: options of a fit tried in rounds, and the gain proved on others.

    python scripts/search_recipe.py --folder search --jobs 8 -- \\
        --config configs/smollm2.yaml --data.train_file products.csv

What follows `--` are options of `fit`: the recipe to begin with. In each round its changes are
tried on the best recipe so far, with the first seed; the one of the lowest loss on the validation
titles is taken if it is surely lower, title by title. Changes of the last round that are surely
better by themselves are tried together as well. In the end first and best recipe train with all
seeds and are compared on the test titles, on which nothing was chosen. Out: a table of what was
tried, and that comparison. What is there of an earlier call is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from bench_cpu import positive
from bench_quality import SHOWN, Side, beside, call, cell, finished, own_and_of_fit

from amazon_desc.evaluation.intervals import Comparison
from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.scored import Scored, read_scored, together

Recipe = tuple[tuple[str, str], ...]
"""changes of the first recipe: (knob, value), each knob once, in their order"""

RATE, RANK, EPOCHS, TOKENS = "lr", "r", "epochs", "row_tokens"
OPTIONS = {
    RATE: "--model.optimizer.init_args.lr",
    RANK: "--model.lora.r",
    EPOCHS: "--trainer.max_epochs",
    TOKENS: "--data.row_tokens",
    "schedule": "--model.schedule",
    "final": "--model.final_lr_fraction",
    "dropout": "--model.lora.dropout",
    "decay": "--model.optimizer.init_args.weight_decay",
    "loss_on": "--data.loss_on",
}
NOISE = "noise"  # has no option: it is only tried

# Changes that go together stand in one tuple. Rate and rank are tried in pairs: what is a good rate
# for one rank is too high for another.
RATES = ("1.0e-3", "2.0e-3", "4.0e-3")
PAIRS = [((RATE, rate), (RANK, rank)) for rate, rank in product(RATES, ("16", "64", "128"))]
LONGER = [((RATE, rate), (EPOCHS, number)) for rate, number in product(RATES[:2], ("2", "3"))]
OTHERS = [
    *(((RATE, rate),) for rate in ("5.0e-4", *RATES)),
    ((TOKENS, "1024"),),
    (("schedule", "linear"), ("final", "0.0")),
    (("schedule", "cosine"), ("final", "0.0")),
    (("dropout", "0.0"),),
    (("dropout", "0.1"),),
    (("decay", "0.1"),),
    (("loss_on", "all"),),
    ((NOISE, "5"),),
]
ROUNDS = (PAIRS, LONGER, OTHERS)


def main(arguments: Sequence[str] | None = None) -> int:
    own, options = own_and_of_fit(sys.argv[1:] if arguments is None else arguments)
    asked = build_parser().parse_args(own)
    search = Search(asked.folder.resolve(), options, asked.seeds, asked.jobs)
    best = search.best(ROUNDS)
    print(f"\nbest: {name_of(best)}\n  {' '.join(options_of(best))}")
    found = search.proof(best)
    print(table(found))
    if asked.json:
        asked.json.write_text(json.dumps(beside(found, "first"), indent=1) + "\n", encoding="utf-8")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the comparison")
    return parser


# Recipes


def changed(recipe: Recipe, changes: Recipe) -> Recipe:
    """Returns a recipe with some knobs at other values.

    (lr 1e-3, r 64) with (r 16) -> (lr 1e-3, r 16)
    """
    knobs = {**dict(recipe), **dict(changes)}
    return tuple((knob, knobs[knob]) for knob in (*OPTIONS, NOISE) if knob in knobs)


def name_of(recipe: Recipe) -> str:
    return "_".join(f"{knob}-{value}" for knob, value in recipe) or "first"


def options_of(recipe: Recipe) -> list[str]:
    """Returns the options of `fit` that make the changes; LoRA's scale stays 2 at every rank."""
    options = [f"{OPTIONS[knob]}={value}" for knob, value in recipe if knob in OPTIONS]
    return options + [f"--model.lora.alpha={2 * int(of)}" for knob, of in recipe if knob == RANK]


def side_of(recipe: Recipe) -> Side:
    knobs = dict(recipe)
    # a loss on all is not that of the others: those weights are scored as the first recipe's are
    is_apart = knobs.get("loss_on") == "all"
    work = "noise" if NOISE in knobs else ""
    return Side(name_of(recipe), tuple(options_of(recipe)), work, is_apart)


# The search


class Search:
    """Runs of recipes in one folder, each with a seed."""

    def __init__(
        self, folder: Path, options: Sequence[str], seeds: Sequence[int], num_jobs: int
    ) -> None:
        self.folder, self.options = folder, list(options)
        self.seeds, self.num_jobs = list(seeds), num_jobs

    def run_of(self, recipe: Recipe, seed: int) -> RunFolder:
        return RunFolder(self.folder / f"{name_of(recipe)}.{seed}")

    def train(self, runs: Iterable[tuple[Recipe, int]]) -> None:
        """Trains and scores what is not there yet, several at a time."""

        def one(recipe: Recipe, seed: int) -> None:
            run = self.run_of(recipe, seed)
            finished(run, side_of(recipe), seed, self.folder, self.options)

        with ThreadPoolExecutor(self.num_jobs) as pool:
            list(pool.map(lambda of: one(*of), dict.fromkeys(runs)))

    def losses(self, recipe: Recipe, seed: int) -> Scored:
        return read_scored(self.run_of(recipe, seed).scored("validate"), "tuned")

    def best(self, rounds: Sequence[Sequence[Recipe]]) -> Recipe:
        """Returns the recipe that all rounds led to."""
        best, seed = (), self.seeds[0]
        self.train([(best, seed)])  # prepares the data that the others train on
        for number, changes in enumerate(rounds, start=1):
            tried = [changed(best, change) for change in changes]
            before, better = best, self.surely_better(best, tried, f"round {number}")
            if better:
                best = better[0]
            if number == len(rounds) and len(better) > 1:
                combined = before
                for recipe in reversed(better):  # of one knob, the better value
                    combined = changed(combined, tuple(set(recipe) - set(before)))
                best = next(iter(self.surely_better(best, [combined], "together")), best)
        return best

    def surely_better(self, best: Recipe, tried: Sequence[Recipe], title: str) -> list[Recipe]:
        """Returns those with a surely lower loss than the best so far, the lowest first."""
        seed = self.seeds[0]
        self.train((recipe, seed) for recipe in tried)
        before = self.losses(best, seed)
        print(f"\n{title}, from {name_of(best)}: {before.intervals()['loss'].value:.4f}")
        found: dict[Recipe, Comparison] = {}
        for recipe in dict.fromkeys(tried):
            if recipe != best:
                after = self.losses(recipe, seed)
                found[recipe] = after.compared_with(before)["loss"]
                value = after.intervals()["loss"].value
                print(f"  {value:.4f}  {shown(found[recipe])}  {name_of(recipe)}", flush=True)
        better = [recipe for recipe, of in found.items() if of.high < 0 and math.isfinite(of.high)]
        return sorted(better, key=lambda recipe: found[recipe].difference)

    def proof(self, best: Recipe) -> dict[str, Scored]:
        """Returns what the base, the first recipe and the best score on the test titles.

        Of the recipes, the means of all seeds.
        """
        recipes: dict[str, Recipe] = {"first": (), "best": best}
        self.train(product(recipes.values(), self.seeds))
        with ThreadPoolExecutor(self.num_jobs) as pool:
            list(pool.map(lambda of: self.test(*of), product(recipes.values(), self.seeds)))
        sides = {
            name: together(
                [
                    read_scored(self.run_of(recipe, seed).scored("test"), "tuned")
                    for seed in self.seeds
                ]
            )
            for name, recipe in recipes.items()
        }
        base = read_scored(self.run_of((), self.seeds[0]).scored("test"), "base")
        return {"base": base, **sides}

    def test(self, recipe: Recipe, seed: int) -> None:
        """Scores a trained recipe on the test titles, unless that was done."""
        run = self.run_of(recipe, seed)
        if run.scored("test").is_file():
            return
        side = side_of(recipe)
        adapter = (RunFolder(run.path / "trained") if side.is_scored_apart else run).adapter
        options = [
            *self.options,
            f"--seed_everything={seed}",
            f"--data.corpora={self.folder / 'corpora'}",
            f"--trainer.default_root_dir={run.path}",
            f"--model.adapter={adapter}",
        ]
        call(["-m", "amazon_desc", "test", *options], run.path / "test.log")


# The proof


def shown(of: Comparison) -> str:
    return f"{of.difference:+.4f} [{of.low:+.4f}, {of.high:+.4f}]"


def table(found: dict[str, Scored]) -> str:
    """Returns the scores on the test titles, a line each."""
    measured = beside(found, "first")
    lines = [f"\non {len(found['first'].titles)} test titles, means of all seeds"]
    lines.append(f"{'':<14}" + "".join(f"{side:>26}" for side in found) + f"{'best - first':>28}")
    for name in (*SHOWN, "loops", "ended", "copied", "invented", "title_words", "length_ratio"):
        digits = SCORES[name].decimals + 1
        cells = [cell(of["scores"].get(name), "value", digits) for of in measured.values()]
        less = cell(measured["best"]["less the first"].get(name), "difference", digits)
        lines.append(
            f"{SCORES[name].label:<14}" + "".join(f"{c:>26}" for c in cells) + f"{less:>28}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
