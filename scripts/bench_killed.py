"""Kills predictions again and again, and compares their files to one that nobody touched.

In: a finished run and a file of titles. Out: how many files are the same in every byte, at which
lines they were killed, and exit code 1 if one is not. A trial writes the same titles in an order of
its own, some of them twice and blank lines between them: it is killed (SIGKILL) when a random
number of lines is there, in the midst of its start or at its end, started again with the same
command, and so on, until it is left to finish. Its lines must be those of the untouched file, in
its own order; and no kill may leave a file under its name that is not whole.

    python scripts/bench_killed.py runs/shop --titles titles.txt --trials 100 --form csv

With --append it has half of its titles first, and the others are added before it is killed. The
order may change only where a text does not depend on its row: greedily. With a temperature, add
--in-order. What follows `--` goes to predict, such as `-- --model.decoding.temperature 0.7`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench_resume import Run, import_once
from killed_files import FORMS, Content, content_of, differences, mixed, places_in, reordered

LOST = 0.1  # kills that hit a start, before a line is written
LATE = 0.1  # kills that hit the end: all lines are there, and the file gets its form and its name
LATEST = 0.03  # seconds after the last line


class Trial(NamedTuple):
    """What happened to one file."""

    failures: list[str]
    killed_at: list[float]
    """shares of its lines that were written then"""


class Predictions:
    """The predictions of one file of titles, beside it."""

    def __init__(self, given: argparse.Namespace, titles: Path) -> None:
        from amazon_desc.run.folder import RunFolder
        from amazon_desc.run.predicting.output import Output

        path = titles.with_suffix(f".{given.form}")
        self.output = Output.of(RunFolder(given.run), titles.name, str(path))
        self.titles, self.log = titles, titles.with_suffix(".log")
        self.num_lines, self.before = 0, None
        config = ["--config", str(given.run / "config.yaml")]
        self.command = [
            *("predict", *config, "--trainer.enable_progress_bar", "false"),
            *("--trainer.default_root_dir", str(given.run)),
            *("--data.titles", str(titles), "--data.output", str(path), *given.options),
        ]

    @property
    def path(self) -> Path:
        return self.output.path

    def add(self, lines: Sequence[str]) -> None:
        """Adds titles to the file of them, whose predictions may be there already."""
        self.before, self.num_lines = self.inode(), self.num_lines + len(lines)
        with self.titles.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def start(self) -> Run:
        return Run(self.command, self.log)

    def finish(self) -> list[str]:
        """Lets the command come to its end; returns why it did not."""
        if (code := self.start().wait()) == 0:
            return []
        return [f"exit code {code} at last: {self.log.read_text().splitlines()[-1:]}"]

    def inode(self) -> int | None:
        return self.path.stat().st_ino if self.path.exists() else None

    def num_written(self) -> int:
        """Returns how many lines are there, of the longest file."""
        try:
            return self.output.partial.read_bytes().count(b"\n")
        except FileNotFoundError:
            return self.num_lines if self.inode() != self.before else 0

    def leftovers(self) -> list[str]:
        named = {self.path, self.output.settings, self.titles, self.log}
        there = self.path.parent.glob(f"*{self.path.name}*")
        return [f"left over: {path.name}" for path in there if path not in named]


@dataclass(frozen=True)
class Untouched:
    """What nobody touched."""

    lines: list[str]
    content: Content
    seconds: float

    def of(self, lines: Sequence[str]) -> Content:
        """Returns what the predictions of these lines have to be."""
        return reordered(self.content, places_in(self.lines, lines))


def kill_once(predictions: Predictions, at: int | None, seconds: float) -> bool:
    """Kills a run so long after so many lines are there; None: so long after its start.

    Returns whether it was killed, and had not finished before.
    """
    run = predictions.start()
    end = time.monotonic() + seconds if at is None else None
    while run.wait(0.001) is None:
        if end is None and at is not None and predictions.num_written() >= at:
            end = time.monotonic() + seconds
        if end is not None and time.monotonic() >= end:
            run.send(signal.SIGKILL)
            return run.wait() == -signal.SIGKILL
    return False


def moment(
    chance: random.Random, there: int, last: int, seconds: float
) -> tuple[int | None, float]:
    """Returns when a run is killed: at how many lines, and how long after that.

    Args:
        there: lines that are there at once: a run that has them already would be killed unborn
        last: all lines
        seconds: that a whole run takes
    """
    kind = chance.random()
    if kind < LOST or there + 1 >= last:
        return None, chance.uniform(0, seconds)
    if kind < LOST + LATE:
        return last, chance.uniform(0, LATEST)
    return chance.randrange(there + 1, last), 0


def trial(number: int, given: argparse.Namespace, place: Path, untouched: Untouched) -> Trial:
    """Kills and finishes one file."""
    chance, lines = random.Random(f"{given.seed} {number}"), untouched.lines
    if not given.in_order:
        lines = mixed([*dict.fromkeys(filter(str.strip, lines))], chance)
    predictions = Predictions(given, place / f"trial{number}.txt")
    num_before, killed_at, failures = 0, [], []
    whole = [untouched.of(lines)]
    if given.append:
        num_before = len(lines) // 2
        whole.append(untouched.of(lines[:num_before]))
        predictions.add(lines[:num_before])
        if failures := predictions.finish() or differences(predictions.path, whole[1]):
            return Trial(failures, killed_at)
    predictions.add(lines[num_before:])
    for _ in range(given.kills):
        there = max(num_before, predictions.num_written())
        at, seconds = moment(chance, there, len(lines), untouched.seconds)
        if kill_once(predictions, at, seconds):
            killed_at.append(predictions.num_written() / len(lines))
            failures += under_its_name(predictions.path, whole)
    failures += predictions.finish() or differences(predictions.path, whole[0])
    return Trial(failures + predictions.leftovers(), killed_at)


def under_its_name(path: Path, whole: Sequence[Content]) -> list[str]:
    """Returns what is wrong with a file after a kill.

    Args:
        whole: all that it may be; of one that was there before, what it was is the last of two
    """
    if not path.exists():
        return ["gone when it was killed"] * (len(whole) > 1)
    found = [differences(path, content) for content in whole]
    return [f"under its name when it was killed: {', '.join(found[0])}"] * all(found)


def trials(given: argparse.Namespace, place: Path) -> list[Trial]:
    titles = [t for t in given.titles.read_text(encoding="utf-8").splitlines() if t.strip()]
    lines = mixed(titles, random.Random(f"{given.seed}"))
    predictions, start = Predictions(given, place / "untouched.txt"), time.monotonic()
    predictions.add(lines)
    if failures := predictions.finish():
        sys.exit(f"{predictions.log.read_text()}\nuntouched: {failures[0]}")
    seconds = time.monotonic() - start
    untouched = Untouched(lines, content_of(predictions.path), seconds)
    print(f"untouched: {len(lines)} records of {len(titles)} titles, {seconds:.1f} s", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(trial, n, given, place, untouched) for n in range(given.trials)]
        return [job.result() for job in jobs]


def main(arguments: list[str]) -> int:
    own = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run; it is copied")
    parser.add_argument("--titles", type=Path, required=True, help="a text file, a title a line")
    parser.add_argument("--form", choices=FORMS, default="jsonl", help="of the predictions")
    parser.add_argument("--append", action="store_true", help="add half of the titles later")
    parser.add_argument("--trials", type=int, default=20, help="files")
    parser.add_argument("--kills", type=int, default=3, help="times that each is killed")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    parser.add_argument("--in-order", action="store_true", help="all files in the same order")
    parser.add_argument("--seed", type=int, default=0, help="of orders and moments")
    given = parser.parse_args(arguments[:own])
    given.options = arguments[own + 1 :]
    import_once()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shutil.copytree(given.run, place / "run")
        given.run = place / "run"
        done = trials(given, place)
    for number, one in enumerate(done):
        for failure in one.failures:
            print(f"trial {number}: {failure}")
    failed = sum(bool(one.failures) for one in done)
    killed_at = [at for one in done for at in one.killed_at]
    same = "record" if given.form == "parquet" else "byte"
    print(
        f"{len(done) - failed} of {len(done)} equal in every {same} ({len(killed_at)} kills, "
        f"{sum(0 < at < 1 for at in killed_at)} of them between the first line and the last, "
        f"{sum(at == 1 for at in killed_at)} after it)"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
