"""Runs -> one page of HTML that needs nothing else: no network, no script, no other file.

In come run folders, out goes the page, written whole or not at all; the same runs give the same
bytes. What it says is decided in the files beside this one, how it looks in page.html and
style.css.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.report import tables
from amazon_desc.run.report.cards import cards_of
from amazon_desc.run.report.commands import commands_of
from amazon_desc.run.report.drawing import COLOURS
from amazon_desc.run.report.facts import RunFacts, facts_of
from amazon_desc.run.report.figures import (
    columns_of,
    curve_figures,
    length_figures,
    score_figures,
)
from amazon_desc.run.report.scores import STAGES
from amazon_desc.run.report.verdict import beside_each_other, verdicts_on
from amazon_desc.support.files import storage, write_text
from amazon_desc.support.printing import printable
from amazon_desc.support.secrets import masked

HERE = Path(__file__).parent
JOINERS = "\u200c\u200d"  # are not printable, and part of letters and emoji of some languages
MOST_OF_OPTIONS = 20_000  # characters


def write_report(runs: Sequence[RunFolder], output: Path) -> None:
    """Writes the report of a run, or of several side by side.

    Raises:
        UserError: a folder is none of a run.
        StorageError: the page cannot be written.
    """
    page = page_of([facts_of(run) for run in runs])
    with storage(output.parent):
        write_text(output, page)


def page_of(runs: Sequence[RunFacts]) -> str:
    """Returns the page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stage = next((stage for stage in STAGES if any(stage in run.overviews for run in runs)), None)
    return environment.get_template("page.html").render(
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        heading=" and ".join(run.name for run in runs),
        runs=[run_of(run) for run in runs],
        beside=beside_each_other(runs) if len(runs) > 1 else None,
        stages=[stage_of(runs, stage) for stage in STAGES if any(stage in r.stages for r in runs)],
        curves=curve_figures(runs),
        lengths=length_figures(runs, stage),
        cards=cards_of(runs, stage) if stage else [],
        cards_of=STAGES.get(stage or "", ""),
        about=tables.about_rows(runs),
        differing=tables.differing(runs) if len(runs) > 1 else [],
    )


def run_of(run: RunFacts) -> dict[str, Any]:
    """Returns what the page says of one run."""
    is_cut = len(run.config) > MOST_OF_OPTIONS
    return {
        "name": run.name,
        "verdicts": verdicts_on(run),
        "notes": run.notes,
        "num_others": run.log.num_others,
        "commands": commands_of(run),
        "options": [*run.config[:MOST_OF_OPTIONS].splitlines(), *["…"] * is_cut],
        "is_finished": "finished" in run.record,
        "data": tables.data_rows(run),
    }


def stage_of(runs: Sequence[RunFacts], stage: str) -> dict[str, Any]:
    """Returns what the page says of one stage's scores."""
    return {
        "name": STAGES[stage],
        "legend": [
            (label, "base" if index is None else f"run{index % len(COLOURS)}")
            for label, _, index in columns_of(runs, stage, "loss")
        ],
        "columns": tables.score_columns(runs, stage),
        "rows": tables.score_rows(runs, stage),
        "figures": score_figures(runs, stage),
        "measured": [
            (run.name, tables.measured_on(run.stages[stage])) for run in runs if stage in run.stages
        ],
        "has_intervals": any(stage in r.stages and r.stages[stage].has_intervals for r in runs),
    }


def harmless(value: Any) -> Any:
    """Returns what may stand in a page: no secret, nothing that is not printable.

    "Mug\\x1b[2J\\u202e" -> "Mug\\\\x1b[2J\\\\u202e". What is markup in it is escaped after this.
    """
    if hasattr(value, "__html__") or not isinstance(value, str):  # what the template calls safe
        return value
    return "".join(of if of in JOINERS else printable(of) for of in masked(value))
