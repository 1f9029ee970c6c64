"""The `gguf` package, which the format's own project keeps, or what to do where it is missing.

It is an extra: nothing but an export to GGUF needs it, so it is imported when one is asked for.
"""

from __future__ import annotations

from types import ModuleType

from amazon_desc.support.errors import UserError


def gguf_package() -> ModuleType:
    """Returns the package that knows GGUF's keys, tensor names and block formats.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            "GGUF: writing it needs the package gguf, which is not installed. Run "
            'pip install "amazon_desc[gguf]", or pip install -e ".[gguf]" in the project\'s folder.'
        ) from error
    return gguf
