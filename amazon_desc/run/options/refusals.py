"""Options of Lightning with which a command would do nothing, or do a part and call it all.

In come the options of a trainer as they were given, out comes nothing, or a UserError that names
the option of ours that does what was wanted. What only the run folder or the base can tell is in
checks.py.
"""

from __future__ import annotations

from pydoc import locate
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer

from amazon_desc.run.options.trainer_options import listed
from amazon_desc.support.errors import UserError

# What a command computes, by the option of the trainer that limits it.
LIMITS = {
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


def refuse_misleading_options(command: str | None, trainer: Any) -> None:
    """Refuses all that this file knows, of a command; None: of a fit that is only built."""
    refuse_unsaved_runs(trainer)
    refuse_intervals(trainer.val_check_interval)
    refuse_nothing_to_do(command, trainer)
    if command in ("fit", None):
        refuse_limits_of_training(trainer)
        refuse_timers(trainer.callbacks)
        refuse_times(trainer.max_time)


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


def refuse_timers(callbacks: Any) -> None:
    """Refuses Lightning's Timer, with which a run that was stopped would count as finished.

    Args:
        callbacks: as the parser has them: class and arguments of each
    """
    for callback in listed(callbacks):
        kind = locate(str(getattr(callback, "class_path", "")))
        if isinstance(kind, type) and issubclass(kind, Timer):
            raise UserError(
                "--trainer.callbacks Timer: how long a fit may take has an option of its own, with "
                "which the same command resumes. Leave the callback away and set "
                "--trainer.max_time DD:HH:MM:SS."
            )
