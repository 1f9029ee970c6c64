"""The table of bench_train.py: its lines, what they are compared with, and what they depend on.

In come a line and what was measured of it, out go its row, and the heading of them all. Nothing is
measured here.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

OUR_ROW_TOKENS, THEIR_ROW_TOKENS = 2048, 256
PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "lightning", "amazon_desc")
COLUMNS = {
    "tokens_per_step": ("tokens/step", "{:,.0f}"),
    "ms_per_step": ("ms/step", "{:,.1f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "share_of_limit": ("of limit", "{:.1%}"),
    "peak_gib": ("peak GiB", "{:.2f}"),
    "ready_seconds": ("ready s", "{:.1f}"),
    "we_are": ("we are", "{:.1f}x"),
    "of_one": ("of one card", "{:.3f}x"),
}


class Line(NamedTuple):
    """A line of the table."""

    name: str
    side: str
    """ours, bare, or a peer"""
    steps: int
    rows: int = 1
    """of a micro-batch: of 2,048 tokens on our sides, of 256 on theirs"""
    accumulate: int = 1
    dropout: float = 0.0
    kernels: str = "auto"
    checkpointing: bool = False
    devices: int = 1
    """cards, each with so many rows"""

    @property
    def is_ours(self) -> bool:
        return self.side in ("ours", "bare")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step, padding counted."""
        row_tokens = OUR_ROW_TOKENS if self.is_ours else THEIR_ROW_TOKENS
        return self.rows * self.accumulate * row_tokens * self.devices

    def on(self, devices: int) -> Line:
        """Returns the same line on several cards: as many tokens on each (weak scaling)."""
        return self._replace(name=f"{self.name}-x{devices}", devices=devices)


def completed(
    line: Line,
    steps: int,
    found: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]],
    task: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns a line's numbers with its share of the limit, and how many times as fast we are.

    That is by our line of as many tokens an optimizer step and as many cards, without dropout, if
    it was run. One of several cards is compared with that of one, too.
    """
    row = {**line._asdict(), "steps": steps, "tokens_per_step": line.tokens_per_step, **found}
    speed = found.get("tokens_per_second")
    if speed and task["limit"]:
        limit = task["limit"] * line.devices
        row["share_of_limit"] = speed * task["flops_per_token"] / limit
    ours = [other for other in before if is_measure(other, line)]
    one = [other for other in before if other["name"] == line.name.partition("-x")[0]]
    if speed and line.devices > 1 and one and "tokens_per_second" in one[0]:
        row["of_one"] = speed / one[0]["tokens_per_second"]
    if speed and ours and not line.is_ours:
        row["we_are"] = ours[0]["tokens_per_second"] / speed
    return row


def is_measure(row: Mapping[str, Any], line: Line) -> bool:
    """Says whether a row is what a peer's line is compared with."""
    is_same = row["tokens_per_step"] == line.tokens_per_step and row["devices"] == line.devices
    is_ours = row["side"] == "ours" and not row["dropout"] and row["kernels"] == "auto"
    return is_same and is_ours and speed_of(row) is not None


def overheads(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns by tokens a step what the trainer adds to the bare step, as a share of it."""
    shares = {}
    for bare in rows:
        if bare["side"] == "bare" and "tokens_per_second" in bare:
            for ours in rows:
                if ours["name"] == bare["name"].replace("bare", "ours") and speed_of(ours):
                    name = f"{bare['tokens_per_step']:,} tokens"
                    shares[name] = bare["tokens_per_second"] / ours["tokens_per_second"] - 1
    return shares


def speed_of(row: Mapping[str, Any]) -> float | None:
    return row.get("tokens_per_second")


def row_of(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:<18}{row['error'][:160]}"
    cells = [shown(row.get(column), form) for column, (_, form) in COLUMNS.items()]
    return f"{row['name']:<18}" + "".join(cell.rjust(12) for cell in cells)


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def heading(found: Mapping[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in found.items()]
    return "\n".join(
        [*lines, "", f"{'':<18}" + "".join(name.rjust(12) for name, _ in COLUMNS.values())]
    )


def facts(options: argparse.Namespace, task: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    limit = f"{task['limit'] / 1e12:,.0f} TFLOP/s" if task["limit"] else "not measured"
    return {
        "card": task["card"],
        "limit": limit,
        "flop a token": f"{task['flops_per_token'] / 1e9:.2f}e9",
        "base": str(options.base or options.shape),
        "median tokens of an example": task["median_tokens"],
        "tokens in a row of 2,048": round(task["row_tokens"], 1),
        "versions": ", ".join(versions(options.unsloth_site)),
        "commit": commit() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
    }


def versions(site: Path | None) -> Iterator[str]:
    yield f"python {platform.python_version()}"
    for package in (*PACKAGES, "trl", "liger-kernel", "unsloth"):
        with suppress(ImportError):  # PackageNotFoundError is one
            yield f"{package} {version(package)}"
    for found in sorted(site.glob("*.dist-info")) if site else []:
        name, _, number = found.stem.partition("-")
        if name in ("trl", "unsloth"):
            yield f"{name} {number} for unsloth"


def commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return None
