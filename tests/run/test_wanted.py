"""What an option takes is said in words that need no Python."""
# ruff: noqa: UP007, UP045 (Lightning declares its options so)

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Literal, Optional, Union

import pytest
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from amazon_desc.cli import build
from amazon_desc.run.options.explained import kinds_of
from amazon_desc.run.options.wanted import in_words, is_mapping, makes_class, wanted
from amazon_desc.support.options import Fraction, NonNegativeInt, PositiveFloat, PositiveInt


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        # the worked examples
        (Literal["best", "all"], "best or all"),
        (Literal["auto", "none", "mlp"], "one of auto, none, mlp"),
        (PositiveInt | Literal["auto"], "a whole number of at least 1, or auto"),
        (list[str] | None, "a list of texts, or null"),
        (str, "text"),
        (str | None, "text or null"),
        (None | str, "text or null"),
        (bool, "true or false"),
        (Optional[bool], "true, false or null"),
        (Union[int, bool], "a whole number, true, or false"),
        (float, "a number"),
        (Fraction, "a number from 0 to below 1"),
        (NonNegativeInt, "a whole number of at least 0"),
        (PositiveFloat | None, "a number above 0, or null"),
        (Union[list[str], Literal["all-linear"]], "a list of texts, or all-linear"),
        (Union[Literal[16], Literal["16"], None], "16 or null"),
        (Union[str, timedelta, dict[str, int], None], "text, a time, options by name, or null"),
        (Callable[[Iterable], Optimizer], "a class of Optimizer by name"),
        (
            Union[list[Callback], Callback, None],
            "a class of Callback by name, a list of them, or null",
        ),
    ],
)
def test_a_type_in_words(kind: Any, words: str):
    assert in_words(kind) == words


def test_an_options_own_words_go_before_those_of_its_type():
    assert wanted("trainer.max_steps", int) == "a whole number of at least 1, or -1"
    assert wanted("data.anything", int) == "a whole number"


def test_every_option_has_words_without_python_in_them():
    kinds = {name: kind for name, kind in kinds_of(build([], run=False).parser).items() if kind}
    assert len(kinds) > 100
    for name, kind in kinds.items():
        assert not set("[]<>_|") & set(wanted(name, kind)), name


@pytest.mark.parametrize(
    ("kind", "is_class", "has_keys"),
    [
        (Union[list[Callback], Callback, None], True, False),
        (Callable[[Iterable], Optimizer], True, False),
        (Union[str, dict[str, int], None], False, True),
        (Literal["a", "b"], False, False),
        (PositiveInt | None, False, False),
        (None, False, False),
    ],
)
def test_what_has_parts_of_its_own(kind: Any, is_class: bool, has_keys: bool):
    assert makes_class(kind) == is_class
    assert is_mapping(kind) == has_keys
