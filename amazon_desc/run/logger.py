"""The run's TensorBoard log, which training survives when it cannot be written.

In come numbers, texts and histograms, out go event files. The first time that the disk refuses one
this is said once, and from then on nothing is logged: curves can be missed, training goes on.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from amazon_desc.run.folder import RunFolder
from amazon_desc.support.printing import say

FLUSH_SECONDS = 10


# Series and chart of what is logged, by its name. Each series is a folder of its own, and a chart
# has all series of its name: that of training beside that of validation. Charts are sorted by
# name: loss comes first, then scores, speed and steps, and last the histograms of texts.
TRAIN, VALIDATION, BASE, TUNED = "train", "validation", "base", ""
CHARTS = {
    "train/loss": (TRAIN, "loss/loss"),
    "validation/loss": (VALIDATION, "loss/loss"),
    "validation/perplexity": (VALIDATION, "loss/perplexity"),
    "train/tokens_per_second": (TRAIN, "speed/tokens_per_second"),
    "train/mfu": (TRAIN, "speed/mfu"),
    "train/peak_memory_gib": (TRAIN, "speed/peak_memory_gib"),
    "train/learning_rate": (TRAIN, "steps/learning_rate"),
    "train/gradient_norm": (TRAIN, "steps/gradient_norm"),
    "epoch": (TRAIN, "steps/epoch"),
}
LENGTHS_OF_TEXTS = "texts"


def chart_of(name: str) -> tuple[str, str]:
    """Returns the series and the chart of a number by the name it is logged under.

    "validation/rougeL" -> ("validation", "scores/rougeL"), and what others log -> ("", its name)
    """
    series, _, score = name.partition("/")
    if name not in CHARTS and series == VALIDATION:
        return VALIDATION, f"scores/{score}"
    return CHARTS.get(name, ("", name))


def name_of(series: str, chart: str) -> str:
    """Returns the name under which a number was logged, by its series and chart.

    ("validation", "scores/rougeL") -> "validation/rougeL", and what others log -> its chart
    """
    names = {place: name for name, place in CHARTS.items()}
    kind, _, score = chart.partition("/")
    if kind == "scores" and series in (VALIDATION, BASE, TUNED):
        return f"{series or 'tuned'}/{score}"
    return names.get((series, chart), chart)


def read_scalars(folder: Path) -> dict[str, list[Any]]:
    """Returns all points of RUN/tensorboard, by the name that they were logged under.

    A point has `step`, from 0, `value`, and `wall_time` in seconds.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[Any]] = {}
    for series in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(series), size_guidance={"scalars": 0}).Reload()
        name = "" if series == folder else series.relative_to(folder).as_posix()
        for chart in events.Tags()["scalars"]:
            found.setdefault(name_of(name, chart), []).extend(events.Scalars(chart))
    return found


class RunLogger(TensorBoardLogger):
    """Writes RUN/tensorboard.

    TensorBoard counts steps from 0. A run that is resumed from a checkpoint of `num_steps` steps
    takes back what an interrupted one logged of the last of these and later, and logs it anew.
    """

    def __init__(self, run: RunFolder, num_steps: int) -> None:
        super().__init__(
            str(run.path), name=run.tensorboard.name, version="", default_hp_metric=False
        )
        self.folder = run.tensorboard
        self.purge_step: int | None = max(0, num_steps - 1)
        self.state = LogState()
        self.writers: dict[str, SurvivingWriter] = {}
        threading.excepthook = without_writer_errors(threading.excepthook)

    def series(self, name: str) -> SurvivingWriter:
        """Returns the writer of a series, whose file is begun with the first that is written."""
        if name not in self.writers:
            opened = cache(partial(opened_writer, self.folder / name, self.purge_step))
            self.writers[name] = SurvivingWriter(str(self.folder), opened, self.state)
        return self.writers[name]

    @property
    def opened(self) -> list[SurvivingWriter]:
        """Those that have written something: asking for one makes no folder."""
        return [writer for writer in self.writers.values() if writer.is_open]

    @property
    def experiment(self) -> Any:
        return self.series("")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            series, chart = chart_of(name)
            self.series(series).add_scalar(chart, float(value), step)

    def log_scores(
        self,
        base: Mapping[str, float],
        tuned: Mapping[str, float],
        options: Mapping[str, Any],
        step: int,
    ) -> None:
        """Logs the scores of both sides, and the options of the run beside those of the tuned one.

        Args:
            options: by name, the columns of the HPARAMS tab
        """
        charts = [{f"scores/{name}": of for name, of in found.items()} for found in (base, tuned)]
        for side, found in zip((BASE, TUNED), charts, strict=True):
            for chart, value in found.items():
                self.series(side).add_scalar(chart, value, step)
        self.series(TUNED).attempt(lambda writer: add_options(writer, dict(options), charts[1]))

    def save(self) -> None:
        """Writes curves and options of the HPARAMS tab; config.yaml holds all options."""
        for writer in self.opened:
            writer.flush()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Has on the disk what was logged before a checkpoint: a resumed run repeats none."""
        self.save()

    def finalize(self, status: str) -> None:
        for writer in self.opened:
            writer.close()
        # The scores at the end of a fit begin files of their own, which take back nothing.
        self.writers.clear()
        self.purge_step = None


def opened_writer(folder: Path, purge_step: int | None) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter  # costs most of a second

    wait_out_the_second(folder)
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=FLUSH_SECONDS)


def add_options(writer: Any, options: dict[str, Any], scores: dict[str, float]) -> None:
    """Has the HPARAMS tab show options with scores, which are logged under the same names."""
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(options, scores):
        writer.file_writer.add_summary(summary)


def wait_out_the_second(folder: Path) -> None:
    """Returns in a later second than that in which the folder's newest file was begun.

    Files are read in the order of their names, which begin with it. Of two of one second the older
    could be read last, and take back what the newer one holds.
    """
    begun = [int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.*")]
    while begun and int(time.time()) == max(begun):
        time.sleep(0.05)


@dataclass
class LogState:
    """Whether a log can no longer be written, which its series have in common."""

    is_lost: bool = False


class SurvivingWriter:
    """A SummaryWriter, opened when it is first used, whose methods never raise OSError."""

    def __init__(
        self, folder: str, open_writer: Callable[[], Any], state: LogState | None = None
    ) -> None:
        self.folder = folder
        self.open_writer = open_writer
        self.state = state or LogState()
        self.is_open = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return self.attempt(lambda writer: getattr(writer, name)(*arguments, **named))

        return call

    def attempt(self, action: Callable[[Any], Any]) -> Any:
        """Does something with the writer, or nothing once the log is lost."""
        if self.state.is_lost:
            return None
        try:
            writer = self.open_writer()
            self.is_open = True
            return action(writer)
        except OSError as error:
            self.state.is_lost = True
            say(
                f"amazon_desc: {self.folder} cannot be written ({error.strerror or error}): "
                f"training goes on, its curves do not.",
                file=sys.stderr,
            )


def without_writer_errors(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keeps TensorBoard's writer thread from printing what the main thread will see as well."""

    def quiet(arguments: Any) -> None:
        is_writers = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (is_writers and issubclass(arguments.exc_type, OSError)):
            hook(arguments)

    return quiet
