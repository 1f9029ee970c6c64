"""Training survives a log that cannot be written, and a resumed run logs each step once."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.logger import (
    CHARTS,
    RunLogger,
    SurvivingWriter,
    chart_of,
    name_of,
    read_scalars,
    without_writer_errors,
)


class Writer:
    """Fails when it is told to, and notes what it was called with."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.calls: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, global_step: int = 0) -> str:
        if self.failure:
            raise self.failure
        self.calls.append((tag, value, global_step))
        return "written"


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def surviving(writer: Writer) -> SurvivingWriter:
    return SurvivingWriter("runs/a/tensorboard", lambda: writer)


def test_everything_is_handed_on(surviving: SurvivingWriter, writer: Writer):
    assert surviving.add_scalar("loss", 1.5, global_step=3) == "written"
    assert writer.calls == [("loss", 1.5, 3)]


def test_no_file_is_opened_before_there_is_something_to_write():
    opened: list[Writer] = []

    def open_writer() -> Writer:
        opened.append(Writer())
        return opened[-1]

    surviving = SurvivingWriter("folder", open_writer)
    add_scalar = surviving.add_scalar
    assert opened == []
    add_scalar("loss", 1.0)
    assert opened[0].calls == [("loss", 1.0, 0)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError("the drive is gone"), "the drive is gone"),
    ],
)
def test_the_first_failure_is_said_once_and_nothing_is_tried_again(
    failure: OSError,
    reason: str,
    surviving: SurvivingWriter,
    writer: Writer,
    capfd: pytest.CaptureFixture[str],
):
    surviving.add_scalar("loss", 1.0)
    writer.failure = failure
    for _ in range(3):
        assert surviving.add_scalar("loss", 2.0) is None
    assert capfd.readouterr().err == (
        f"amazon_desc: runs/a/tensorboard cannot be written ({reason}): training goes on, its "
        f"curves do not.\n"
    )
    writer.failure = None  # there is room again, but the curve has a gap already
    assert surviving.add_scalar("loss", 3.0) is None
    assert writer.calls == [("loss", 1.0, 0)]
    assert capfd.readouterr().err == ""


def test_a_log_that_cannot_even_be_opened_is_said_once(capfd: pytest.CaptureFixture[str]):
    def open_writer() -> Writer:
        raise OSError(30, "Read-only file system")

    surviving = SurvivingWriter("folder", open_writer)
    assert surviving.add_scalar("loss", 1.0) is None
    assert surviving.flush() is None
    err = capfd.readouterr().err
    assert err.count("folder cannot be written (Read-only file system)") == 1 == err.count("\n")


@pytest.mark.parametrize("failure", [ValueError("a bug"), KeyboardInterrupt(), MemoryError()])
def test_other_failures_are_not_swallowed(
    failure: BaseException, surviving: SurvivingWriter, writer: Writer
):
    writer.failure = failure
    for _ in range(2):
        with pytest.raises(type(failure)):
            surviving.add_scalar("loss", 1.0)
    writer.failure = None
    assert surviving.add_scalar("loss", 1.0) == "written"


def test_a_misspelt_method_is_not_swallowed(surviving: SurvivingWriter):
    with pytest.raises(AttributeError, match="add_skalar"):
        surviving.add_skalar("loss", 1.0)


# What TensorBoard's thread prints


class Writers(threading.Thread):
    """A thread of TensorBoard."""


Writers.__module__ = "tensorboard.summary.writer.event_file_writer"


@pytest.mark.parametrize(
    ("thread", "failure", "is_shown"),
    [
        (Writers(), OSError, False),
        (Writers(), PermissionError, False),
        (Writers(), ValueError, True),
        (threading.Thread(), OSError, True),
        (None, OSError, True),
    ],
)
def test_only_the_disk_errors_of_the_writer_thread_stay_quiet(
    thread: Any, failure: type[Exception], is_shown: bool
):
    shown: list[Any] = []
    arguments = SimpleNamespace(thread=thread, exc_type=failure)
    without_writer_errors(shown.append)(arguments)
    assert shown == ([arguments] if is_shown else [])


@pytest.mark.parametrize(("failure", "num_shown"), [(OSError(28, "full"), 0), (ValueError(), 1)])
def test_so_it_is_with_the_thread_that_tensorboard_starts(
    failure: Exception, num_shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", without_writer_errors(shown.append))
    writer = EventFileWriter(str(tmp_path))

    def refuse(*_: Any) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", refuse)
        before = set(threading.enumerate())
        writer.add_event(Event(step=1))
        wait_until(lambda: any(not thread.is_alive() for thread in before))
    assert len(shown) == num_shown


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


# The log of a run


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the threads' hook back, which every logger wraps."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


def log(run: RunFolder, num_steps: int, values: dict[int, float]) -> None:
    """Logs a loss by step, as a fit does that is resumed from a checkpoint of so many steps."""
    logger = RunLogger(run, num_steps)
    for step, value in values.items():
        logger.log_metrics({"loss": value}, step=step)
    logger.save()
    logger.finalize("success")


def losses(run: RunFolder) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run.tensorboard)).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


@pytest.mark.usefixtures("hook")
def test_what_an_interrupted_run_logged_too_much_is_taken_back(tmp_path: Path):
    """Its last checkpoint is of 3 steps, 0, 1 and 2; the last of them is logged anew."""
    run = RunFolder(tmp_path)
    log(run, 0, {0: 9.0, 1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0})
    log(run, 3, {2: 7.5, 3: 6.5, 4: 5.5, 5: 4.5})
    assert losses(run) == [(0, 9.0), (1, 8.0), (2, 7.5), (3, 6.5), (4, 5.5), (5, 4.5)]


@pytest.mark.usefixtures("hook")
def test_a_run_that_starts_anew_takes_everything_back(tmp_path: Path):
    run = RunFolder(tmp_path)
    log(run, 0, {0: 9.0, 1: 8.0})
    log(run, 0, {0: 9.5})
    assert losses(run) == [(0, 9.5)]


@pytest.mark.usefixtures("hook")
def test_a_run_that_goes_on_within_a_second_is_read_last(tmp_path: Path):
    """Files are read by their names: second, machine, process, and how many it has begun."""
    run = RunFolder(tmp_path)
    log(run, 0, {0: 9.0, 1: 8.0})
    (older,) = run.tensorboard.glob("events.*")
    older.rename(older.with_name(f"events.out.tfevents.{int(time.time())}.zzz"))
    log(run, 0, {0: 9.5})
    assert losses(run) == [(0, 9.5)]


@pytest.mark.usefixtures("hook")
def test_a_logger_that_logs_nothing_makes_no_folder(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    RunLogger(run, 0)
    assert not run.path.exists()


@pytest.mark.usefixtures("hook")
def test_a_run_that_logs_nothing_has_no_folder(tmp_path: Path):
    logger = RunLogger(RunFolder(tmp_path / "run"), 0)
    assert logger.experiment is logger.experiment
    logger.save()
    logger.finalize("failed")
    assert not (tmp_path / "run").exists()


def test_charts_sort_with_loss_first_and_the_histograms_last():
    charts = {chart.partition("/")[0] for _, chart in map(chart_of, CHARTS)}
    assert sorted({*charts, "scores", "texts"}) == ["loss", "scores", "speed", "steps", "texts"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("train/loss", ("train", "loss/loss")),
        ("validation/loss", ("validation", "loss/loss")),
        ("validation/rougeL", ("validation", "scores/rougeL")),
        ("epoch", ("train", "steps/epoch")),
        ("lr-AdamW", ("", "lr-AdamW")),
    ],
)
def test_a_name_has_one_place_and_is_found_again(name: str, place: tuple[str, str]):
    assert chart_of(name) == place
    assert name_of(*place) == name


@pytest.mark.usefixtures("hook")
def test_the_scores_of_the_end_take_nothing_back(tmp_path: Path):
    run = RunFolder(tmp_path)
    logger = RunLogger(run, 2)
    logger.log_metrics({"train/loss": 3.0, "other": 1.0}, step=1)
    logger.log_metrics({"train/loss": 2.0, "validation/loss": 2.5}, step=2)
    logger.finalize("success")
    logger.log_scores({"loss": 4.0}, {"loss": 2.5}, {"LoRA r": 16, "backbone": "tiny"}, 2)
    logger.save()
    found = {
        name: [(point.step, point.value) for point in points]
        for name, points in read_scalars(run.tensorboard).items()
    }
    assert found == {
        "train/loss": [(1, 3.0), (2, 2.0)],
        "validation/loss": [(2, 2.5)],
        "other": [(1, 1.0)],
        "base/loss": [(2, 4.0)],
        "tuned/loss": [(2, 2.5)],
    }


@pytest.mark.usefixtures("hook")
def test_a_disk_that_fails_one_series_is_said_once_for_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    logger = RunLogger(RunFolder(tmp_path), 0)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("amazon_desc.run.logger.opened_writer", refuse)
    for step in range(2):
        logger.log_metrics({"train/loss": 3.0, "validation/loss": 2.0}, step=step)
    logger.log_scores({"loss": 4.0}, {"loss": 2.5}, {}, 2)
    assert capfd.readouterr().err.count("No space left on device") == 1
