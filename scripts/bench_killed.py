"""Kills predictions again and again, and compares their files to one that nobody touched.

In: a finished run and a file of titles. Out: how many files are the same in every byte, at which
lines they were killed, and exit code 1 if one is not. A trial writes the same titles in an order of
its own: it is killed (SIGKILL) when a random number of lines is there, or in the midst of its
start, started again with the same command, and so on, until it is left to finish. Its lines must be
those of the untouched file, in its own order.

    python scripts/bench_killed.py runs/shop --titles titles.txt --trials 100

The order may change only where a text does not depend on its row: greedily. With a temperature,
add --in-order. What follows `--` goes to predict, such as `-- --model.decoding.temperature 0.7`.
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
from pathlib import Path
from typing import NamedTuple

from bench_resume import Run, import_once

LOST = 0.1  # kills that hit a start, before a line is written


class Trial(NamedTuple):
    """What happened to one file."""

    failures: list[str]
    killed_at: list[int]
    """lines that were written then"""


class Predictions:
    """The predictions of one file of titles, in one run folder."""

    def __init__(self, run: Path, options: Sequence[str], titles: Path) -> None:
        from amazon_desc.run.prediction_files import PredictionFiles

        from amazon_desc.run.folder import RunFolder

        self.files, self.log = (
            PredictionFiles.of(RunFolder(run), titles),
            titles.with_suffix(".log"),
        )
        folder = ["--trainer.default_root_dir", str(run), "--data.titles", str(titles)]
        config = ["--config", str(run / "config.yaml"), "--trainer.enable_progress_bar", "false"]
        self.command = ["predict", *config, *folder, *options]

    def start(self) -> Run:
        return Run(self.command, self.log)

    def num_lines(self) -> int:
        for file in (self.files.path, self.files.partial):
            try:
                return file.read_bytes().count(b"\n")
            except FileNotFoundError:
                continue
        return 0

    def lines(self) -> list[bytes]:
        return self.files.path.read_bytes().splitlines(keepends=True)


def kill_once(predictions: Predictions, at: int | None, seconds: float) -> int | None:
    """Kills a run when so many lines are there; None: at any moment of `seconds`.

    Returns the lines that were there; None if it had finished before.
    """
    run = predictions.start()
    end = None if at is not None else time.monotonic() + seconds
    while run.wait(0.001) is None:
        is_late = end is not None and time.monotonic() >= end
        if is_late or (at is not None and predictions.num_lines() >= at):
            run.send(signal.SIGKILL)
            code = run.wait()
            return predictions.num_lines() if code == -signal.SIGKILL else None
    return None


def trial(
    number: int,
    given: argparse.Namespace,
    place: Path,
    titles: Sequence[str],
    whole: Sequence[bytes],
    seconds: float,
) -> Trial:
    """Kills and finishes one file.

    Args:
        whole: lines of the untouched file, in the order of `titles`
        seconds: that the untouched run took
    """
    chance = random.Random(f"{given.seed} {number}")
    order = list(range(len(titles)))
    if not given.in_order:
        chance.shuffle(order)
    file = place / f"trial{number}.txt"
    file.write_text("".join(titles[n] + "\n" for n in order), encoding="utf-8")
    predictions = Predictions(given.run, given.options, file)
    killed_at = []
    for _ in range(given.kills):
        at = None if chance.random() < LOST else chance.randrange(1, len(titles))
        if (there := kill_once(predictions, at, seconds)) is not None:
            killed_at.append(there)
    code = predictions.start().wait()
    if code != 0:
        said = predictions.log.read_text().splitlines()[-1:]
        return Trial([f"exit code {code} at last: {said}"], killed_at)
    found, wanted = predictions.lines(), [whole[n] for n in order]
    differing = [n for n, pair in enumerate(zip(found, wanted, strict=False)) if len({*pair}) > 1]
    failures = [f"{len(differing)} other lines, first {differing[0] + 1}"] if differing else []
    if len(found) != len(wanted):
        failures.append(f"{len(found)} lines in place of {len(wanted)}")
    return Trial(failures, killed_at)


def trials(given: argparse.Namespace, place: Path) -> list[Trial]:
    titles = [t for t in given.titles.read_text(encoding="utf-8").splitlines() if t.strip()]
    untouched = place / "untouched.txt"
    untouched.write_text("".join(title + "\n" for title in titles), encoding="utf-8")
    predictions, start = Predictions(given.run, given.options, untouched), time.monotonic()
    code = predictions.start().wait()
    seconds = time.monotonic() - start
    if code != 0:
        said = predictions.log.read_text()
        sys.exit(f"{said}\nthe untouched run ended with code {code}")
    whole = predictions.lines()
    print(f"untouched: {len(whole)} titles, {seconds:.1f} s", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [
            pool.submit(trial, number, given, place, titles, whole, seconds)
            for number in range(given.trials)
        ]
        return [job.result() for job in jobs]


def main(arguments: list[str]) -> int:
    own = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run; it is copied")
    parser.add_argument("--titles", type=Path, required=True, help="a text file, a title a line")
    parser.add_argument("--trials", type=int, default=20, help="files")
    parser.add_argument("--kills", type=int, default=3, help="times that each is killed")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    parser.add_argument("--in-order", action="store_true", help="keep the titles' order")
    parser.add_argument("--seed", type=int, default=0, help="of orders and moments")
    given = parser.parse_args(arguments[:own])
    given.options = arguments[own + 1 :]
    import_once()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shutil.copytree(given.run, place / "run")
        shutil.rmtree(place / "run/predictions", ignore_errors=True)
        given.run = place / "run"
        done = trials(given, place)
        for number, one in enumerate(done):
            for failure in one.failures:
                print(f"trial {number}: {failure}")
        failed = sum(bool(one.failures) for one in done)
    killed_at = sorted(at for one in done for at in one.killed_at)
    print(
        f"{len(done) - failed} of {len(done)} equal in every byte ({len(killed_at)} kills, "
        f"{sum(at > 0 for at in killed_at)} of them between the first line and the last)"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
