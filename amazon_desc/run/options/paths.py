"""`~` in options is the home folder, also where no shell has seen it.

In come all options of a command, out go the same with whole paths. A shell leaves `--option=~/x`
alone, and YAML has none; without this a folder called `~` would be made.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from amazon_desc.support.errors import UserError

# Each is a path, or may be one, or a list of them.
PATHS = (
    *("ckpt_path", "trainer.default_root_dir", "model.backbone", "model.adapter"),
    *("data.backbone", "data.train_file", "data.test_file", "data.titles", "data.output"),
    "data.corpora",
)
# Whatever their classes call it.
CLASSES = ("trainer.logger", "trainer.callbacks", "trainer.profiler", "trainer.plugins")


def expand_home(options: MutableMapping[str, Any]) -> None:
    """Expands `~` in every option that names a path, in place.

    {"data.train_file": ["~/a.csv", "b.csv"]} -> {"data.train_file": ["/home/me/a.csv", "b.csv"]}
    """
    for option in (*PATHS, *CLASSES):
        if options.get(option) is not None:
            options[option] = expanded(options[option])


def expanded(value: Any) -> Any:
    """Returns a value in which no text begins with `~`: all that do are taken for paths.

    Raises:
        UserError: `~somebody` is the home folder of nobody.
    """
    if isinstance(value, str):
        return home_of(value) if value.startswith("~") else value
    if isinstance(value, list):
        return [expanded(entry) for entry in value]
    if isinstance(value, (dict, Namespace)):
        for name, entry in list(value.items()):
            value[name] = expanded(entry)
    return value


def home_of(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(
            f"{path}: wanted ~/ or the home folder of a user, found no such user. Write the whole "
            f"path."
        ) from error
