"""What an option takes, in words: "a whole number of at least 1, or auto".

In comes the type that an option is declared with, out go words for the page of options and for who
gave something else. Whether a value is of a type, the parser knows.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from amazon_desc.support.options import IN_WORDS

NULL = "null"
PLAIN: dict[Any, str] = {
    **{bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"},
    **{type(None): NULL, timedelta: "a time", dict: "options by name"},
    **IN_WORDS,
}
OF_THEM = "a list of them"
SEVERAL = {"text": "texts", "a whole number": "whole numbers", "a number": "numbers"}

# Where the type says too much, or too little.
OF_OPTIONS = {
    "seed_everything": "a whole number of at least 0",
    "trainer.default_root_dir": "a folder",
    "trainer.max_epochs": "a whole number of at least 1",
    "trainer.max_steps": "a whole number of at least 1, or -1",
    "trainer.devices": "a whole number of at least 1, -1, or numbers of GPUs as 0,1",
    "trainer.num_nodes": "a whole number of at least 1",
    "trainer.max_time": "a time as DD:HH:MM:SS, or null",
    "trainer.fast_dev_run": "a whole number, true or false",
    "trainer.val_check_interval": "a whole number of at least 1, or a time as DD:HH:MM:SS",
    "trainer.log_every_n_steps": "a whole number of at least 1",
    "trainer.gradient_clip_val": "a number of at least 0, or null",
    "trainer.precision": "bf16-mixed, 16-mixed, 32-true or null",
}


def wanted(option: str, kind: Any) -> str:
    """Returns what an option takes.

    Args:
        option: its name, such as data.batch_size
        kind: its type
    """
    return OF_OPTIONS.get(option) or in_words(kind)


def in_words(kind: Any) -> str:
    """Returns a type in words.

    Literal["best", "all"]           -> best or all
    Literal["auto", "none", "mlp"]   -> one of auto, none, mlp
    PositiveInt | Literal["auto"]    -> a whole number of at least 1, or auto
    list[str] | None                 -> a list of texts, or null
    """
    alternatives = list(dict.fromkeys(alternatives_of(kind)))
    if "true or false" in alternatives and len(alternatives) > 1:
        alternatives = [word for word in alternatives if word != "true or false"] + [
            "true",
            "false",
        ]
    for last in (OF_THEM, NULL):
        if last in alternatives:
            alternatives = [word for word in alternatives if word != last] + [last]
    if len(alternatives) == 1:
        return alternatives[0]
    if get_origin(kind) is Literal and len(alternatives) > 2:
        return f"one of {', '.join(alternatives)}"
    comma = "," if any(" " in word for word in alternatives) else ""
    return f"{', '.join(alternatives[:-1])}{comma} or {alternatives[-1]}"


def alternatives_of(kind: Any) -> Iterable[str]:
    """Yields what a type allows, one after the other."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for argument in arguments:
            yield from alternatives_of(argument)
    elif origin is Literal:
        yield from map(str, arguments)
    elif origin in (list, tuple, Iterable):
        one = in_words(arguments[0]) if arguments else "text"
        yield OF_THEM if one.startswith("a class of") else f"a list of {SEVERAL.get(one, one)}"
    elif kind in PLAIN:
        yield PLAIN[kind]
    elif origin is dict:
        yield PLAIN[dict]
    else:
        made = arguments[-1] if origin is Callable else kind
        yield f"a class of {getattr(made, '__name__', made)} by name"


def makes_class(kind: Any) -> bool:
    """Whether a type lets a class be named, with arguments of its own."""
    origin = get_origin(kind)
    if origin is Callable:
        return True
    if origin is None:
        return isinstance(kind, type) and kind not in PLAIN
    return origin is not Literal and any(makes_class(one) for one in get_args(kind))


def is_mapping(kind: Any) -> bool:
    """Whether a type allows a mapping, whose keys look like parts of the option's name."""
    return get_origin(kind) is dict or any(get_origin(one) is dict for one in get_args(kind))
