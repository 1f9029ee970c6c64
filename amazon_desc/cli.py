"""fit, validate, test, predict: options from one YAML and the command line, wired to the parts.

In come arguments, out goes an exit code. Wiring only: what is linked, which defaults hold, which
callbacks always run, and what each command does before and after the trainer does its part.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer import Trainer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.errors import UserError
from amazon_desc.files import write_text
from amazon_desc.module import DescriptionModule
from amazon_desc.run.adapters import BestAdapter
from amazon_desc.run.board import DataLengths, TextSamples, Throughput
from amazon_desc.run.checkpoints import (
    DurableCheckpointIO,
    Position,
    ResumeCheckpoint,
)
from amazon_desc.run.folder import RunFolder, step_of
from amazon_desc.run.predictions import PredictionFile, predictions_file, refuse_existing
from amazon_desc.run.progress import ProgressLine
from amazon_desc.run.refusals import (
    check_adapter,
    check_checkpoint,
    refuse_epochs_between_validations,
    refuse_file,
    refuse_no_batch,
    refuse_optimizer,
    refuse_several_devices,
)
from amazon_desc.run.scores import ScoreReport
from amazon_desc.run.terminal import FINISHED, WHERE, quiet, report, with_shipped_configs

COMMANDS = ("fit", "validate", "test", "predict")

CKPT_PATH_HELP = (
    "checkpoint to read instead of the run's own choice: fit goes on from it, the others use its "
    "weights; `last`: the newest of the run"
)


class SaveRunConfig(SaveConfigCallback):
    """Writes RUN/config.yaml and RUN/run.json when a fit starts; no other command touches them.

    Not before data, base and checkpoint are there: a refused fit leaves the folder as it was.
    """

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves out what Lightning would write here."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            run = RunFolder(Path(trainer.default_root_dir))
            write_text(run.config, self.parser.dump(self.config, skip_none=False))
            run.write_start()


class DescriptionCLI(LightningCLI):
    """LightningCLI with this project's links, defaults and callbacks."""

    commands: ClassVar[tuple[str, ...]] = COMMANDS

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ResumeCheckpoint, "checkpoint")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=CKPT_PATH_HELP)
        # One base rules both sides: another base's tokenizer would train without an error.
        parser.link_arguments("model.backbone", "data.backbone")
        parser.link_arguments("model.revision", "data.revision")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        # To Lightning a run is one epoch, since it resumes exactly only inside of one; the order
        # of the rows knows the real ones.
        parser.link_arguments("trainer.max_epochs", "data.num_epochs", compute_fn=num_epochs)
        parser.set_defaults(
            {
                "trainer.default_root_dir": "runs/default",
                "trainer.devices": 1,
                "trainer.max_epochs": 1,
                "trainer.check_val_every_n_epoch": None,
                "trainer.val_check_interval": 500,
                "trainer.log_every_n_steps": 10,
                "trainer.num_sanity_val_steps": 0,
                "trainer.gradient_clip_val": 1.0,
                "trainer.enable_model_summary": False,
            }
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands and what of their trainer methods is no option: here, all of it."""
        return {
            name: set(signature(getattr(Trainer, name)).parameters)
            for name in DescriptionCLI.commands
        }

    def _parse_ckpt_path(self) -> None:
        """Takes no option from a checkpoint: they would silently beat YAML and command line."""

    def before_instantiate_classes(self) -> None:
        trainer = self._get(self.config, "trainer")
        self.run = RunFolder(Path(trainer.default_root_dir))
        refuse_file(self.run.path)
        refuse_several_devices(trainer.devices, trainer.num_nodes)
        refuse_epochs_between_validations(trainer.check_val_every_n_epoch)
        refuse_no_batch(trainer.accumulate_grad_batches)
        if self.subcommand == "fit" and self.run.is_finished():
            print(FINISHED.format(run=self.run.path))
            sys.exit(0)
        self.checkpoint = self.choose_checkpoint()

    def choose_checkpoint(self) -> Path | None:
        """Returns the checkpoint to read: the one asked for, or, for fit, the newest."""
        asked: str | None = self._get(self.config, "ckpt_path")
        if asked == "last" or (asked is None and self.subcommand == "fit"):
            newest = self.run.newest_checkpoint()
            if newest is None and self.subcommand != "fit":
                raise UserError(
                    f"--ckpt_path last: there is no checkpoint in {self.run.checkpoints}. Run fit "
                    f"first, or name a checkpoint with --ckpt_path FILE."
                )
            return newest
        return Path(asked) if asked else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        kwargs.setdefault("max_epochs", 1)
        kwargs.setdefault("precision", config.precision or best_precision(config.accelerator))
        if config.logger in (None, True):
            kwargs.setdefault("logger", self.tensorboard() if self.subcommand == "fit" else False)
        kwargs.setdefault("plugins", [*listed(config.plugins), DurableCheckpointIO()])
        callbacks = listed(config.callbacks)
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config.enable_progress_bar is not False and not has_bar:
            callbacks.append(ProgressLine())
        # Position counts what the others then save.
        callbacks += [Position(), DataLengths(), Throughput(), TextSamples(), BestAdapter()]
        callbacks += [ScoreReport(), PredictionFile()]
        kwargs.setdefault("callbacks", callbacks)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:
            raise UserError(f"the --trainer options cannot be used: {error}") from error
        refuse_several_devices(trainer.num_devices, trainer.num_nodes)
        return trainer

    def tensorboard(self) -> TensorBoardLogger:
        """Returns the run's logger; what an interrupted run logged beyond its checkpoint goes."""
        return TensorBoardLogger(
            str(self.run.path),
            name=self.run.tensorboard.name,
            version="",
            default_hp_metric=False,
            purge_step=step_of(self.checkpoint),
        )

    # The commands. Each is called with what the trainer's method of that name takes.

    def fit(self, model: DescriptionModule, **kwargs: Any) -> None:
        if self.checkpoint:
            check_checkpoint(self.checkpoint, model, self.datamodule)
            print(f"Going on from {self.checkpoint}")
        if model.adapter is not None:
            check_adapter(Path(model.adapter), model, self.datamodule, keys=["base_sha256"])
        refuse_optimizer(model)
        self.trainer.fit(model, self.datamodule, ckpt_path=self.checkpoint, weights_only=True)
        self.finish(model)

    def finish(self, model: DescriptionModule) -> None:
        """Scores the best weights, and says where everything is."""
        model.use_adapter(self.run.adapter)
        self.trainer.validate(model, datamodule=self.datamodule, verbose=False)
        self.run.write_finish(self.trainer.global_step)
        print(WHERE.format(run=self.run.path, config=self.run.config))

    def validate(self, model: DescriptionModule, **kwargs: Any) -> None:
        self.load_weights(model)
        self.trainer.validate(
            model, self.datamodule, ckpt_path=self.checkpoint, verbose=False, weights_only=True
        )

    def test(self, model: DescriptionModule, **kwargs: Any) -> None:
        self.load_weights(model)
        self.trainer.test(
            model, self.datamodule, ckpt_path=self.checkpoint, verbose=False, weights_only=True
        )

    def predict(self, model: DescriptionModule, **kwargs: Any) -> None:
        assert isinstance(self.datamodule, DescriptionData)
        if self.datamodule.titles is not None:
            refuse_existing(predictions_file(self.run, self.datamodule.titles))
        self.load_weights(model)
        self.trainer.predict(
            model,
            self.datamodule,
            return_predictions=False,
            ckpt_path=self.checkpoint,
            weights_only=True,
        )

    def load_weights(self, model: DescriptionModule) -> None:
        """Points the model at trained weights that fit it, or refuses, before a base is loaded."""
        if self.checkpoint:
            check_checkpoint(self.checkpoint, model, self.datamodule)
            return
        if model.adapter is None:
            if not self.run.adapter.is_dir():
                raise UserError(
                    f"no trained weights: {self.run.adapter} does not exist. Run fit first, or "
                    f"name weights with --model.adapter FOLDER or --ckpt_path FILE."
                )
            model.adapter = str(self.run.adapter)
        check_adapter(Path(model.adapter), model, self.datamodule)


def num_epochs(max_epochs: int | None) -> int:
    if max_epochs is None or max_epochs < 1:
        raise UserError(
            f"--trainer.max_epochs {max_epochs}: wanted a whole number of at least 1. "
            f"Give the number of passes over the data, for example 1."
        )
    return max_epochs


def best_precision(accelerator: str) -> str:
    """Returns bf16-mixed where the card has bf16, else 16-mixed; 32-true without a card."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def main(arguments: list[str]) -> None:
    """Runs a command; what the user can mend is said in a sentence, without a traceback."""
    # Building the options of a command takes a while: only those of the one that is called.
    called = [argument for argument in arguments if argument in COMMANDS]
    DescriptionCLI.commands = tuple(called[:1]) or COMMANDS
    with errors_in_a_sentence(
        arguments, f"python -m amazon_desc {''.join(called[:1]) or 'COMMAND'}"
    ):
        build(arguments)


def build(arguments: list[str], run: bool = True) -> DescriptionCLI:
    """Makes trainer, model and data of the options, and runs the command among them if asked to."""
    quiet()
    return DescriptionCLI(
        DescriptionModule,
        DescriptionData,
        save_config_callback=SaveRunConfig,
        seed_everything_default=1234,
        auto_configure_optimizers=False,
        parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
        args=with_shipped_configs(arguments),
        run=run,
    )


@contextmanager
def errors_in_a_sentence(arguments: list[str], program: str) -> Iterator[None]:
    """Leaves with the exit code of what the user can mend, which is said without a traceback."""
    try:
        yield
    except (UserError, ArgumentError, MisconfigurationException) as error:
        sys.exit(report(error, arguments, program))
