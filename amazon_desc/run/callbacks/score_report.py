"""Shows and keeps the scores of base and tuned weights.

In comes a module that has validated or tested, out go a table on the terminal, RUN/metrics.json,
RUN/scored, which holds each title with both texts, and TensorBoard's last scores. The scores
themselves are computed by the module.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from amazon_desc.evaluation.counts import signatures
from amazon_desc.evaluation.intervals import NUM_RESAMPLES, SEED
from amazon_desc.evaluation.summary import (
    Stage,
    format_samples,
    format_scores,
    values_of,
    write_metrics,
    write_records,
)
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.logger import RunLogger
from amazon_desc.run.options.settings import compared
from amazon_desc.support.files import remove_leftovers, storage
from amazon_desc.support.locks import one_at_a_time
from amazon_desc.support.printing import say
from amazon_desc.training.module import DescriptionModule

HOW_TO_READ = """\
± half of the 95 % interval over titles; p of the same titles compared in pairs. Scores compare
words, not facts: what each means is in amazon_desc/evaluation/README.md."""
COPIED = """\
By the measure of "copied", {share:.1%} of the real descriptions are copied too."""
NUM_SAMPLES_SHOWN = 3
SPLITS: dict[Stage, str] = {"validate": "validation", "test": "test"}


class ScoreReport(Callback):
    """Reports at the end of validate and test, not of the validations in the middle of a fit.

    Scores of a part are shown, and not kept: metrics.json holds those of all.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.report(trainer, pl_module, "validate")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.report(trainer, pl_module, "test")

    def report(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        assert isinstance(module, DescriptionModule)
        if not trainer.is_global_zero:
            return
        scores, samples = module.scoring.side_by_side(), module.samples
        say(f"\n{module.writing_plan}")
        say(f"\n{len(samples)} products of the {SPLITS[stage]} split, base beside tuned:\n")
        say(format_scores(scores))
        say(f"\n{HOW_TO_READ}")
        if module.scoring.copied_references:
            say(COPIED.format(share=module.scoring.copied_references))
        say("\n" + format_samples(samples[:NUM_SAMPLES_SHOWN]))
        if isinstance(trainer.logger, RunLogger):
            sides = values_of(scores.base), values_of(scores.tuned)
            step = max(0, trainer.global_step - 1)
            trainer.logger.log_scores(*sides, compared(module.settings), step)
        run = RunFolder(Path(trainer.default_root_dir))
        metrics = run.metrics
        if not is_whole(trainer, stage):
            say(f"\nThese are scores of a part, by a --trainer option: not kept in {metrics}")
            return
        with storage(metrics.parent):
            metrics.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(metrics, say):  # validate and test may end at the same time
                for file in (metrics, run.scored(stage)):
                    remove_leftovers(file)
                entry = {**scores.as_dict(), **circumstances(module, stage)}
                write_metrics(metrics, stage, entry)
                write_records(run.scored(stage), module.scoring.records())
        say(f"\nScores are in {metrics}")


def circumstances(module: DescriptionModule, stage: Stage) -> dict[str, Any]:
    """Returns what the scores were measured on and how, without which they mean nothing."""
    files = [
        {"use": file["use"], "name": Path(file["path"]).name, "sha256": file["sha256"]}
        for file in module.data.source_files
    ]
    return {
        "measured_on": {
            "split": SPLITS[stage],
            "num_titles": len(module.samples),
            "num_targets": module.scoring.losses["tuned"].total_targets,
            "copied_references": module.scoring.copied_references,
            "files": files,
            "num_resamples": NUM_RESAMPLES,
            "seed": SEED,
        },
        "signatures": signatures(),
        "decoding": asdict(module.decoding),
    }


def is_whole(trainer: L.Trainer, stage: Stage) -> bool:
    """Says whether all batches were scored, not only so many as an option lets through."""
    if stage == "validate":
        loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    else:
        loaders, limits = trainer.test_dataloaders, trainer.num_test_batches
    lengths = [len(loader) for loader in loaders or ()]
    return not trainer.fast_dev_run and lengths == list(limits)  # pyright: ignore
