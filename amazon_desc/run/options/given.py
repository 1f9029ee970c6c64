"""The arguments of a command -> each option that they give, where it stands, and its value.

In come arguments in the order in which they are meant, out come options of configs and of the
command line alike. Whether there are such options, and what they take, is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from os.path import isfile  # of what is no name it says no, where a Path raises
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from amazon_desc.run.options.arguments import CONFIG, GROUPS, is_option, parts_of

NUMBER = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?")


class Given(NamedTuple):
    """An option as it was given, such as data.row_tokens."""

    option: str
    value: Any
    file: str | None = None
    """that it stands in; None: the command line"""

    @property
    def place(self) -> str:
        """--data.row_tokens, or mine.yaml: data.row_tokens"""
        return f"--{self.option}" if self.file is None else f"{self.file}: {self.option}"

    @property
    def shown_value(self) -> str:
        """The value as a sentence has it: a text in quotes, all else as a config has it."""
        value = self.value
        if self.file is None and isinstance(value, str) and NUMBER.fullmatch(value):
            return value
        return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def given_options(arguments: list[str]) -> Iterator[Given]:
    """Yields each option that arguments give, those of a config in its place.

    fit --config mine.yaml --model.lora.r 8
    -> Given("data.row_tokens", 512, "mine.yaml"), Given("model.lora.r", "8")
    """
    for part in parts_of(arguments):
        option, equals, typed = part[0].partition("=")
        value = typed if equals else "".join(part[1:]) if len(part) > 1 else None
        if option in CONFIG:
            yield from in_place_of_options(value or "", "")
        elif option in GROUPS:
            yield from in_place_of_options(value or "", option.removeprefix("--"))
        elif option.startswith("--"):
            yield Given(option.removeprefix("--").removesuffix("+"), value)


def strays(arguments: list[str]) -> list[str]:
    """Returns the words that are neither the command, nor an option, nor the value of one."""
    words = [part[0] for part in parts_of(arguments) if not is_option(part[0])]
    return words[1:]


def in_place_of_options(value: str, group: str) -> Iterator[Given]:
    """Yields what a file or a mapping gives, in place of all options or of a group of them."""
    prefix, config, file = f"{group}." if group else "", loaded(value), None
    if isfile(value):
        # what is not UTF-8 is refused elsewhere
        file, config = value, loaded(Path(value).read_text(encoding="utf-8", errors="replace"))
    if isinstance(config, dict):
        yield from leaves(config, prefix, file)
    elif group:
        yield Given(group, value)


def loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def leaves(config: dict[Any, Any], prefix: str, file: str | None = None) -> Iterator[Given]:
    """Yields the options of a mapping. {"a": {"b": 1}}, "x." -> Given("x.a.b", 1)"""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.", file)
        else:
            yield Given(f"{prefix}{name}".removesuffix("+"), value, file)
