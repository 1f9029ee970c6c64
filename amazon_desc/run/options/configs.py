"""What --config names -> files, one after the other, those first that a config itself is set over.

In come arguments as they were typed, out go the same with each config's path as it is on this
machine: a name that is not on disk is the shipped config of that name. `config:` at the top of a
config names others that it is set over, which are read before it. What the options in them mean is
the parser's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from os.path import exists, isdir, isfile  # of what is no name they say no, where a Path raises
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from amazon_desc.run.options.arguments import CONFIG, GROUPS, parts_of
from amazon_desc.run.options.paths import home_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.resources import find_config, shipped_configs

UNDER = "config"  # the key of a config that names those under it


class ConfigParser(LightningArgumentParser):
    """Reads a config without what is under it, which has been read before."""

    def parse_string(self, content: str, path: Any = "", *arguments: Any, **named: Any) -> Any:
        """The parser's own would read it too, and let it win over what stands further up."""
        own = without_those_under(content) if path else content
        return super().parse_string(own, path, *arguments, **named)


def with_configs_found(arguments: list[str]) -> list[str]:
    """Returns the arguments with each config's path, after those of the configs under it.

    --config mine.yaml, in which is `config: qlora.yaml`
    -> --config /package/configs/qlora.yaml --config mine.yaml
    """
    found: list[str] = []
    for part in parts_of(arguments):
        option, equals, value = part[0].partition("=")
        value = value if equals else "".join(part[1:])
        if option in GROUPS and isfile(value):
            refuse_other_encoding(Path(value), option)
        if option not in CONFIG or not value:
            found += part
            continue
        for file in with_those_under(find(value)):
            found += [f"{option}={file}"] if equals else [option, file]
    return found


def find(name: str) -> str:
    """Returns the path of what --config names: in the working folder, or among the shipped ones.

    Raises:
        UserError: it is nowhere, or a folder.
    """
    if is_no_file(name):
        return name
    path = home_of(name) if name.startswith("~") else name
    if isdir(path):
        raise UserError(f"--config {name}: not a file but a folder. Name a config in it.")
    if exists(path):
        return path
    if (shipped := find_config(path)) is not None:
        return str(shipped)
    raise UserError(
        f"--config {name}: the file does not exist in {Path.cwd()}, nor is it one of those that "
        f"ship: {', '.join(shipped_configs())}. Check the name."
    )


def is_no_file(name: str) -> bool:
    """Whether options themselves are in the place of a config's name, or an address elsewhere."""
    try:
        return "://" in name or isinstance(yaml.safe_load(name), dict)
    except yaml.YAMLError:
        return False


def with_those_under(file: str, over: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yields the configs under a config, each after those that are under it, and then itself.

    Args:
        over: those that it is under
    """
    path = Path(file)
    if isfile(file):  # no pipe, which can be read but once, and no options in place of a name
        refuse_other_encoding(path)
        config = read(path)
        refuse_values_of_groups(path, config)
        here = path.resolve()
        if here in over:
            chain = " -> ".join(entry.name for entry in (*over[over.index(here) :], here))
            raise UserError(
                f"{file}: wanted configs of which none is under itself, found {chain}. Take one of "
                f"these `config:` away."
            )
        for name in names_under(path, config):
            yield from with_those_under(find_under(name, path), (*over, here))
    yield file


def read(path: Path) -> Any:
    """Returns what is in a config; None where it is no YAML, which the parser says better."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None


def names_under(path: Path, config: Any) -> list[str]:
    """Returns what `config:` at the top of a config names: nothing, a file or several."""
    under = config.get(UNDER) if isinstance(config, dict) else None
    if under is None:
        return []
    names = under if isinstance(under, list) else [under]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: config: wanted the name of a config or a list, found {under}.")
    return names


def find_under(name: str, path: Path) -> str:
    """Returns a config beside another one, in the working folder, or among the shipped ones."""
    own = Path(home_of(name) if name.startswith("~") else name)
    for candidate in (path.parent / own, own, find_config(name)):
        if candidate is not None and candidate.is_file():
            return str(candidate)
    raise UserError(
        f"{path}: config: {name} does not exist beside it, nor in {Path.cwd()}, nor is it one of "
        f"those that ship: {', '.join(shipped_configs())}. Check the name."
    )


def without_those_under(text: str) -> str:
    """Returns a config's text with null after `config:`; all else keeps its line.

    "config: qlora.yaml\\ndata: {row_tokens: 512}" -> "config: null\\ndata: {row_tokens: 512}"
    """
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    for key, value in reversed(top.value) if isinstance(top, yaml.MappingNode) else []:
        if key.value == UNDER:
            before, after = text[: value.start_mark.index], text[value.end_mark.index :]
            is_block = isinstance(value, yaml.SequenceNode) and not value.flow_style
            text = f"{before} null\n{after}" if is_block else f"{before} null{after}"
    return text


def refuse_values_of_groups(path: Path, config: Any, prefix: str = "") -> None:
    """Refuses a number or a list where options by name are wanted: the parser passes over it."""
    for name, value in config.items() if isinstance(config, dict) else []:
        option = f"{prefix}{name}"
        if f"--{option}" not in GROUPS:
            continue
        if value is not None and not isinstance(value, (dict, str)):
            raise UserError(f"{path}: {option}: wanted options by name below it, found {value}.")
        refuse_values_of_groups(path, value, f"{option}.")


def refuse_other_encoding(config: Path, option: str = "--config") -> None:
    try:
        config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{option} {config}: wanted UTF-8, found other bytes ({error}). Save it as UTF-8."
        ) from error
