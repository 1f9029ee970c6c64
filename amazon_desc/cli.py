"""fit, validate, test, predict: options from one YAML and the command line, wired to the parts.

In come arguments, out goes an exit code. Wiring only: what is linked, which defaults hold, which
callbacks always run, and what each command does before and after the trainer does its part.
"""

from __future__ import annotations

import logging
import sys
import warnings
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
from amazon_desc.identity import check_identity, read_record
from amazon_desc.model import adapter as adapters
from amazon_desc.module import DescriptionModule
from amazon_desc.resources import find_config
from amazon_desc.run.adapters import BestAdapter
from amazon_desc.run.board import TextSamples, Throughput
from amazon_desc.run.checkpoints import (
    DurableCheckpointIO,
    Position,
    ResumeCheckpoint,
    read_checkpoint,
)
from amazon_desc.run.folder import RunFolder, step_of
from amazon_desc.run.predictions import PredictionFile, predictions_file, refuse_existing
from amazon_desc.run.progress import ProgressLine
from amazon_desc.run.scores import ScoreReport

COMMANDS = ("fit", "validate", "test", "predict")

CKPT_PATH_HELP = (
    "checkpoint to read instead of the run's own choice: fit goes on from it, the others use its "
    "weights; `last`: the newest of the run"
)


class SaveRunConfig(SaveConfigCallback):
    """Writes RUN/config.yaml when a fit starts; no other command touches it."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            write_text(RunFolder(Path(trainer.default_root_dir)).config, text)


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
        self.run = RunFolder(Path(self._get(self.config, "trainer").default_root_dir))
        if self.subcommand == "fit" and self.run.is_finished():
            print(FINISHED.format(run=self.run.path))
            sys.exit(0)
        self.checkpoint = self.choose_checkpoint()

    def choose_checkpoint(self) -> Path | None:
        """Returns the checkpoint to read: the one asked for, or, for fit, the newest."""
        asked: str | None = self._get(self.config, "ckpt_path")
        if asked == "last" or (asked is None and self.subcommand == "fit"):
            return self.run.newest_checkpoint()
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
        callbacks += [Position(), Throughput(), TextSamples(), BestAdapter()]
        callbacks += [ScoreReport(), PredictionFile()]
        kwargs.setdefault("callbacks", callbacks)
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.world_size > 1:
            raise UserError(
                f"--trainer.devices and --trainer.num_nodes ask for {trainer.world_size} "
                f"processes, but more than one device is not tested yet: set both to 1."
            )
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
            self.check_checkpoint(self.checkpoint)
            print(f"Going on from {self.checkpoint}")
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.write_start()
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
            self.check_checkpoint(self.checkpoint)
            return
        if model.adapter is None:
            if not self.run.adapter.is_dir():
                raise UserError(
                    f"no trained weights: {self.run.adapter} does not exist. Run fit first, or "
                    f"name weights with --model.adapter FOLDER or --ckpt_path FILE."
                )
            model.adapter = str(self.run.adapter)
        adapters.check_folder(Path(model.adapter))
        record = read_record(Path(model.adapter))
        if record is not None:
            check_identity(record, model.identity(self.datamodule), f"the adapter {model.adapter}")

    def check_checkpoint(self, checkpoint: Path) -> None:
        found = read_checkpoint(checkpoint)["identity"]
        check_identity(found, self.model.identity(self.datamodule), f"the checkpoint {checkpoint}")


def num_epochs(max_epochs: int | None) -> int:
    if max_epochs is None or max_epochs < 1:
        raise ValueError(
            f"--trainer.max_epochs: wanted a whole number of at least 1, got {max_epochs}"
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


def with_shipped_configs(arguments: list[str]) -> list[str]:
    """Replaces a --config that is not on disk by the shipped one of that name, if there is one."""
    replaced = list(arguments)
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in ("-c", "--config"):
            continue
        place, name = (index, value) if equals else (index + 1, arguments[index + 1 : index + 2])
        name = name if isinstance(name, str) else "".join(name)
        if name and not Path(name).exists() and (shipped := find_config(name)):
            replaced[place] = f"{option}={shipped}" if equals else str(shipped)
    return replaced


def quiet() -> None:
    """Silences what users can do nothing about."""
    for name, words in (
        ("lightning.pytorch.utilities.rank_zero", "Tip:"),
        ("bitsandbytes.backends.cpu.ops", "gemm_4bit_forward"),
    ):
        logging.getLogger(name).addFilter(lambda record, w=words: w not in record.getMessage())
    for pattern in (
        r".*does not have many workers.*",
        r".*LeafSpec.*",
        r".*your dataloader is not resumable.*",  # it is: the order of the rows skips
        r".*callbacks used to create the checkpoint need to be provided.*",
        r".*is_gradient_checkpointing. is deprecated.*",
        r".*args parameter is intended to run from within Python.*",
        r".*bf16-mixed. is not supported.*",
        r".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", pattern)


FINISHED = """\
This run is finished: {run} holds its adapter, scores and checkpoints.
For a fresh start name another folder with --trainer.default_root_dir."""

WHERE = """
Everything is in {run}:
  adapter/       the best weights, a PEFT folder
  metrics.json   scores of base and tuned weights
  tensorboard/   curves and text samples:    tensorboard --logdir {run}
  checkpoints/   to go on from
  config.yaml    all options of the run

Write descriptions:  python -m amazon_desc predict --config {config} --data.titles titles.txt"""


def main(arguments: list[str]) -> None:
    """Runs a command; what the user can mend is said in a sentence, without a traceback."""
    quiet()
    # Building the options of a command takes a while: only those of the one that is called.
    called = [argument for argument in arguments if argument in COMMANDS]
    DescriptionCLI.commands = tuple(called[:1]) or COMMANDS
    try:
        DescriptionCLI(
            DescriptionModule,
            DescriptionData,
            save_config_callback=SaveRunConfig,
            seed_everything_default=1234,
            auto_configure_optimizers=False,
            parser_kwargs={"allow_abbrev": False},
            args=with_shipped_configs(arguments),
        )
    except UserError as error:
        sys.exit(report(error, error.exit_code))
    except MisconfigurationException as error:
        sys.exit(report(error, UserError.exit_code))


def report(error: Exception, exit_code: int) -> int:
    print(f"amazon_desc: {error}", file=sys.stderr)
    return exit_code
