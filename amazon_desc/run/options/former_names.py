"""What options were called before: taken from a config of before, refused elsewhere.

In come the options of a command and the arguments that they were read from, out go the options
under their names of now, or a UserError that says the new name. Lightning's own
`--trainer.accumulate_grad_batches` is refused in checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import yaml

from amazon_desc.support.errors import UserError

FORMER = {"model.max_new_tokens": "model.decoding.max_new_tokens"}


def take_former_names(options: Any, arguments: Sequence[str], trains: bool) -> None:
    """Moves what has its name of before in a config to its name of now.

    A finished run has such a config.yaml, and can be scored and written with. Who trains writes a
    config anew, and who types an option can type the new one. What is given under both
    names is what the new one says.

    Raises:
        UserError: it is typed, or the command trains; names the new option with the same value.
    """
    for former, name in FORMER.items():
        value = options.get(former)
        if value is None:
            continue
        is_typed = f"--{former}" in typed(arguments)
        if trains or is_typed:
            leave = "" if is_typed else f", or set it to null with --{former} null"
            raise UserError(
                f"--{former} {value}: wanted its name of now, --{name}. Set --{name} {value}, and "
                f"leave this one away{leave}."
            )
        if f"--{name}" not in {*typed(arguments), *configured(arguments)}:
            options[name] = int(value)  # a number that knows its range is not written as YAML
        options[former] = None


def typed(arguments: Sequence[str]) -> list[str]:
    """Returns the options on the command line, without their values."""
    return [word.split("=")[0] for word in arguments if word.startswith("-")]


def configured(arguments: Sequence[str]) -> Iterator[str]:
    """Yields the options in the configs that the command line names."""
    for index, word in enumerate(arguments):
        option, _, value = word.partition("=")
        name = value or "".join(arguments[index + 1 : index + 2])
        if option in ("-c", "--config") and isfile(name):
            yield from leaves(yaml.safe_load(Path(name).read_text(encoding="utf-8")), "--")


def leaves(config: Any, prefix: str) -> Iterator[str]:
    """Yields the names of a config's options. {"a": {"b": 1}}, "--" -> "--a.b" """
    if isinstance(config, dict):
        for name, value in config.items():
            yield from leaves(value, f"{prefix}{name}.")
    else:
        yield prefix.removesuffix(".")
