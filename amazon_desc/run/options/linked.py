"""Which options follow from others, which defaults are not Lightning's, and what is typed alike.

In comes the parser of a command, or what it has found, which is changed in place. What follows, and
what is refused, is decided in trainer_options.py and refusals.py.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.run.options.refusals import seed
from amazon_desc.run.options.trainer_options import max_rows, num_epochs

DEFAULTS = {
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


def link_options(parser: LightningArgumentParser) -> None:
    """Has options follow from others, and ours be the defaults."""
    # One base rules both sides: another base's tokenizer would train without an error.
    parser.link_arguments("model.backbone", "data.backbone")
    parser.link_arguments("model.revision", "data.revision")
    parser.link_arguments("seed_everything", "data.seed", compute_fn=seed)
    parser.link_arguments("trainer.max_epochs", "data.num_epochs", compute_fn=num_epochs)
    parser.link_arguments(
        ("trainer.max_steps", "data.rows_per_step"), "data.max_rows", compute_fn=max_rows
    )
    parser.set_defaults(DEFAULTS)


def take_as_recorded(options: Any) -> None:
    """Has prompt and decoding be as their settings are recorded, however they were typed."""
    groups = ((options.data.prompt, PromptSettings), (options.model.decoding, DecodingSettings))
    for group, made in groups:
        for name, value in vars(made(**vars(group))).items():
            group[name] = value
