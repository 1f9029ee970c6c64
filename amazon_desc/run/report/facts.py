"""A run folder -> what a report says of it, and what is missing there.

In comes the folder, out go its options, record, curves, scores and texts, as far as they are there.
What is missing or damaged becomes a sentence of `notes`; only a folder that is no run is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePath
from typing import Any

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.report.curves import Log, read_log
from amazon_desc.run.report.scores import STAGES, StageScores, stages_of
from amazon_desc.run.report.texts import Overview, overview_of
from amazon_desc.run.report.values import json_of, mapping, text, yaml_of
from amazon_desc.support.errors import UserError


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run."""

    name: str
    folder: RunFolder
    options: Mapping[str, Any]
    """config.yaml"""
    config: str
    """the same as it stands there"""
    record: Mapping[str, Any]
    data: Mapping[str, Any]
    """data_report.json: what became of its files' records"""
    log: Log
    stages: Mapping[str, StageScores]
    overviews: Mapping[str, Overview]
    """of the scored titles, by stage"""
    notes: list[str] = field(default_factory=list)

    def setting(self, option: str) -> Any:
        """Returns what decided the run, by option: "model.lora.r" -> 16; None if not known."""
        settings = mapping(self.record.get("settings"))
        if f"--{option}" in settings:
            return settings[f"--{option}"]
        found: Any = self.options
        for name in option.split("."):
            found = mapping(found).get(name)
        return found

    @property
    def place(self) -> str:
        """The run folder as its user wrote it; its name alone if it was moved since."""
        written = text(self.setting("trainer.default_root_dir"))
        return written if PurePath(written).name == self.name else self.name

    @property
    def best_stage(self) -> str | None:
        """The stage whose scores say most, or None where nothing was measured."""
        return next((stage for stage in STAGES if stage in self.stages), None)

    @property
    def seconds(self) -> float | None:
        """From the run's first start to its end, pauses included."""
        try:
            started, finished = (
                datetime.fromisoformat(text(self.record.get(key)))
                for key in ("started", "finished")
            )
            return (finished - started) / timedelta(seconds=1)
        except (ValueError, TypeError):
            return None


def facts_of(run: RunFolder) -> RunFacts:
    """Returns what is known of a run.

    Raises:
        UserError: the folder is none of a run.
    """
    files = (run.config, run.record, run.metrics)
    if not any(file.is_file() for file in files):
        raise UserError(
            f"{run.path} is no run: wanted a folder in which fit, validate or test has written, "
            f"found none of {', '.join(file.name for file in files)}. Give the "
            f"--trainer.default_root_dir of a run."
        )
    notes: list[str] = []
    config, options = config_of(run.config, notes)
    record = object_of(run.record, "what decided the run, its versions and its times", notes)
    metrics = object_of(run.metrics, "scores", notes)
    stages = stages_of(metrics)
    if not any(stages) and run.metrics.is_file() and metrics:
        notes.append(f"{run.metrics.name} holds no scores of validate or test.")
    return RunFacts(
        name=run.path.resolve().name,
        folder=run,
        options=options,
        config=config,
        record=record,
        data=object_of(run.data_report, "what became of the data's records", notes),
        log=log_of(run.tensorboard, notes),
        stages=stages,
        overviews=overviews_of(run, notes),
        notes=[*notes, *notes_on(stages)],
    )


def notes_on(stages: Mapping[str, StageScores]) -> list[str]:
    return [
        f"metrics.json has no intervals of {stage}: an older version wrote it. "
        f"`{stage}` run again adds them."
        for stage, scores in stages.items()
        if not scores.has_intervals
    ]


def config_of(file: Path, notes: list[str]) -> tuple[str, dict[str, Any]]:
    try:
        source = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        notes.append(f"{file.name} is missing: the options are not shown.")
        return "", {}
    options = yaml_of(source)
    if options is None:
        notes.append(f"{file.name} is damaged: it is shown as it is, and not understood.")
    return source, options or {}


def object_of(file: Path, what: str, notes: list[str]) -> dict[str, Any]:
    found = json_of(file) if file.is_file() else {}
    if found is None:
        notes.append(f"{file.name} is damaged: {what} are left out.")
    elif not found:
        notes.append(f"{file.name} is missing or empty: {what} are left out.")
    return found or {}


def log_of(folder: Path, notes: list[str]) -> Log:
    log = read_log(folder) if folder.is_dir() else Log()
    if not log.curves:
        notes.append(f"{folder.name}/ holds no curves that can be read: none are shown.")
    if log.num_unread:
        notes.append(f"{folder.name}/ has event files that could be read in part only.")
    return log


def overviews_of(run: RunFolder, notes: list[str]) -> dict[str, Overview]:
    found = {}
    for stage in STAGES:
        try:
            overview = overview_of(run.scored(stage))
        except OSError:
            continue
        if overview.damaged:
            num = len(overview.damaged)
            lines = "1 damaged line is" if num == 1 else f"{num:,} damaged lines are"
            notes.append(f"scored/{stage}.jsonl: {lines} left out.")
        if overview.num_titles:
            found[stage] = overview
    if not found:
        notes.append("scored/ holds no titles: no texts are shown.")
    return found
