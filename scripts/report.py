"""Makes the page of a run, or of several side by side: scores, curves, texts, commands.

In: run folders, and nothing but what is in them. Out: one file of HTML that needs no network, in
the folder of the run, or beside the first of several. Nothing is trained or scored.

    python scripts/report.py runs/shop
    python scripts/report.py runs/shop runs/other --output compared.html
"""
# ruff: noqa: E402 (matplotlib must find its environment as it is set here)

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

# As in __main__.py, and also before Lightning is imported.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)

from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.report.page import write_report
from amazon_desc.support.errors import UserError
from amazon_desc.support.printing import say


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("run", nargs="+", type=Path, help="the folder of a run")
    default = "default: report.html in the run's folder; of several, beside the first one"
    parser.add_argument("--output", type=Path, metavar="FILE", help=default)
    options = parser.parse_args(arguments)
    with errors_in_a_sentence(["report"], "python scripts/report.py"):
        output = options.output or place_of(options.run)
        if output.is_dir():
            raise UserError(
                f"--output {output}: wanted the name of a file, found a folder. Give a name in it, "
                f"such as {output / 'report.html'}."
            )
        write_report([RunFolder(run) for run in options.run], output)
    say(f"The report is in {output}: open it in a browser.")


def place_of(runs: Sequence[Path]) -> Path:
    """Returns where the page goes: runs/shop -> runs/shop/report.html, of several runs/report.html.

    The run folder knows the name of a report of one run.
    """
    first = RunFolder(runs[0])
    return first.report if len(runs) == 1 else runs[0].resolve().parent / first.report.name


if __name__ == "__main__":
    main()
