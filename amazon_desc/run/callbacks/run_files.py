"""Writes what a run is: all its options, what decides it, and what became of its data.

In comes a fit that starts, out go RUN/config.yaml, run.json and data_report.json; no other command
touches them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import SaveConfigCallback

from amazon_desc.run.folder import RunFolder
from amazon_desc.support.files import write_text
from amazon_desc.support.secrets import SHOWN_IN_YAML, masked


class SaveRunConfig(SaveConfigCallback):
    """Writes when data, base, checkpoint and loaders are there: a refused fit changes nothing."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves out what Lightning would write here."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            run = RunFolder(Path(trainer.default_root_dir))
            options = self.parser.dump(self.config, skip_unset=False)
            write_text(run.config, masked(options, SHOWN_IN_YAML))
            write_text(run.data_report, json.dumps(trainer.datamodule.opened.report()) + "\n")
            run.write_start(pl_module.settings, trainer.datamodule.batch_size)
