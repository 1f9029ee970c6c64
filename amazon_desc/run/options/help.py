"""`COMMAND --help`: our options with their units, in a moment.

In comes the file of options in words that ships, out goes a page of it. Building the parser would
take seconds, since torch and Lightning come with it: what it says is written into that file by
scripts/make_help.py, and a test compares the two. Lightning's own options are not on this page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from shutil import get_terminal_size
from textwrap import wrap

from amazon_desc.run.options.arguments import in_order, parts_of
from amazon_desc.support.printing import say
from amazon_desc.support.resources import OPTIONS_IN_WORDS

COMMANDS = {
    "fit": "train; run again with the same config, it resumes where it stopped",
    "validate": "score base and tuned weights on held-out products: loss, perplexity, ROUGE, BLEU",
    "test": "the same on products that neither training nor validation saw",
    "predict": "write a description for each title of a file: --data.titles FILE",
}
HELP = ("-h", "--help")
HELP_OF_TRAINER = "--help.trainer"
NAMES_END = 32  # column in which what an option does begins
WIDEST = 110

PAGE = """\
usage: python -m amazon_desc {command} [--config FILE] [--OPTION VALUE ...]

{command}: {does}

Each option stands in a config or on the command line, and the command line wins. Of two configs
the one further to the right wins; `config: FILE` in a config names one that it is set over.
{sections}

More:
  {command} --help.trainer                all options of Lightning's trainer
  {command} --model.optimizer.help CLASS  the arguments of an optimizer; so for --trainer.callbacks
"""


def answer_help(arguments: list[str]) -> None:
    """Prints the page of a command and leaves, if it is asked for."""
    if (command := asks_for_help(arguments)) is not None:
        say(page(command).rstrip("\n"))  # whose reader may end early, as head does
        sys.exit(0)


def asks_for_help(arguments: list[str]) -> str | None:
    """Returns the command whose page of options is asked for, if one is.

    --config mine.yaml fit --help -> fit
    """
    parts = list(parts_of(in_order(arguments)))
    called = parts[0][0] if parts else ""
    return called if called in COMMANDS and any(part[0] in HELP for part in parts) else None


def page(command: str, columns: int | None = None) -> str:
    """Returns the page of options of a command, as wide as the terminal, up to a limit."""
    width = min(columns or get_terminal_size().columns, WIDEST)
    sections = "".join(
        f"\n{title}:\n" + "".join(f"{line}\n" for row in rows for line in lines(row, width))
        for title, rows in json.loads(OPTIONS_IN_WORDS.read_text("utf-8")).items()
    )
    return PAGE.format(command=command, does=COMMANDS[command], sections=sections)


def lines(row: dict[str, str], width: int) -> Iterator[str]:
    """Yields the lines of an option: its name, what it does, and what it takes.

    --data.row_tokens   tokens of one packed row (a whole number of at least 1; default 2048)
    """
    takes = "; ".join(row[part] for part in ("wanted", "default") if part in row)
    text = f"{row['does']} ({takes})" if takes else row["does"]
    words = wrap(text, max(width - NAMES_END, 20), break_on_hyphens=False, break_long_words=False)
    name = f"  {row['name']}"
    if len(name) > NAMES_END - 2:
        yield name
        name = ""
    for line in words:
        yield f"{name:{NAMES_END}}{line}"
        name = ""
