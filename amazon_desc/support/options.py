"""The number types that options are declared with: checked when parsed, plain to type checkers.

And what each takes in words, for who gave something else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    PositiveFloat = float
    Fraction = float
    AtLeastTwo = int
else:
    from jsonargparse.typing import (
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        restricted_number_type,
    )

    # From 0 to below 1: a share of something of which a rest must remain.
    Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, (">=", 2))

IN_WORDS: dict[Any, str] = {
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    PositiveFloat: "a number above 0",
    Fraction: "a number from 0 to below 1",
    AtLeastTwo: "a whole number of at least 2",
}

__all__ = [
    "IN_WORDS",
    "AtLeastTwo",
    "Fraction",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
]
