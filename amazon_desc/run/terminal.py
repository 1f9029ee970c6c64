"""What surrounds a command on the terminal: no noise, what is said at the end.

In comes a run that has ended, out go lines that say where everything is. Nothing is run here, and
errors are put into words in failures.py.
"""

import logging
import warnings
from collections.abc import Iterator
from shlex import quote

from lightning.pytorch.trainer import Trainer

from amazon_desc.run.folder import RunFolder
from amazon_desc.support.errors import StorageError
from amazon_desc.support.printing import say
from amazon_desc.support.ranks import here


def where(run: RunFolder) -> str:
    """Returns what is said at the end of a fit; its commands can be copied as they stand.

    Only what is there: scores, for one, are not where validation was switched off.
    """
    folder, config = quote(str(run.path)), quote(str(run.config))
    there = [line.format(folder=folder) for name, line in PLACES if (run.path / name).exists()]
    return WHERE.format(run=run.path, places="\n".join(there), config=config)


def report(run: RunFolder) -> None:
    """Makes the page of a run that has scores or curves; a disk that refuses it is only said."""
    from amazon_desc.run.report.page import write_report  # draws, which the end alone needs

    if not (run.metrics.exists() or run.record.exists()):
        return
    try:
        write_report([run], run.report)
    except StorageError as error:
        say(f"No report was made: {error}")


def stopped_early(trainer: Trainer) -> Iterator[str]:
    """Yields why training ended before its last step, as each EarlyStopping has it."""
    for callback in trainer.early_stopping_callbacks:
        if reason := callback.stopping_reason_message:
            why = reason.removesuffix(" Signaling Trainer to stop.")
            yield f"Stopped early, after step {trainer.global_step}: {why}"


def quiet() -> None:
    """Silences what users can do nothing about, and what the first process says as well."""
    if not here().is_first:
        for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
    for name, words in (
        ("lightning.pytorch.utilities.rank_zero", "Tip:"),
        ("lightning.fabric.utilities.distributed", "Initializing distributed"),
        ("lightning.fabric.utilities.rank_zero", "distributed_backend"),
        ("bitsandbytes.backends.cpu.ops", "gemm_4bit_forward"),
    ):
        logging.getLogger(name).addFilter(lambda record, w=words: w not in record.getMessage())
    for pattern in (
        r".*does not have many workers.*",
        r".*LeafSpec.*",
        r".*sync_dist=True.*",  # all processes log the same: they have joined what they counted
        r".*Total length of `.*` across ranks.*",
        r".*your dataloader is not resumable.*",  # it is: the order of the rows skips
        r".*callbacks used to create the checkpoint need to be provided.*",
        r".*is_gradient_checkpointing. is deprecated.*",
        r".*args parameter is intended to run from within Python.*",
        r".*bf16-mixed. is not supported.*",
    ):
        warnings.filterwarnings("ignore", pattern)


TRIED = """\
Tried with {num_steps} optimizer steps: nothing is kept.
To train, leave --trainer.fast_dev_run away."""

FINISHED = """\
This run is finished: {run} holds its adapter, scores and checkpoints.
For a fresh start name another folder with --trainer.default_root_dir."""

PLACES = (
    ("adapter", "  adapter/       the best weights, a PEFT folder"),
    ("metrics.json", "  metrics.json   scores of base and tuned weights"),
    ("report.html", "  report.html    the run on one page: scores, curves, texts"),
    (
        "tensorboard",
        "  tensorboard/   curves and text samples:    tensorboard --logdir {folder}",
    ),
    ("checkpoints", "  checkpoints/   to resume from"),
    ("config.yaml", "  config.yaml    all options of the run"),
)

WHERE = """
Everything is in {run}:
{places}

Write descriptions:  python -m amazon_desc predict --config {config} --data.titles titles.txt"""
