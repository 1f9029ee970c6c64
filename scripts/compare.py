"""Runs side by side: the scores of each, and what differs, compared title by title.

    python scripts/compare.py runs/a runs/b runs/c

In come run folders that were scored on the same titles, by `fit` or `validate` (or, with
`--command test`, by `test`), out goes a table: each run's tuned weights with the 95 % interval of a
score, and its difference to the first run with the p value of a paired bootstrap test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from amazon_desc.evaluation.intervals import Comparison, Interval
from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.scored import read_scored

BETTER = {"lower": "lower is better", "higher": "higher is better", "near 1": "1 is alike"}


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(given)
    with errors_in_a_sentence(given, "python scripts/compare.py"):
        found = {
            str(run): read_scored(RunFolder(run).scored(options.command), "tuned")
            for run in options.runs
        }
        first = next(iter(found.values()))
        differences = {name: of.compared_with(first) for name, of in list(found.items())[1:]}
        print(f"{len(first.titles)} titles, {options.command}\n")
        print(table({name: of.intervals() for name, of in found.items()}, differences))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--command",
        choices=["validate", "test"],
        default="validate",
        help="whose scores, of all runs",
    )
    return parser


def table(
    scores: Mapping[str, Mapping[str, Interval]],
    differences: Mapping[str, Mapping[str, Comparison]],
) -> str:
    """Returns a block of lines for each score: a run a line, with its difference to the first.

    loss (lower is better)
      runs/a      3.0089 [2.9312, 3.0866]
      runs/b      2.9804 [2.9041, 3.0571]   -0.0285 [-0.0334, -0.0237]  p 0.001
    """
    width = max(map(len, scores))
    blocks = []
    for name, shown in SCORES.items():
        lines = []
        for run, found in scores.items():
            if name not in found:
                continue
            digits = shown.decimals + 1
            of, line = found[name], f"  {run:<{width}}"
            line += f"  {of.value:.{digits}f} [{of.low:.{digits}f}, {of.high:.{digits}f}]"
            if (less := differences.get(run, {}).get(name)) is not None:
                line += f"   {less.difference:+.{digits}f}"
                line += f" [{less.low:+.{digits}f}, {less.high:+.{digits}f}]  p {less.p_value:.3f}"
            lines.append(line)
        if lines:
            blocks.append("\n".join([f"{shown.label} ({BETTER[shown.better]})", *lines]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    main()
