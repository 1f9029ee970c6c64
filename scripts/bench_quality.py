"""How well a fit learns: `amazon_desc` beside TRL's SFTTrainer, on the same tokens, scored alike.

    pip install -e ".[bench]"
    python scripts/bench_quality.py --seeds 1 2 3 --folder quality -- \\
        --config configs/smollm2.yaml --data.train_file products.csv

What follows `--` are options of `fit`. Each side trains with each seed in a process of its own,
and its last weights are scored by our `validate` on the same held-out titles. Out: a table of means
over the seeds with 95 % intervals over titles, and of differences to the first side, compared title
by title. What is there of an earlier call is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bench_cpu import positive

from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.scored import Scored, read_scored, together

WORK = Path(__file__).with_name("bench_quality_work.py")
SHOWN = ("loss", "accuracy", "rouge1", "rougeL", "bleu", "chrf")


class Side(NamedTuple):
    """One way to train."""

    what: str
    options: tuple[str, ...] = ()
    work: str = ""
    """what bench_quality_work.py does, where it is not `fit` that trains"""
    is_scored_apart: bool = False
    """its adapter is scored by a command of its own, which has none of the side's options"""


SIDES = {
    "ours": Side("fit, as the options say"),
    "trl": Side("TRL's SFTTrainer, rows of as many tokens, packed its own way", (), "trl", True),
    "trl-unpacked": Side("TRL's SFTTrainer, padded examples", (), "trl-unpacked", True),
    "plain": Side("transformers' and PEFT's own layers", ("--model.kernels=plain",)),
    "bf16": Side("a base that is not in 4 bits", ("--model.quantization=none",)),
    "unpacked": Side("one example a row, padded", work="unpacked"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    own, options = own_and_of_fit(sys.argv[1:] if arguments is None else arguments)
    asked = build_parser().parse_args(own)
    folder = asked.folder.resolve()
    runs = [
        (run_of(folder, side, seed), SIDES[side], seed)
        for side in asked.sides
        for seed in asked.seeds
    ]
    # the first prepares the data that all others train on
    for group in (runs[:1], runs[1:]):
        with ThreadPoolExecutor(asked.jobs) as pool:
            list(pool.map(lambda of: finished(*of, folder, options), group))
    found = {side: [run_of(folder, side, seed) for seed in asked.seeds] for side in asked.sides}
    print(table(found))
    if asked.json:
        asked.json.write_text(json.dumps(numbers(found), indent=1) + "\n", encoding="utf-8")
    return 0


def own_and_of_fit(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what stands in front of `--`, and what stands behind it."""
    given = list(arguments)
    place = given.index("--") if "--" in given else len(given)
    return given[:place], given[place + 1 :]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "trl"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    return parser


# The runs


def run_of(folder: Path, side: str, seed: int) -> RunFolder:
    return RunFolder(folder / f"{side}-{seed}")


def finished(run: RunFolder, side: Side, seed: int, folder: Path, options: Sequence[str]) -> None:
    """Trains a side with a seed and scores its last weights, unless that was done.

    `folder` keeps the prepared data of all sides.
    """
    if run.scored("validate").is_file():
        return
    run.path.mkdir(parents=True, exist_ok=True)
    common = [
        *options,
        f"--seed_everything={seed}",
        f"--trainer.default_root_dir={run.path}",
        f"--data.corpora={folder / 'corpora'}",
        "--trainer.val_check_interval=1000000",  # the last weights are scored, as TRL's are
    ]
    own, trained = [*common, *side.options], run
    if side.is_scored_apart:
        trained = RunFolder(run.path / "trained")
        own.append(f"--trainer.default_root_dir={trained.path}")
    if side.work == "unpacked":
        own += [f"--data.corpora={folder / 'unpacked'}", *one_example_a_row(folder)]
    began = time.perf_counter()
    if side.work:
        call([str(WORK), side.work, str(trained.adapter), *own], run.path / "fit.log")
    else:
        call(["-m", "amazon_desc", "fit", *own], run.path / "fit.log")
    seconds = time.perf_counter() - began
    (run.path / "seconds.json").write_text(json.dumps({"command": seconds}), encoding="utf-8")
    if side.is_scored_apart:
        scored = [*common, f"--model.adapter={trained.adapter}"]
        call(["-m", "amazon_desc", "validate", *scored], run.path / "validate.log")
    print(f"{run.path.name}: {seconds:.0f} s", flush=True)


def one_example_a_row(folder: Path) -> list[str]:
    """Returns options under which a step has as many examples as one of packed rows, each alone."""
    (manifest,) = (folder / "corpora").glob("*/manifest.json")
    prepared = json.loads(manifest.read_text(encoding="utf-8"))
    counts, settings = prepared["counts"], prepared["settings"]
    per_row = counts["splits"]["train"] / counts["num_rows"]
    return [
        f"--data.row_tokens={settings['max_seq_length']}",
        f"--data.rows_per_step={round(per_row)}",
        "--data.batch_size=auto",
    ]


def call(command: Sequence[str], log: Path) -> None:
    """Runs a command of Python; its output is shown only if it fails."""
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run([sys.executable, *command], stdout=file, stderr=file, check=False)
    if ended.returncode:
        raise SystemExit(f"{log.read_text('utf-8')[-4000:]}\nerror: code {ended.returncode}: {log}")


# The numbers


def scored(runs: Sequence[RunFolder]) -> Scored:
    """Returns what the seeds of a side scored, each title with all of its texts."""
    return together([read_scored(run.scored("validate"), "tuned") for run in runs])


def numbers(found: dict[str, list[RunFolder]]) -> dict[str, Any]:
    """Returns, of each side, its scores and its differences to the first, as plain values."""
    base = read_scored(next(iter(found.values()))[0].scored("validate"), "base")
    sides = {"base": base, **{side: scored(runs) for side, runs in found.items()}}
    return beside(sides, next(iter(found)))


def beside(sides: dict[str, Scored], first: str) -> dict[str, Any]:
    """Returns the scores of sides, and their differences to one of them, as plain values."""
    return {
        side: {
            "scores": {name: of._asdict() for name, of in scores.intervals().items()},
            "less the first": {
                name: of._asdict() for name, of in scores.compared_with(sides[first]).items()
            },
        }
        for side, scores in sides.items()
    }


def table(found: dict[str, list[RunFolder]]) -> str:
    """Returns the scores of each side, and its differences to the first."""
    measured = numbers(found)
    head = "".join(f"{SCORES[name].label:>22}" for name in SHOWN)
    lines = [f"{'':<14}{head}"]
    for part, value in (("scores", "value"), ("less the first", "difference")):
        lines.append(part)
        for side, of in measured.items():
            cells = [cell(of[part].get(name), value, SCORES[name].decimals + 1) for name in SHOWN]
            lines.append(f"{side:<14}" + "".join(f"{text:>22}" for text in cells))
    for side, runs in found.items():
        seconds = [json.loads((run.path / "seconds.json").read_text())["command"] for run in runs]
        lines.append(f"{side}: {SIDES[side].what}; {sum(seconds) / len(seconds):.0f} s a command")
    return "\n".join(lines)


def cell(of: dict[str, float] | None, value: str, decimals: int) -> str:
    if of is None:
        return "-"
    return f"{of[value]:.{decimals}f} [{of['low']:.{decimals}f}, {of['high']:.{decimals}f}]"


if __name__ == "__main__":
    sys.exit(main())
