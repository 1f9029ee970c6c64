"""What may be shown of a text: all but tokens, keys and passwords.

In comes any text, out goes the same with `***` for what is secret: what the environment or an
option holds under a name such as WANDB_API_KEY, and what looks like a token wherever it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME = re.compile(r"(token|key|secret|password|passwd|passphrase|credentials)$", re.IGNORECASE)
# Tokens of the hub and of GitHub, and who logs in within an address.
LOOKS_SECRET = re.compile(r"\b(?:hf|gh[opsu]|github_pat)_\w{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
SHOWN = "***"
SHOWN_IN_YAML = "(removed)"  # where *** would be an alias
# A shorter one is no secret, but may be a word of any text.
SHORTEST = 8

of_options: set[str] = set()


def masked(text: str, shown: str = SHOWN) -> str:
    """Returns a text with something else in the place of what is secret.

    With HF_TOKEN=hf_canary: "hf_canary at https://me:pw@host" -> "*** at https://***@host"
    """
    known = set(secrets_in(os.environ)) | of_options
    for secret in sorted(known, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, shown)
    return LOOKS_SECRET.sub(shown, text)


def secrets_in(named: Mapping[str, Any]) -> Iterator[str]:
    """Yields the values that are secret by their names; a path is none, but says where one is."""
    for name, value in named.items():
        is_secret = isinstance(value, str) and len(value) >= SHORTEST and NAME.search(name)
        if is_secret and not os.path.exists(value):
            yield value


def remember_arguments(arguments: list[str]) -> None:
    """Has the values of options such as `--trainer.logger.api_key` masked from now on."""
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            of_options.update(secrets_in({option: value if equals else after}))


def remember_options(options: Mapping[str, Any]) -> None:
    """Does the same for options of a YAML file."""
    of_options.update(secrets_in(options))
    for value in options.values():
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(entry, Mapping):
                remember_options(entry)
