"""Fine-tunes a 4-bit language model with LoRA to write product descriptions from titles."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amazon_desc.describer import Describer

__version__ = "0.1.0"
__all__ = ["Describer", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports Describer when it is asked for: torch and transformers come with it."""
    if name == "Describer":
        from amazon_desc.describer import Describer

        return Describer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
