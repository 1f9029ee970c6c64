"""The run's TensorBoard log, which training survives when it cannot be written.

In come numbers, texts and histograms, out go event files. The first time that the disk refuses one
this is said once, and from then on nothing is logged: curves can be missed, training goes on.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from amazon_desc.run.folder import RunFolder
from amazon_desc.support.printing import say

FLUSH_SECONDS = 10


class RunLogger(TensorBoardLogger):
    """Writes RUN/tensorboard.

    TensorBoard counts steps from 0. A run that is resumed from a checkpoint of `num_steps` steps
    takes back what an interrupted one logged of the last of these and later, and logs it anew.
    """

    def __init__(self, run: RunFolder, num_steps: int) -> None:
        super().__init__(
            str(run.path),
            name=run.tensorboard.name,
            version="",
            default_hp_metric=False,
            purge_step=max(0, num_steps - 1),
            flush_secs=FLUSH_SECONDS,
        )
        self.is_open = False
        self.writer = SurvivingWriter(str(run.tensorboard), self.open)
        threading.excepthook = without_writer_errors(threading.excepthook)

    def open(self) -> Any:
        if not self.is_open:
            wait_out_the_second(Path(self.log_dir))
            self.is_open = True
        return super().experiment

    @property
    def experiment(self) -> Any:
        return self.writer

    def save(self) -> None:
        """Writes curves only: there are no hyper-parameters here, config.yaml holds all options."""
        if self.is_open:
            self.writer.flush()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Has on the disk what was logged before a checkpoint: a resumed run repeats none."""
        self.writer.flush()


def wait_out_the_second(folder: Path) -> None:
    """Returns in a later second than that in which the folder's newest file was begun.

    Files are read in the order of their names, which begin with it. Of two of one second the older
    could be read last, and take back what the newer one holds.
    """
    begun = [int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.*")]
    while begun and int(time.time()) == max(begun):
        time.sleep(0.05)


class SurvivingWriter:
    """A SummaryWriter, opened when it is first used, whose methods never raise OSError."""

    def __init__(self, folder: str, open_writer: Callable[[], Any]) -> None:
        self.folder = folder
        self.open_writer = open_writer
        self.is_lost = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.is_lost:
                return None
            try:
                return getattr(self.open_writer(), name)(*arguments, **named)
            except OSError as error:
                self.is_lost = True
                say(
                    f"amazon_desc: {self.folder} cannot be written ({error.strerror or error}): "
                    f"training goes on, its curves do not.",
                    file=sys.stderr,
                )

        return call


def without_writer_errors(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keeps TensorBoard's writer thread from printing what the main thread will see as well."""

    def quiet(arguments: Any) -> None:
        is_writers = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (is_writers and issubclass(arguments.exc_type, OSError)):
            hook(arguments)

    return quiet
