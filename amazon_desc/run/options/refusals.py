"""Options of Lightning that mean something else here, do a part and call it all, or cannot work.

In come the options of a trainer as they were given, out comes nothing, or a UserError that names
the option of ours that does what was wanted. What only the run folder or the base can tell is in
checks.py.
"""

from __future__ import annotations

from pydoc import locate
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks as known
from lightning.pytorch.callbacks import Timer

from amazon_desc.run.options.devices import refuse_engines, refuse_uneven_rows
from amazon_desc.run.options.trainer_options import listed, refuse_plugins, refuse_precision
from amazon_desc.support.errors import UserError
from amazon_desc.training.validating import MONITORED, OF_LOSSES

# What a command computes, by the option of the trainer that limits it.
LIMITS = {
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


LARGEST_SEED = 2**32 - 1

# They change weights, rates or batches beside what is decided by options, or copy the whole module.
CHANGING = (
    *(known.StochasticWeightAveraging, known.WeightAveraging, known.BaseFinetuning),
    *(known.GradientAccumulationScheduler, known.BatchSizeFinder, known.LearningRateFinder),
    *(known.ModelPruning,),
)


def refuse_options(command: str | None, options: Any, world_size: int = 1) -> None:
    """Refuses all that this file knows.

    Args:
        command: None: the parts of a fit are built, and nothing is run
        options: all of the command
        world_size: the processes of the command
    """
    trainer, data = options.trainer, options.data
    refuse_engines(trainer.accelerator, trainer.strategy)
    refuse_counts_of_epochs(trainer.check_val_every_n_epoch, trainer.min_epochs)
    refuse_intervals(trainer.val_check_interval)
    refuse_precision(trainer.precision)
    refuse_plugins(trainer.plugins)
    refuse_unsaved_runs(trainer)
    refuse_nothing_to_do(command, trainer)
    refuse_monitor(options.checkpoint.monitor, data.num_sampled)
    if command in ("fit", None):
        refuse_limits_of_training(trainer)
        refuse_callbacks(trainer.callbacks)
        refuse_times(trainer.max_time)
        refuse_clipping(trainer.gradient_clip_val)
        refuse_accumulation(trainer.accumulate_grad_batches, data.batch_size)
        refuse_uneven_rows(data.rows_per_step, data.row_tokens, data.batch_size, world_size)


def refuse_monitor(monitor: str, num_sampled: int) -> None:
    """Refuses to choose the best weights by what no validation of a fit measures."""
    if monitor not in MONITORED:
        raise UserError(
            f"--checkpoint.monitor {monitor}: wanted one of {', '.join(MONITORED)}, since that is "
            f"what a fit measures and which way is better is known. Name one of them."
        )
    if monitor not in OF_LOSSES and not num_sampled:
        raise UserError(
            f"--checkpoint.monitor {monitor} is a score of texts, and with --data.num_sampled 0 "
            f"none are written. Set --data.num_sampled to 100, for example."
        )


def refuse_limits_of_training(trainer: Any) -> None:
    """Refuses to train on a part of the rows by a count that other options change.

    Batches are micro-batches here, whose size may change when a run is resumed, and of which an
    epoch of Lightning's has those of the whole run.
    """
    for name in ("limit_train_batches", "overfit_batches"):
        limit = getattr(trainer, name)
        if not is_all(limit) and not (name == "overfit_batches" and limit == 0):
            raise UserError(
                f"--trainer.{name} {limit}: wanted a part of the products, or a number of "
                f"optimizer steps, since batches are micro-batches here, whose size may change. "
                f"Leave it away and set --data.num_products, or --trainer.max_steps."
            )


def is_all(limit: int | float | None) -> bool:
    """Says whether a limit is none: to Lightning 1.0 is all, and 1 is one batch."""
    return limit is None or (isinstance(limit, float) and limit == 1.0)


def refuse_nothing_to_do(command: str | None, trainer: Any) -> None:
    """Refuses to score or to predict nothing, which would look like success."""
    name = LIMITS.get(command or "", "")
    if name and getattr(trainer, name) == 0 and not trainer.fast_dev_run:
        raise UserError(
            f"--trainer.{name} 0: wanted at least one batch, or {command} has nothing to do. Leave "
            f"it away."
        )


def refuse_intervals(interval: Any) -> None:
    """Refuses to validate after a share of an epoch: to Lightning a whole run is one."""
    if isinstance(interval, float):
        raise UserError(
            f"--trainer.val_check_interval {interval}: wanted a number of optimizer steps, or a "
            f"time such as 00:01:00:00. Set it to a whole number, for example 500."
        )


def refuse_times(max_time: Any) -> None:
    """Refuses a time that Lightning cannot read; it would name a callback that nobody asked for."""
    try:
        Timer(duration=max_time)
    except (MisconfigurationException, TypeError) as error:
        raise UserError(
            f"--trainer.max_time {max_time}: wanted days, hours, minutes and seconds as "
            f"DD:HH:MM:SS. For an hour and a half write 00:01:30:00."
        ) from error


def refuse_unsaved_runs(trainer: Any) -> None:
    """Refuses what would take away that runs are saved, watched and resumed."""
    if trainer.barebones:
        raise UserError(
            "--trainer.barebones true: wanted false, since a command without callbacks and files "
            "leaves nothing. To measure speed, see scripts/bench_train.py. Leave it away."
        )
    if trainer.enable_checkpointing is False:
        raise UserError(
            "--trainer.enable_checkpointing false: wanted true, since a run is resumed from its "
            "checkpoints. Leave it away; for fewer of them raise --checkpoint.every_n_steps."
        )


def refuse_callbacks(callbacks: Any) -> None:
    """Refuses Lightning's callbacks that do more than to watch a run, or to end it early.

    Args:
        callbacks: as the parser has them: class and arguments of each
    """
    for callback in listed(callbacks):
        kind = class_of(callback)
        if issubclass(kind, Timer):
            raise UserError(
                "--trainer.callbacks Timer: how long a fit may take has an option of its own, with "
                "which the same command resumes. Leave the callback away and set "
                "--trainer.max_time DD:HH:MM:SS."
            )
        if issubclass(kind, CHANGING):
            raise UserError(
                f"--trainer.callbacks {kind.__name__}: wanted callbacks that watch a run; this one "
                f"changes what is trained, which options decide here. Leave it away."
            )


def class_of(given: Any) -> type:
    """Returns the class of what the parser has as class_path and init_args."""
    found = locate(str(getattr(given, "class_path", "")))
    return found if isinstance(found, type) else type(given)


def refuse_clipping(largest: float | None) -> None:
    """Refuses a norm below 0: gradients would be turned round, and the loss would rise."""
    if largest is not None and not largest >= 0:
        raise UserError(
            f"--trainer.gradient_clip_val {largest}: wanted the largest norm of a gradient, from 0 "
            f"on. Set it to 1.0, or to null for no limit."
        )


def seed(given: bool | int | str) -> int:
    """Returns the seed of the data's order, which is that of all else."""
    if int(given) > LARGEST_SEED:
        raise UserError(
            f"--seed_everything {given}: wanted a whole number from 0 to {LARGEST_SEED}, as NumPy "
            f"takes it. Give a smaller one."
        )
    return int(given)


def refuse_counts_of_epochs(num_epochs: int | None, least: int | None) -> None:
    """Refuses to validate or to go on by epochs: to Lightning a whole run is one."""
    if least:
        raise UserError(
            f"--trainer.min_epochs {least}: what a run is not stopped early before is counted in "
            f"optimizer steps here. Leave it null and set --trainer.min_steps."
        )
    if num_epochs is not None:
        raise UserError(
            f"--trainer.check_val_every_n_epoch {num_epochs}: validations are counted in "
            f"optimizer steps here. Leave it null and set --trainer.val_check_interval."
        )


def refuse_accumulation(accumulated: int, batch_size: int | Literal["auto"]) -> None:
    """Refuses Lightning's way to say how many rows an optimizer step has."""
    if accumulated != 1:
        rows = max(1, accumulated) * (1 if batch_size == "auto" else batch_size)
        raise UserError(
            f"--trainer.accumulate_grad_batches {accumulated}: wanted 1, since it follows from the "
            f"rows of an optimizer step, which have an option of their own. Set "
            f"--data.rows_per_step {rows}, and leave this one away."
        )
