"""fit, validate, test, predict: options from one YAML and the command line, wired to the parts.

In come arguments, out goes an exit code. Wiring only: what is linked, which defaults hold, which
callbacks always run, and what each command does before and after the trainer does its part.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.trainer import Trainer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.markers import warn_of_markers
from amazon_desc.data.loading.order import Share
from amazon_desc.model import adapter as adapters
from amazon_desc.model.adapter_folder import refuse_more_than_lora
from amazon_desc.run import terminal
from amazon_desc.run.callbacks.reporting import with_ours
from amazon_desc.run.callbacks.resuming import ResumeCheckpoint
from amazon_desc.run.callbacks.run_files import SaveRunConfig
from amazon_desc.run.checkpoints import CKPT_PATH_HELP, SealedCheckpointIO, chosen_checkpoint
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.run.folder import step_of
from amazon_desc.run.launching import launch
from amazon_desc.run.logger import RunLogger
from amazon_desc.run.options.arguments import in_order, with_titles_joined
from amazon_desc.run.options.checks import (
    check_adapter,
    check_base,
    check_resumed,
    find_weights,
    only_fit_in,
    recorded_frame,
    refuse_optimizer,
    run_folder_of,
)
from amazon_desc.run.options.configs import ConfigParser, with_configs_found
from amazon_desc.run.options.described import HelpOfTrainer
from amazon_desc.run.options.devices import joining, processes_of
from amazon_desc.run.options.explained import explained_refusals
from amazon_desc.run.options.former_names import take_former_names
from amazon_desc.run.options.help import COMMANDS, HELP_OF_TRAINER, answer_help
from amazon_desc.run.options.linked import link_options, take_as_recorded
from amazon_desc.run.options.micro_batch import ChosenRows, choose_micro_batch
from amazon_desc.run.options.paths import expand_home
from amazon_desc.run.options.refusals import refuse_options
from amazon_desc.run.options.settings import refuse_other_settings, settings_record
from amazon_desc.run.options.trainer_options import (
    best_precision,
    listed,
    num_accumulated,
    val_check_interval,
)
from amazon_desc.run.predicting.command import Predicting, prints_texts
from amazon_desc.support.errors import UserError
from amazon_desc.support.printing import say
from amazon_desc.support.ranks import here
from amazon_desc.support.secrets import masked, remember_arguments, remember_options
from amazon_desc.support.signals import Signals
from amazon_desc.training.exchange import wait_for_all
from amazon_desc.training.lightning_internals import OptionsOnlyCLI
from amazon_desc.training.module import DescriptionModule


class DescriptionCLI(OptionsOnlyCLI):
    """LightningCLI with this project's links, defaults and callbacks."""

    commands: ClassVar[tuple[str, ...]] = tuple(COMMANDS)

    def __init__(
        self,
        *arguments: Any,
        signals: Signals | None = None,
        held: ExitStack | None = None,
        **named: Any,
    ) -> None:
        """`held` ends what is held while a command runs: locks, and folders that stay empty."""
        self.signals, self.held = signals or Signals(), held or ExitStack()
        self.stdout = sys.stdout
        super().__init__(*arguments, **named)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ResumeCheckpoint, "checkpoint")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=CKPT_PATH_HELP)
        parser.add_argument(HELP_OF_TRAINER, action=HelpOfTrainer)
        link_options(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands and what of their trainer methods is no option: here, all of it."""
        return {
            name: set(signature(getattr(Trainer, name)).parameters)
            for name in DescriptionCLI.commands
        }

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.arguments: list[str] = list(sys.argv[1:] if args is None else args)
        with explained_refusals(self.parser_of(self.arguments), self.arguments):
            super().parse_arguments(parser, args)

    def options(self, of: Any) -> Any:
        """Returns the options of the command that is run; without one, they are all there are."""
        return of if self.subcommand is None else of[self.subcommand]

    def before_instantiate_classes(self) -> None:
        options = self.options(self.config)
        remember_options(options.as_dict())
        if self.subcommand == "predict" and prints_texts(options.data):
            self.held.enter_context(redirect_stdout(sys.stderr))
        expand_home(options)
        trainer = options.trainer
        take_former_names(options, self.arguments, self.subcommand == "fit")
        take_as_recorded(options)
        self.place, self.processes = here(), processes_of(trainer, here())
        refuse_options(self.subcommand, options, self.processes.world_size)
        self.run = run_folder_of(options)
        is_alone = self.place.started_by or (self.subcommand == "predict" and options.data.title)
        if self.processes.world_size > 1 and not is_alone and self.subcommand:
            launch(self.arguments, *self.processes)
            sys.exit(0)
        if self.subcommand == "fit" and self.place.is_first:
            self.held.enter_context(only_fit_in(self.run))
        self.is_trial = bool(trainer.fast_dev_run)  # nothing is kept, and nothing resumed
        resumes = self.subcommand == "fit" and not self.is_trial
        self.checkpoint = chosen_checkpoint(
            self.run, options.ckpt_path, resumes, sets_aside=self.place.is_first
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.options(self.config_init).trainer
        kwargs |= {"min_epochs": 0, "max_epochs": 1, "max_steps": -1, "max_time": None}
        kwargs.setdefault("precision", config.precision or best_precision(config.accelerator))
        rows = self.micro_batch(config, kwargs["precision"])
        self.datamodule.batch_size, self.model.plan = rows.num_rows, rows.plan
        if rows.reason:
            say(rows.reason)
        self.datamodule.share = Share(self.place.rank, self.processes.world_size)
        at_a_time = rows.num_rows * self.processes.world_size
        accumulated = num_accumulated(self.datamodule.rows_per_step, at_a_time)
        kwargs["accumulate_grad_batches"] = accumulated
        kwargs["val_check_interval"] = val_check_interval(config.val_check_interval, accumulated)
        if config.logger in (None, True):
            logger = RunLogger(self.run, step_of(self.checkpoint) or 0)
            logs = self.subcommand == "fit" and self.place.is_first
            kwargs.setdefault("logger", logger if logs else False)
        is_apart = self.subcommand == "predict"
        kwargs |= joining(config, self.place, self.processes, is_apart=is_apart)
        kwargs["plugins"] = [
            *kwargs.get("plugins", []),
            *listed(config.plugins),
            SealedCheckpointIO(),
        ]
        has_bar = kwargs.get("enable_progress_bar", config.enable_progress_bar) is not False
        monitor = self.options(self.config_init).checkpoint.monitor
        try:
            given = listed(config.callbacks)
            callbacks = with_ours(given, has_bar, self.signals, config.max_time, monitor)
            kwargs.setdefault("callbacks", callbacks)
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError, ImportError) as error:
            raise UserError(f"the --trainer options cannot be used: {error}") from error
        return trainer

    def micro_batch(self, trainer: Any, precision: Any) -> ChosenRows:
        """Decides the rows of a micro-batch, and changes nothing."""
        asked, before = self.options(self.config).data.batch_size, None
        command = self.subcommand
        if command == "fit" and self.checkpoint:
            before = self.run.read_record().get("batch_size")
        if command == "fit" and self.run.is_finished() and not self.is_trial:
            command = None
        return choose_micro_batch(
            *(asked, command, self.model, self.datamodule, trainer, precision, before),
            self.processes.world_size,
        )

    # The commands. Each is called with what the trainer's method of that name takes.

    def fit(self, model: DescriptionModule, **kwargs: Any) -> None:
        data = self.datamodule
        self.prepare(model, data)
        model.settings = self.settings(model, data)
        if self.run.is_finished() and not self.is_trial:
            record = self.run.read_record().get("settings")
            refuse_other_settings(record, model.settings, f"the finished {self.run.path}", self.run)
            say(terminal.FINISHED.format(run=self.run.path))
            sys.exit(0)
        if self.checkpoint:
            say(check_resumed(self.checkpoint, model, data, self.trainer, self.run))
        if model.adapter_folder is not None:
            refuse_more_than_lora(model.adapter_folder)
            check_adapter(model.adapter_folder, model, data, keys=["base_sha256", "base_files"])
            for line in adapters.overruled(model.adapter_folder, model.lora):
                say(line)
        refuse_optimizer(model)
        warn_of_markers(data.encoder)
        self.trainer.fit(model, data, ckpt_path=self.checkpoint, weights_only=True)
        for line in terminal.stopped_early(self.trainer):
            say(line)
        if self.is_trial:
            say(terminal.TRIED.format(num_steps=self.trainer.global_step))
        else:
            self.finish(model)

    def prepare(self, model: DescriptionModule, data: DescriptionData) -> None:
        """Does what each command begins with, before a prompt is written."""
        check_base(model, data)
        is_fit = self.subcommand == "fit"
        data.frame = recorded_frame(self.run, self.checkpoint, model.adapter, is_fit)

    def settings(self, model: DescriptionModule, data: DescriptionData) -> dict[str, Any]:
        """Returns what decides a fit with the options of this one."""
        data.trainer = self.trainer  # prepared data is beside the run folder
        plain = json.loads(masked(self.parser.dump(self.config, skip_unset=False, format="json")))
        config = self.options(plain)
        return settings_record(config, model.identity(data).base_sha256, data.source_files)

    def finish(self, model: DescriptionModule) -> None:
        """Scores the best weights, and says where everything is."""
        wait_for_all()  # one writes them
        model.use_adapter(self.run.adapter)
        self.trainer.validate(model, datamodule=self.datamodule, verbose=False)
        if self.place.is_first:
            self.run.write_finish(self.trainer.global_step)
            terminal.report(self.run)
            say(terminal.where(self.run))

    def validate(self, model: DescriptionModule, **kwargs: Any) -> None:
        self.score(model, self.trainer.validate)

    def test(self, model: DescriptionModule, **kwargs: Any) -> None:
        self.score(model, self.trainer.test)

    def score(self, model: DescriptionModule, run: Callable[..., Any]) -> None:
        """Scores base and tuned weights with what the trainer runs for it."""
        data = self.datamodule
        self.prepare(model, data)
        self.use_weights(model, data)
        warn_of_markers(data.encoder)
        run(model, data, ckpt_path=self.checkpoint, verbose=False, weights_only=True)
        if self.place.is_first:
            terminal.report(self.run)

    def use_weights(self, model: DescriptionModule, data: DescriptionData) -> Path:
        """Has the model load trained weights; returns the file that holds them."""
        weights = find_weights(self.run, self.checkpoint, model, data)
        model.adapter = weights.adapter
        return weights.file

    def predict(self, model: DescriptionModule, **kwargs: Any) -> None:
        data = self.datamodule
        self.prepare(model, data)
        options, weights = self.options(self.config_init).trainer, self.use_weights(model, data)
        where = self.run, weights, self.checkpoint
        Predicting(model, data, self.trainer, options, *where, self.held, self.stdout)()


def main(arguments: list[str]) -> None:
    """Runs a command; what the user can mend is said in a sentence, without a traceback."""
    # Building the options of a command takes a while: only those of the one that is called.
    remember_arguments(arguments)
    arguments = in_order(arguments)
    answer_help(arguments)
    called = [argument for argument in arguments[:1] if argument in COMMANDS]
    DescriptionCLI.commands = tuple(called or COMMANDS)
    program = f"python -m amazon_desc {''.join(called) or 'COMMAND'}"
    with errors_in_a_sentence(arguments, program) as signals, ExitStack() as held:
        build(arguments, signals, held)


def build(
    arguments: list[str],
    signals: Signals | None = None,
    held: ExitStack | None = None,
    run: bool = True,
) -> DescriptionCLI:
    """Makes trainer, model and data of the options, and runs the command among them if asked to."""
    terminal.quiet()
    return DescriptionCLI(
        DescriptionModule,
        DescriptionData,
        save_config_callback=SaveRunConfig,
        seed_everything_default=1234,
        auto_configure_optimizers=False,
        parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
        parser_class=ConfigParser,
        args=with_configs_found(in_order(with_titles_joined(arguments))),
        run=run,
        signals=signals,
        held=held,
    )
