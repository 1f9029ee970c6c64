"""What the parser refused -> a sentence: the option, what was wanted, what was found.

In come its error, the parser itself and the arguments, out go options that there are not with the
nearest ones that there are, or a value of another kind in words. What the parser says well itself,
such as that an option has no value, is left to it.
"""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pydoc import locate
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from amazon_desc.run.options.arguments import GROUPS
from amazon_desc.run.options.former_names import FORMER
from amazon_desc.run.options.given import Given, given_options, strays
from amazon_desc.run.options.nearest import nearest
from amazon_desc.run.options.wanted import in_words, is_mapping, makes_class, wanted
from amazon_desc.support.secrets import remember_options

# How the parser names what it has refused, from the outside to the inside.
KEY = re.compile(r'Parser key "([\w.]+)"')
CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
PROBLEM = re.compile(
    r"Option '(?P<unknown>[\w.]+)' is not accepted"
    r"|arguments are required: (?P<missing>\w+)"
    r'|Parser key "(?P<value>[\w.]+)"'
)
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
# What it has beside options of ours.
NEVER_MEANT = ("help", "help.trainer", *FORMER)


@contextmanager
def explained_refusals(parser: ArgumentParser | None, arguments: list[str]) -> Iterator[None]:
    """Has what a parser refuses in here said in a sentence, if there is one for it.

    Args:
        parser: None: there is no such command
    """
    try:
        yield
    except ArgumentError as error:
        sentence = None if parser is None else explained(error, parser, arguments)
        if sentence is None:
            raise
        raise ArgumentError(None, sentence) from error


def explained(error: Exception, parser: ArgumentParser, arguments: list[str]) -> str | None:
    """Returns what the parser refused in a sentence; None: the parser says it best.

    Args:
        parser: that of the command
        arguments: all of the command, in the order in which they are meant
    """
    kinds, links = kinds_of(parser), links_of(parser)
    given = list(given_options(arguments))
    remember_options({one.option: one.value for one in given})  # what is secret is not shown
    unknown = [one for one in given if not (is_known(one.option, kinds) or one.option in links)]
    if unknown:
        return "\n".join(no_such_option(one, kinds) for one in unknown)
    if str(error).startswith("unrecognized arguments") and (words := strays(arguments)):
        return no_option(words[0])
    keys = KEY.findall(str(error))
    key = (links.get(keys[0]) or keys[0]) if keys else ""
    own = [one for one in given if one.option == key or one.option.startswith(f"{key}.")]
    if own and f"--{key}" in GROUPS:
        return wrong_value(own[-1], "a YAML file of options, or options by name")
    if not own or kinds.get(key) is None:
        return None
    if makes_class(kinds[key]):
        return wrong_class(str(error), key, kinds[key], own)
    return wrong_value(own[-1], wanted(key, kinds[key]))


# What there is


def kinds_of(parser: ArgumentParser) -> dict[str, Any]:
    """Returns the type of each option by its name; of a group of options it is None."""
    return {
        name.removeprefix("--"): getattr(action, "_typehint", None)
        for action in parser._actions
        for name in action.option_strings
        if re.fullmatch(r"--[\w.]+(?<!\.help)", name)
    }


def links_of(parser: Any) -> dict[str, str]:
    """Returns the options that cannot be given, and which option each follows."""
    return {
        action.dest: sources[0][0]
        for action in parser._actions
        if isinstance(sources := getattr(action, "source", None), list)
    }


def is_known(option: str, kinds: dict[str, Any]) -> bool:
    """Whether there is an option of that name, or one of which it can be a part."""
    parts = option.split(".")
    above = [".".join(parts[:length]) for length in range(1, len(parts))]
    takes_parts = (
        makes_class(kinds[name]) or is_mapping(kinds[name]) for name in above if name in kinds
    )
    return option in kinds or any(takes_parts)


def arguments_of(kind: Any) -> list[str]:
    """Returns the names of a class's arguments, as far as they are known."""
    try:
        return list(signature(kind).parameters)
    except (TypeError, ValueError):
        return []


# What is said


def no_such_option(given: Given, kinds: dict[str, Any]) -> str:
    names = [name for name in kinds if name not in NEVER_MEANT]
    names += [
        f"model.optimizer.init_args.{name}" for name in arguments_of(locate("torch.optim.AdamW"))
    ]
    typed = f" {given.value}" if given.file is None and given.value is not None else ""
    dashes = "--" if given.file is None else ""
    found = [dashes + name for name in nearest(given.option, names)]
    return f"{given.place}{typed}: there is no such option.{as_sentence(found)}"


def as_sentence(names: list[str]) -> str:
    """Returns ' The nearest are a, b and c.', or nothing where there are none."""
    if len(names) < 2:
        return f" The nearest is {names[0]}." if names else ""
    return f" The nearest are {', '.join(names[:-1])} and {names[-1]}."


def no_option(word: str) -> str:
    is_config = word.endswith((".yaml", ".yml"))
    remedy = (
        f"Write --config {word}." if is_config else "Put quotes around a value of several words."
    )
    return f"{word}: wanted an option, such as --data.train_file FILE, found a word alone. {remedy}"


def wrong_value(given: Given, words: str) -> str:
    return f"{given.place}: wanted {words}, found {given.shown_value}."


def wrong_class(text: str, key: str, kind: Any, own: list[Given]) -> str:
    """Returns what is wrong with a class that an option names, or with an argument of it."""
    given = own[-1]
    place = given.place.removesuffix(given.option) + key
    prefix = "" if given.file else f"--{key}."  # in a file it stands below
    made = locate(path[1]) if (path := CLASS.search(text)) else None
    name = getattr(made, "__name__", key)
    problem = next((found for found in PROBLEM.finditer(text) if found["value"] != key), None)
    if problem is None:
        found = nearest(match[1], names_of(kind)) if (match := NO_CLASS.search(text)) else []
        return wrong_value(given._replace(option=key), in_words(kind)) + as_sentence(found)
    if (unknown := problem["unknown"]) is not None:
        found = [prefix + one for one in nearest(unknown, arguments_of(made))]
        return f"{place}: {name} takes no argument {unknown}.{as_sentence(found)}"
    if (missing := problem["missing"]) is not None:
        return f"{place}: {name} wants its argument {missing} too. Set {prefix}{missing}."
    argument = problem["value"]
    values = (one for one in own if one.option.endswith(f".{argument}"))
    return wrong_value(next(values, given), kind_of_argument(made, argument))


def kind_of_argument(made: Any, argument: str) -> str:
    """Returns what an argument of a class takes, in words; what is no option's kind is left out."""
    try:
        hint = get_type_hints(made.__init__)[argument]
    except (AttributeError, KeyError, NameError, TypeError):
        return "another kind of value"
    plain = tuple(one for one in get_args(hint) if not makes_class(one))
    return in_words(Union[plain] if plain and makes_class(hint) else hint)  # noqa: UP007 (a tuple)


def names_of(kind: Any) -> set[str]:
    """Returns the names of the classes that a type allows."""
    return {one.__name__ for one in classes_of(kind)}


def classes_of(kind: Any) -> Iterator[type]:
    """Yields the classes that a type allows by name, as far as they have been imported."""
    if isinstance(kind, type) and get_origin(kind) is None:
        yield from (one for sub in kind.__subclasses__() for one in (sub, *classes_of(sub)))
    elif get_origin(kind) is Callable:
        yield from classes_of(get_args(kind)[-1])
    else:
        for one in get_args(kind):
            yield from classes_of(one)
