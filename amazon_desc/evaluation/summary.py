"""Plain text reports: base beside tuned, as a table, as samples and as metrics.json.

In: scores and texts that were computed elsewhere. Out: strings to print, and one JSON file. Nothing
is scored here, and nothing printed. Texts of models and of data files may hold terminal escapes:
what this returns is printable characters, spaces and newlines only.
"""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from amazon_desc.evaluation.intervals import Comparison, Interval
from amazon_desc.support.files import write_text
from amazon_desc.support.printing import printable

Stage = Literal["validate", "test"]
Sign = Literal["", "+"]
Better = Literal["lower", "higher", "near 1"]


class Shown(NamedTuple):
    """How a score is shown."""

    label: str
    decimals: int
    better: Better


SCORES = {
    "loss": Shown("loss", 3, "lower"),
    "perplexity": Shown("perplexity", 2, "lower"),
    "accuracy": Shown("accuracy", 3, "higher"),
    "rouge1": Shown("ROUGE-1", 3, "higher"),
    "rouge2": Shown("ROUGE-2", 3, "higher"),
    "rougeL": Shown("ROUGE-L", 3, "higher"),
    "bleu": Shown("BLEU", 2, "higher"),
    "chrf": Shown("chrF", 2, "higher"),
    "loops": Shown("loops", 3, "lower"),
    "ended": Shown("ended", 3, "higher"),
    "length_ratio": Shown("length ratio", 2, "near 1"),
    "distinct1": Shown("distinct-1", 3, "higher"),
    "distinct2": Shown("distinct-2", 3, "higher"),
    "copied": Shown("copied", 3, "lower"),
    "invented": Shown("invented", 3, "lower"),
    "title_words": Shown("title words", 3, "higher"),
}
"""All scores, in the order in which they are shown."""

_WIDTH = 100


@dataclass(frozen=True)
class SideBySide:
    """The scores of base and tuned weights on the same titles."""

    base: Mapping[str, Interval]
    tuned: Mapping[str, Interval]
    compared: Mapping[str, Comparison]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values: each score of a side alone, as an interval, and compared."""
        sides = {"base": self.base, "tuned": self.tuned}
        return {
            **{side: values_of(found) for side, found in sides.items()},
            "intervals": {side: as_dicts(found) for side, found in sides.items()},
            "compared": as_dicts(self.compared),
        }


def values_of(scores: Mapping[str, Interval]) -> dict[str, float]:
    return {name: of.value for name, of in scores.items()}


def as_dicts(scores: Mapping[str, Interval | Comparison]) -> dict[str, dict[str, float]]:
    return {name: of._asdict() for name, of in scores.items()}


def format_scores(scores: SideBySide) -> str:
    """Returns a table of at most 80 columns: the base's scores, the tuned model's, the change.

    The change is tuned minus base. After ± stands half of the 95 % interval, p is of the paired
    comparison. A score that both sides lack has no row; keys that are no score are left out.

                          base           tuned          change      p  better
        loss     3.773 ± 0.071   3.009 ± 0.063  -0.764 ± 0.031  0.001  lower
    """
    lines = [f"{'':<12}{'base':>17}{'tuned':>17}{'change':>17}{'p':>7}  better"]
    for name, shown in SCORES.items():
        base, tuned = scores.base.get(name), scores.tuned.get(name)
        change = scores.compared.get(name)
        if base is None and tuned is None:
            continue
        cells = [_measured(of, of and of.value, shown.decimals) for of in (base, tuned)]
        cells.append(_measured(change, change and change.difference, shown.decimals, "+"))
        p_value = "-" if change is None else f"{change.p_value:.3f}"
        numbers = "".join(f"{cell:>17}" for cell in cells)
        lines.append(f"{shown.label:<12}{numbers}{p_value:>7}  {shown.better}")
    return "\n".join(lines)


def _measured(
    of: Interval | Comparison | None, value: float | None, decimals: int, sign: Sign = ""
) -> str:
    if of is None or value is None:
        return "-"
    half = (of.high - of.low) / 2
    return f"{_number(value, decimals, sign)} ± {_number(half, decimals)}"


def _number(value: float, decimals: int, sign: Sign = "") -> str:
    if math.isfinite(value) and abs(value) >= 1e4:
        return f"{value:{sign}.0e}"
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


def write_metrics(path: Path, stage: Stage, entry: Mapping[str, Any]) -> None:
    """Writes `{stage: entry}` into the file `path`.

    What the file holds of other stages stays, what it holds of this one goes. The file is written
    whole or not at all; one that cannot be read as a JSON object is replaced. JSON knows no NaN and
    no infinity: both become `null`, so that every parser reads the file and no number is made up.
    """
    metrics = {**_read_metrics(path), stage: dict(entry)}
    text = json.dumps(_finite(metrics), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON object a line, whole or not at all; the folder is made."""
    path.parent.mkdir(exist_ok=True)
    lines = (json.dumps(_finite(dict(record)), ensure_ascii=False) + "\n" for record in records)
    write_text(path, "".join(lines))


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
