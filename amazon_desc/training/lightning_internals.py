"""All that is used of Lightning without being documented by it: in one place, under names of ours.

In come trainers, checkpoints and optimizers in the middle of a fit, out go answers that Lightning
gives to nobody from outside. A new version may take any of it away: each name has a test against
the real Lightning in tests/training/test_lightning_internals.py. What is done with the answers is
not known here.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, get_args

import lightning as L
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.optim import Optimizer

# Of the micro-batch that was just trained on


def is_step_done(trainer: L.Trainer) -> bool:
    """Says whether an optimizer step was made with it, not only gradients added up."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def is_step_logged(trainer: L.Trainer) -> bool:
    """Says whether an optimizer step was made with it whose numbers are logged.

    Every `log_every_n_steps`th is, and the last one.
    """
    return is_step_done(trainer) and trainer._logger_connector.should_update_logs


def is_validated(trainer: L.Trainer) -> bool:
    """Says whether a validation follows it."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None, "a fit fetches batches"
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def is_stopping(trainer: L.Trainer) -> bool:
    """Says whether training ends with it because somebody asked for that, as EarlyStopping does.

    What is asked for before `min_steps` is remembered until then.
    """
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def numbers_to_log(trainer: L.Trainer) -> dict[str, Any]:
    """Returns what was logged of it so far, and is about to reach the loggers."""
    return dict(trainer._logger_connector.metrics["log"])


# Of a whole fit


def validate(trainer: L.Trainer) -> None:
    """Validates in the middle of a fit, as Lightning does after a step."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False  # from its beginning, whatever the checkpoint says
    trainer.validating = True
    loop.run()
    trainer.training = True


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Has Lightning not take SIGTERM over, nor ask all processes about it before each micro-batch.

    Its handler would talk to the other processes in the middle of whatever they do, and wait for
    ever where they were not asked to leave; and a card would be waited for each time.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def count_micro_batches_anew(checkpoint: dict[str, Any], num_rows: int, batch_size: int) -> None:
    """Changes how many micro-batches a checkpoint has Lightning count, to those of this run's size.

    6 rows in micro-batches of 2, and now of 3:

        total = {ready: 3, completed: 2, started: 3, processed: 3}   the last is not yet completed
        total = {ready: 2, completed: 1, started: 2, processed: 2}
    """
    num = -(-num_rows // batch_size)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(ready=num, started=num, processed=num, completed=num - 1)


def leaves_unscaling_to(optimizer: Optimizer) -> bool:
    """Says whether Lightning leaves it to an optimizer to divide by the scale of float16."""
    return _optimizer_handles_unscaling(optimizer)


# Classes of which something is overridden


class OptionsOnlyCLI(LightningCLI):
    """Takes options as they were given, and writes them out only where they are kept.

    None from a checkpoint: they would silently beat YAML and command line. And `1` is the whole
    number where an option takes shares as well: with 1.0 in its place --trainer.limit_val_batches 1
    would be all of them. The annotations say `Union[int, float]`, of which the first that fits is
    taken, but typing caches by equality: whoever last said `Union[float, int]` turns them round.
    """

    def _parse_ckpt_path(self) -> None: ...

    def _dump_config(self) -> None:
        """Lightning would keep all options as hyperparameters of model and data."""
        self.config_dump = {}

    def parser_of(self, arguments: list[str]) -> LightningArgumentParser | None:
        """Returns the parser of the command that arguments begin with; None: there is no such one.

        Where nothing is run there are no commands, and one parser.
        """
        commands = getattr(self, "_subcommand_parsers", None)
        return self.parser if commands is None else commands.get("".join(arguments[:1]))

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        for action in parser._actions:
            kinds = list(get_args(getattr(action, "_typehint", None)))
            if int in kinds and float in kinds[: kinds.index(int)]:
                kinds.remove(int)
                kinds.insert(kinds.index(float), int)
                action._typehint = reduce(or_, kinds)  # pyright: ignore


class SparingBar(TQDMProgressBar):
    """A progress bar that is drawn only where `is_due` says so as well."""

    def is_due(self, current: int, total: int) -> bool:
        raise NotImplementedError

    def _should_update(self, current: int, total: int) -> bool:
        return super()._should_update(current, total) and self.is_due(current, total)
