"""Shows and keeps the scores of base and tuned weights.

In comes a module that has validated or tested, out go a table on the terminal, RUN/metrics.json and
scalars in TensorBoard. The scores themselves are computed by the module.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.evaluation.summary import format_samples, format_scores, write_metrics
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.files import remove_leftovers, storage
from amazon_desc.support.locks import one_at_a_time
from amazon_desc.support.printing import say
from amazon_desc.training.module import DescriptionModule

NUM_SAMPLES_SHOWN = 3


class ScoreReport(Callback):
    """Reports at the end of validate and test, not of the validations in the middle of a fit.

    Scores of a part are shown, and not kept: metrics.json holds those of all.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.report(trainer, pl_module, "validate")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.report(trainer, pl_module, "test")

    def report(
        self, trainer: L.Trainer, module: L.LightningModule, stage: Literal["validate", "test"]
    ) -> None:
        assert isinstance(module, DescriptionModule)
        base, tuned = module.scores("base"), module.scores("tuned")
        split = {"validate": "validation", "test": "test"}[stage]
        say(f"\n{module.writing_plan}")
        say(f"\n{len(module.samples)} products of the {split} split, base beside tuned:\n")
        say(format_scores(base, tuned))
        say("\n" + format_samples(module.samples[:NUM_SAMPLES_SHOWN]))
        metrics = RunFolder(Path(trainer.default_root_dir)).metrics
        if not is_whole(trainer, stage):
            say(f"\nThese are scores of a part, by a --trainer option: not kept in {metrics}")
            return
        with storage(metrics.parent):
            metrics.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(metrics, say):  # validate and test may end at the same time
                remove_leftovers(metrics)
                write_metrics(metrics, stage, base, tuned, asdict(module.decoding))
        say(f"\nScores are in {metrics}")


def is_whole(trainer: L.Trainer, stage: Literal["validate", "test"]) -> bool:
    """Says whether all batches were scored, not only so many as an option lets through."""
    if stage == "validate":
        loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    else:
        loaders, limits = trainer.test_dataloaders, trainer.num_test_batches
    lengths = [len(loader) for loader in loaders or ()]
    return not trainer.fast_dev_run and lengths == list(limits)  # pyright: ignore
