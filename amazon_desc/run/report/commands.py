"""A run -> the commands that repeat it, score it and write with it.

In comes what is known of a run, out go lines for a shell, to be copied: every path is quoted. They
name the run folder as its user did, and nothing is run.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from amazon_desc.run.report.facts import RunFacts
from amazon_desc.run.report.values import text

EXAMPLE = "Red Mug"


class Command(NamedTuple):
    """A line for a shell, and what it is for."""

    what: str
    parts: list[str]
    """quoted; a space between them makes the line"""

    @property
    def line(self) -> str:
        return " ".join(self.parts)


def commands_of(run: RunFacts) -> list[Command]:
    """Returns the commands of a run in runs/shop: fit --config runs/shop/config.yaml and others."""
    if not run.config:
        return [Command("See its curves", quoted("tensorboard", "--logdir", run.place))]
    config = ("--config", f"{run.place}/config.yaml")
    was_moved = text(run.setting("trainer.default_root_dir")) != run.place
    here = ("--trainer.default_root_dir", run.place) if was_moved else ()
    program = ("python", "-m", "amazon_desc")
    again = ("--trainer.default_root_dir", f"{run.place}-again")
    return [
        Command("Train it again, in a new folder", quoted(*program, "fit", *config, *again)),
        Command("Score it on validation titles", quoted(*program, "validate", *config, *here)),
        Command(
            "Score it on test titles: once, when all choices are made",
            quoted(*program, "test", *config, *here),
        ),
        Command(
            "Write a description",
            quoted(*program, "predict", *config, *here, "--data.title", EXAMPLE),
        ),
        Command("See its curves and texts", quoted("tensorboard", "--logdir", run.place)),
        Command("Make this page again", quoted("python", "scripts/report.py", run.place)),
    ]


def quoted(*parts: str) -> list[str]:
    return [shlex.quote(part) for part in parts]
