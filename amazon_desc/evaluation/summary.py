"""Plain text reports: base beside tuned, as a table, as samples and as metrics.json.

In: scores and texts that were computed elsewhere. Out: strings to print, and one JSON file. Nothing
is scored here, and nothing printed. Texts of models and of data files may hold terminal escapes:
what this returns is printable characters, spaces and newlines only.
"""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amazon_desc.support.files import write_text
from amazon_desc.support.printing import printable

# Key, name, decimals, what the number is.
_ROWS = (
    ("loss", "loss", 4, "lower is better, nats per token"),
    ("perplexity", "perplexity", 2, "lower is better, from 1"),
    ("rouge1", "ROUGE-1", 4, "higher is better, 0 to 1"),
    ("rougeL", "ROUGE-L", 4, "higher is better, 0 to 1"),
    ("bleu", "BLEU", 2, "higher is better, 0 to 100"),
)
_WIDTH = 100


def format_scores(base: Mapping[str, float], tuned: Mapping[str, float]) -> str:
    """Returns a table of at most 80 columns: the base's scores, the tuned model's, the change.

    The change is tuned minus base. A score that one side lacks is shown as `-`, one that both lack
    has no row; keys that are no score are left out.

                      base       tuned      change
        loss        3.0000      2.5000     -0.5000   lower is better, nats per token
    """
    lines = [f"{'':<10}{'base':>12}{'tuned':>12}{'change':>12}"]
    for key, name, decimals, note in _ROWS:
        before, after = base.get(key), tuned.get(key)
        if before is None and after is None:
            continue
        change = None if before is None or after is None else after - before
        numbers = (
            _number(before, decimals),
            _number(after, decimals),
            _number(change, decimals, sign="+"),
        )
        lines.append(f"{name:<10}" + "".join(f"{number:>12}" for number in numbers) + f"   {note}")
    return "\n".join(lines)


def _number(value: float | None, decimals: int, sign: Literal["", "+"] = "") -> str:
    if value is None or (sign and not math.isfinite(value)):
        return "-"
    if math.isfinite(value) and abs(value) >= 1e6:
        return f"{value:{sign}.3e}"
    return f"{value:{sign}.{decimals}f}"


@dataclass(frozen=True)
class Sample:
    """One title with its real description and what the two models wrote."""

    title: str
    reference: str
    base: str
    tuned: str


def format_samples(samples: Sequence[Sample]) -> str:
    """Returns the samples below each other, wrapped to 100 characters a line.

    1. Girls Ballet Tutu
       reference  A tutu of three layers.
       base       Girls Ballet Tutu Girls Ballet Tutu
       tuned      A soft tutu with a satin waistband.

    Line breaks and other white space become one space; what is not printable is spelled out
    (`\\x1b` for an escape), so that no text can steer the terminal. A text without a word is shown
    as `(empty)`.
    """
    blocks = []
    for place, sample in enumerate(samples, start=1):
        number = f"{place}. "
        indent = " " * len(number)
        lines = [_wrapped(number, sample.title)]
        for name in ("reference", "base", "tuned"):
            lines.append(_wrapped(f"{indent}{name:<11}", getattr(sample, name)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _wrapped(head: str, text: str) -> str:
    body = " ".join(printable(text).split()) or "(empty)"
    return textwrap.fill(body, width=_WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def write_metrics(
    path: Path,
    stage: Literal["validate", "test"],
    base: Mapping[str, float],
    tuned: Mapping[str, float],
    decoding: Mapping[str, Any],
) -> None:
    """Writes `{stage: {"base": {...}, "tuned": {...}, "decoding": {...}}}` into the file `path`.

    `decoding` is how the texts of both were written, without which their scores mean nothing.

    What the file holds of other stages stays, what it holds of this one goes. The file is written
    whole or not at all; one that cannot be read as a JSON object is replaced. JSON knows no NaN and
    no infinity: both become `null`, so that every parser reads the file and no number is made up.
    """
    metrics = _read_metrics(path)
    metrics[stage] = {"base": dict(base), "tuned": dict(tuned), "decoding": dict(decoding)}
    text = json.dumps(_finite(metrics), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not UTF-8 and not JSON are both a ValueError
        return {}
    return metrics if isinstance(metrics, dict) else {}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value
