"""The number types that options are declared with: checked when parsed, plain to type checkers."""

from typing import TYPE_CHECKING

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

__all__ = ["AtLeastTwo", "Fraction", "NonNegativeInt", "PositiveFloat", "PositiveInt"]
