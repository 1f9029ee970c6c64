"""What is said on the terminal: text that cannot steer it, and no token.

In comes any text, of products and file names too, out goes printable text, line by line.
"""

import os
import sys
from typing import TextIO

TOKEN = "HF_TOKEN"


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a text, on stdout unless told otherwise; the token of the environment is left out."""
    token = os.environ.get(TOKEN)
    if token:
        text = text.replace(token, "***")
    print("\n".join(map(printable, text.split("\n"))), file=file or sys.stdout)


def printable(text: str) -> str:
    """Returns one line: white space becomes a space, what is not printable is spelled out.

    "Mug\\x1b[2J\\nred" -> "Mug\\\\x1b[2J red"
    """
    return "".join(map(shown, text))


def shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
