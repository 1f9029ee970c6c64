"""The table of bench_predict.py: its lines, what they are compared with, and what they depend on.

In come lines and what was measured of them, out go their rows, the best batch sizes, and the
heading of them all. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench_train_table import commit, shown, versions

COLUMNS = {
    "at_a_time": ("at a time", "{:,.0f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "titles_per_second": ("titles/s", "{:,.1f}"),
    "startup_seconds": ("start s", "{:.1f}"),
    "peak_gib": ("peak GiB", "{:.2f}"),
    "busy": ("busy", "{:.1%}"),
    "same_texts": ("same texts", "{:.1%}"),
    "we_are": ("we are", "{:.2f}x"),
}
# Less than this is no rounding: other texts were written, and their speeds compare nothing.
LEAST_SAME = 0.98
CPU_SIZES, CARD_SIZES = (16, 32, 64, 128, 256), (64, 256, 512, 1024)
SIDES = ("fused", "plain", "before", "merged", "unmerged", "vllm")


class Line(NamedTuple):
    """A line of the table."""

    name: str
    side: str
    """of SIDES: our engines, `generate` as predict called it once, or with its weights merged or
    not, vLLM"""
    at_a_time: int | None = None
    """texts; None: as planned, or as vLLM comes"""
    cache: str = "dynamic"
    """of `generate`: dynamic or static"""
    settings: str = ""
    """over the greedy ones, as they were typed"""

    @property
    def is_ours(self) -> bool:
        return self.side in ("fused", "plain")


def all_lines(
    has_card: bool, sizes: Sequence[int], ours: Sequence[int], settings: Sequence[str]
) -> list[Line]:
    """Returns the lines in the order of their turns, with unmerged LoRA, the slowest, last.

    Args:
        sizes: batch sizes of `generate`
        ours: texts at a time of our engines, besides as many as planned
        settings: what is typed over the greedy settings, for further lines of ours
    """
    engines = ("fused", "plain") if has_card else ("plain",)
    lines = [Line(f"ours, {engine}", engine) for engine in engines]
    lines += [Line(f"ours, {e}, {n} at a time", e, n) for e in engines for n in ours]
    lines += [Line(f"ours, {engines[0]}, {s}", engines[0], settings=s) for s in settings]
    for side in ("merged", "unmerged"):
        for cache in ("dynamic", "static"):
            kind = f"generate, {side}, {cache}"
            lines += [Line(f"{kind}, {size}", side, size, cache) for size in sizes]
    lines.append(Line("generate, unmerged, 32 titles", "before", 32))
    return [*lines, Line("vLLM, as it comes", "vllm"), Line("vLLM, 1024 at a time", "vllm", 1024)]


def chosen(lines: Sequence[Line], only: str | None) -> list[Line]:
    """Returns the lines that are asked for by side or by a part of their names; all without any.

    "plain;merged, static" -> our plain engine, and `generate` on merged weights in a static cache
    """
    if only is None:
        return list(lines)
    asked = [part.strip() for part in only.split(";") if part.strip()]
    return [line for line in lines if any(is_asked(line, part) for part in asked)]


def is_asked(line: Line, part: str) -> bool:
    return part == line.side or (part not in SIDES and f", {part}" in f", {line.name}")


# A line's numbers


def completed(line: Line, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a line's numbers, of the best of its trials; those of starting are of the first.

    trials = 30 texts of together 900 tokens, in 3.0 and in 2.0 s

        tokens_per_second = 450     titles_per_second = 15

    A text's end token is counted where it was written, on every side.
    """
    row: dict[str, Any] = {**line._asdict(), "seconds": [trial["seconds"] for trial in trials]}
    best = min(trials, key=lambda trial: trial["seconds"])
    seconds = best["seconds"]
    row |= {name: best.get(name) for name in ("at_a_time", "num_titles", "num_tokens", "busy")}
    row["tokens_per_second"] = best["num_tokens"] / seconds
    row["titles_per_second"] = best["num_titles"] / seconds
    row["startup_seconds"] = trials[0]["startup_seconds"]
    row["peak_gib"] = trials[0].get("peak_gib")
    return row


def compared(
    rows: Sequence[dict[str, Any]], texts: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """Returns rows with how many times as fast we are, and what share of texts are ours.

    We are our first line; others may have written for the first of its titles only.
    """
    ours = next((row for row in rows if is_reference(row)), None)
    found = []
    for row in rows:
        more: dict[str, Any] = {}
        if ours is not None and row is not ours and "error" not in row:
            more["we_are"] = ours["tokens_per_second"] / row["tokens_per_second"]
            if not row["settings"]:
                more["same_texts"] = share_equal(texts[row["name"]], texts[ours["name"]])
        found.append({**row, **more})
    return found


def is_reference(row: Mapping[str, Any]) -> bool:
    """Says whether a row is what all are compared with: an engine of ours, as it comes."""
    return row["name"] in ("ours, fused", "ours, plain") and "error" not in row


def share_equal(texts: Sequence[Any], ours: Sequence[Any]) -> float:
    """Returns what share of texts are ours: of a b and ours a c d, 0.5"""
    num = min(len(texts), len(ours))
    return sum(a == b for a, b in zip(texts[:num], ours[:num], strict=True)) / num


def busy_share(num_tokens: int, num_steps: int, num_slots: int) -> float:
    """Returns what share of slots added a token, over all steps: 12 of 4 slots in 5 steps: 0.6"""
    return num_tokens / (num_steps * num_slots)


# What the rows say


def best_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns the fastest row of each kind of `generate` that has several batch sizes."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["side"] in ("merged", "unmerged") and "error" not in row:
            kind = f"generate, {row['side']}, {row['cache']}"
            before = best.get(kind)
            if before is None or row["tokens_per_second"] > before["tokens_per_second"]:
                best[kind] = row
    return best


def conclusions(rows: Sequence[Mapping[str, Any]], is_float32: bool) -> Iterator[str]:
    """Yields what the table says, a sentence each."""
    for kind, row in best_of(rows).items():
        times = f": we are {row['we_are']:.2f} times as fast" if "we_are" in row else ""
        yield f"Best of {kind}: {row['at_a_time']} at a time{times}."
    for row in others(rows) if is_float32 else ():
        yield (
            f"{row['name']} wrote other texts for {1 - row['same_texts']:.1%} of the titles: its "
            f"speed compares nothing."
        )
    for row in rows:
        if "error" in row:
            yield f"{row['name']}: {row['error']}"


def others(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows of `generate` on our merged weights that did not write our texts."""
    merged = [row for row in rows if row["side"] in ("merged", "plain")]
    return [row for row in merged if row.get("same_texts", 1) < LEAST_SAME]


def row_of(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:<36}{row['error'][:140]}"
    cells = [shown(row.get(column), form) for column, (_, form) in COLUMNS.items()]
    return f"{row['name']:<36}" + "".join(cell.rjust(12) for cell in cells)


def heading() -> str:
    return " " * 36 + "".join(name.rjust(12) for name, _ in COLUMNS.values())


def load() -> str:
    """Returns how many programs wanted to compute in the last 1, 5 and 15 minutes."""
    return " ".join(f"{part:.2f}" for part in os.getloadavg())


def facts(options: argparse.Namespace, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    return {
        **found,
        "new tokens": f"{options.new_tokens}" if options.ends else f"{options.new_tokens} each",
        "best of": f"{options.trials} trials in turn",
        "load at the beginning": load(),
        "versions": ", ".join(versions(None)),
        "commit": commit() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
    }
