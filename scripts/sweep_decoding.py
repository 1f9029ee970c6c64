"""Writes the held-out titles of a finished run under several settings of decoding, and compares.

In: a run folder, and settings on the command line or in a YAML file. Out: a table, with what the
references are in its first line, and with --json texts and numbers in a file. It writes with the
package's own generation and scores with its own metrics.

    python scripts/sweep_decoding.py runs/shop --set "repetition_penalty=1.1" \\
        --set "temperature=0.7 min_p=0.05 repetition_penalty=1.1"
    python scripts/sweep_decoding.py runs/shop --settings sweep.yaml --titles 200
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from amazon_desc.data.loading.prompts import Pairs
from amazon_desc.describer import Describer
from amazon_desc.evaluation.metrics import score_texts
from amazon_desc.evaluation.repetition import share_of_loops
from amazon_desc.evaluation.variety import distinct
from amazon_desc.generation.decoding import GREEDY, DecodingSettings
from amazon_desc.generation.texts import Description
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.support.errors import UserError
from amazon_desc.support.printing import say


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    name: str
    loops: float
    ends: float | None
    rouge1: float | None
    rougeL: float | None
    bleu: float | None
    chrf: float | None
    distinct2: float
    words: float
    seconds: float | None


# Settings


def read_settings(typed: Sequence[str], file: Path | None) -> dict[str, dict[str, Any]]:
    """Returns settings by the name that the table has for them.

    "temperature=0.7 top_p=0.9"          -> {"temperature=0.7 top_p=0.9": {"temperature": 0.7, ...}}
    - {temperature: 0.7, top_p: 0.9}     the same in a file, or with a name before:
    warm: {temperature: 0.7, top_p: 0.9}
    """
    given: dict[str, dict[str, Any]] = {}
    if file is not None:
        given |= in_file(file)
    for text in typed:
        pairs = [pair.partition("=") for pair in text.split()]
        given[text] = {name: yaml.safe_load(value) for name, _, value in pairs}
    return given


def in_file(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"--settings {file}: wanted a YAML file of settings, found none that can be read "
            f"({error}). Name another file."
        ) from error
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        found = {" ".join(f"{n}={v}" for n, v in entry.items()): entry for entry in found}
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise UserError(
            f"--settings {file}: wanted a list of settings, or settings by name, found "
            f"{type(found).__name__}. Write for example `- {{temperature: 0.7, top_p: 0.9}}`."
        )
    return found


def over(own: DecodingSettings, given: dict[str, Any]) -> DecodingSettings:
    """Returns settings of a run's lengths and seed, greedy ones without penalties but for these.

    Raises:
        UserError: there is no such setting, or it makes no sense.
    """
    names = [field.name for field in fields(DecodingSettings)]
    for name, value in given.items():
        is_number = isinstance(value, (int, float)) or (name == "top_k" and value is None)
        if name not in names or not is_number:
            raise UserError(
                f"{name}={value}: wanted one of {', '.join(names)} with a number, or trim with "
                f"true or false. Write for example temperature=0.7."
            )
    kept = ("max_new_tokens", "min_new_tokens", "seed", "trim")
    return replace(GREEDY, **{**{name: getattr(own, name) for name in kept}, **given})


# Texts


def held_out(
    describer: Describer, split: Literal["validation", "test"], num: int | None
) -> list[tuple[str, str]]:
    """Returns held-out titles with their descriptions: those that are scored."""
    data = describer.data
    data.setup("validate" if split == "validation" else "test")
    return data.opened.scored(split, num or data.num_scored).pairs


# The table


def line_of_references(references: Sequence[str]) -> Line:
    words = sum(len(text.split()) for text in references) / len(references)
    loops = share_of_loops(references)
    return Line("references", loops, *[None] * 5, distinct(references), words, None)


def line_of(
    name: str, written: Sequence[Description], references: Sequence[str], seconds: float
) -> Line:
    texts = [description.text for description in written]
    ends = sum(description.finish_reason == "stop" for description in written) / len(written)
    scores = score_texts(texts, references)
    of_texts = line_of_references(texts)
    shown = {key: scores[key] for key in ("rouge1", "rougeL", "bleu", "chrf")}
    return replace(of_texts, **{"name": name, "ends": ends, "seconds": seconds, **shown})


HEADING = (
    "| settings | loops | ends by itself | ROUGE-1 | ROUGE-L | BLEU | chrF | distinct-2 | words "
    "| seconds |\n|---|---|---|---|---|---|---|---|---|---|"
)


def shown(line: Line) -> str:
    """Returns a line of the table, in Markdown; a dash where there is no number."""
    formats = ("", ".1%", ".0%", ".3f", ".3f", ".2f", ".1f", ".2f", ".0f", ".1f")
    cells = [
        "–" if value is None else format(value, how).replace("%", " %")
        for value, how in zip(asdict(line).values(), formats, strict=True)
    ]
    return f"| {' | '.join(cells)} |"


def lines(
    describer: Describer, pairs: Pairs, named: dict[str, DecodingSettings]
) -> Iterator[tuple[Line, list[str]]]:
    """Yields the lines of the table, each with its texts, as they are written."""
    references = [reference for _, reference in pairs]
    yield line_of_references(references), references
    for name, settings in named.items():
        start = time.perf_counter()
        written = [found.description for found in describer.write(pairs, settings)]
        seconds = time.perf_counter() - start
        texts = [description.text for description in written]
        yield line_of(name, written, references, seconds), texts


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    some = "settings over greedy ones, such as 'temperature=0.7 top_p=0.9'; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SETTINGS", help=some)
    of_file = "a YAML list of settings, or settings by name"
    parser.add_argument("--settings", type=Path, metavar="FILE", help=of_file)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--titles", type=int, metavar="N", help="default: those that are scored")
    parser.add_argument("--json", type=Path, metavar="FILE", help="numbers and texts, as JSON")
    options = parser.parse_args(arguments)
    with errors_in_a_sentence(["validate"], "python scripts/sweep_decoding.py"):
        given = read_settings(options.set, options.settings)
        for settings in given.values():  # refused before a base is loaded
            over(DecodingSettings(), settings)
        describer = Describer.from_run(options.run)
        pairs, own = held_out(describer, options.split, options.titles), describer.decoding
        named = {"the run's own": own, "greedy": over(own, {})}
        named |= {name: over(own, settings) for name, settings in given.items()}
        say(HEADING)
        found = []
        for line, texts in lines(describer, pairs, named):
            say(shown(line))
            found.append({**asdict(line), "texts": texts})
            if options.json:
                options.json.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
