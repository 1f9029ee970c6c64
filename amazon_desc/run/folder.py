"""The run folder: where each thing of a run is, and whether the run has finished.

    RUN/config.yaml          all options of the run
    RUN/checkpoints/         to resume from
    RUN/adapter/             the best weights, plain PEFT
    RUN/tensorboard/         curves and text samples
    RUN/metrics.json         scores of base and tuned weights
    RUN/scored/              the titles of these scores, with both texts
    RUN/predictions/         files of descriptions
    RUN/run.json             versions, and when the run finished
    RUN/report.html          all of it as a page

Knows names only; what is in the files is the business of those who write them.
"""

import json
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amazon_desc.support.files import read_json, remove_leftovers, write_text

CHECKPOINT_NAME = re.compile(r"step=(\d+)\.ckpt")
DAMAGED = ".damaged"  # is put after the name of a checkpoint that is set aside
RECORDED_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "lightning", "datasets")


@dataclass(frozen=True)
class RunFolder:
    """The places in a run folder; nothing is created by asking."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    def scored(self, command: str) -> Path:
        """Returns the file of what `validate` or `test` scored, one title a line."""
        return self.path / "scored" / f"{command}.jsonl"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def data_report(self) -> Path:
        return self.path / "data_report.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def remove_leftovers(self) -> None:
        """Removes what a killed fit left half written; only a fit that is alone here may."""
        files = (self.config, self.record, self.data_report, self.report)
        for path in (*files, self.adapter, *self.checkpoint_leftovers()):
            remove_leftovers(path)

    def checkpoint_leftovers(self) -> list[Path]:
        return [
            leftover.with_name(leftover.name.split("-", 2)[2])
            for leftover in self.checkpoints.glob(".tmp-*-step=*")
        ]

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step={step:08d}.ckpt"

    def checkpoint_files(self) -> list[Path]:
        """Returns the checkpoints, that of the highest step first: never judged by their time."""
        files = [file for file in self.checkpoints.glob("*.ckpt") if step_of(file) is not None]
        return sorted(files, key=lambda file: step_of(file) or 0, reverse=True)

    def damaged_files(self) -> list[Path]:
        return sorted(self.checkpoints.glob(f"*.ckpt{DAMAGED}"))

    def is_finished(self) -> bool:
        return "finished" in self.read_record()

    def read_record(self) -> dict[str, Any]:
        if not self.record.is_file():
            return {}
        record = read_json(self.record)
        return record if isinstance(record, dict) else {}

    def write_start(self, settings: dict[str, Any], batch_size: int) -> None:
        """Notes when the run was first started, and its settings and versions now.

        Args:
            batch_size: rows of a micro-batch, also where the option leaves them open
        """
        record = {"started": now(), **self.read_record()}
        record |= {"settings": settings, "batch_size": batch_size, "versions": versions()}
        write_text(self.record, json.dumps(record, indent=1) + "\n")

    def write_finish(self, num_steps: int) -> None:
        record = {**self.read_record(), "finished": now(), "num_steps": num_steps}
        write_text(self.record, json.dumps(record, indent=1) + "\n")


def step_of(checkpoint: Path | None) -> int | None:
    """Returns the number of optimizer steps after which a checkpoint was written, by its name."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name) if checkpoint else None
    return int(match[1]) if match else None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    packages = {package: version(package) for package in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **packages}
