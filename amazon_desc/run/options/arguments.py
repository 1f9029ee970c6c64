"""The arguments as they were typed -> the same in the order in which they are meant.

The command comes first, then the configs, then what is set over them: so the command line wins
over every config, wherever it stands. What is an option, and what it takes, the parser knows; here
it is only known which arguments belong together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

CONFIG = ("-c", "--config")
# A file or a mapping in place of all options that begin so. The longer come later.
GROUPS = (
    *("--model", "--data", "--trainer", "--checkpoint"),
    *("--model.lora", "--model.decoding", "--data.prompt", "--data.cleaning"),
)
TITLE = "--data.title"
WITHOUT_VALUE = ("-h", "--help", "--help.trainer", "--print_config")
NUMBER = re.compile(r"-\d|-\.\d")


def in_order(arguments: list[str]) -> list[str]:
    """Returns the command, the configs and then all else, each as it stood among its own.

    --model.lora.r 8 --config a.yaml fit --config=b.yaml
    -> fit --config a.yaml --config=b.yaml --model.lora.r 8
    """
    parts = list(parts_of(arguments))
    command = next((part for part in parts if not is_option(part[0])), [])
    others = [part for part in parts if part is not command]
    return [*command, *(argument for part in sorted(others, key=place_of) for argument in part)]


def with_titles_joined(arguments: list[str]) -> list[str]:
    """Returns the arguments with all titles that were typed as one option, whatever is in them.

    --data.title "Red Mug" --data.title=[2] -> --data.title=["Red Mug", "[2]"]
    """
    titles, others = [], []
    for part in parts_of(arguments):
        name, equals, value = part[0].partition("=")
        if name == TITLE and (equals or len(part) > 1):
            titles.append(value if equals else part[1])
        else:
            others += part
    return [*others, f"{TITLE}={json.dumps(titles)}"] if titles else others


def parts_of(arguments: list[str]) -> Iterator[list[str]]:
    """Yields each option with its value, if it has one, and each argument that is neither."""
    rest = list(arguments)
    while rest:
        part = [rest.pop(0)]
        takes_value = is_option(part[0]) and "=" not in part[0] and part[0] not in WITHOUT_VALUE
        if takes_value and rest and not is_option(rest[0]):
            part.append(rest.pop(0))
        yield part


def is_option(argument: str) -> bool:
    return argument.startswith("-") and not NUMBER.match(argument)


def place_of(part: list[str]) -> int:
    name = part[0].partition("=")[0]
    if name in CONFIG:
        return 0
    return 1 + GROUPS.index(name) if name in GROUPS else 1 + len(GROUPS)
