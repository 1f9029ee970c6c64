"""The callbacks that watch every command: each reports, saves or shows, and can be left out.

In come the callbacks that options ask for, out go these and ours. None of ours changes a weight:
what decides one is the module's. ResumeCheckpoint and SaveRunConfig have options, and so are added
by the command line.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback, ProgressBar

from amazon_desc.run.callbacks.best_adapter import BestAdapter
from amazon_desc.run.callbacks.monitoring import ChosenPath, DataLengths, TextSamples, Throughput
from amazon_desc.run.callbacks.progress import ProgressLine
from amazon_desc.run.callbacks.score_report import ScoreReport
from amazon_desc.run.callbacks.signals import StopOnSignal
from amazon_desc.support.signals import Signals


def with_ours(
    given: list[Callback], has_bar: bool, signals: Signals, max_time: Any, monitor: str
) -> list[Callback]:
    """Returns the given callbacks and ours.

    Args:
        has_bar: a progress bar is wanted; ours only if none is given
        max_time: how long this process may train
        monitor: the score whose best makes the adapter
    """
    is_given = any(isinstance(callback, ProgressBar) for callback in given)
    bar = [ProgressLine()] if has_bar and not is_given else []
    shown = [ChosenPath(), DataLengths(), Throughput(), TextSamples()]
    return [
        *given,
        *bar,
        StopOnSignal(signals, max_time),
        *shown,
        BestAdapter(monitor),
        ScoreReport(),
    ]
