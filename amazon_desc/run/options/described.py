"""The parser of a command -> what each of our options does, takes and is by default, in words.

In comes a parser, out go the sections of the page that help.py prints, and Lightning's own text of
its trainer's options. What options of ours do is said where they are declared; of the trainer's few
that users need it is said here, since Lightning's words are of runs that are not ours.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action
from typing import Any

from jsonargparse import ArgumentParser

from amazon_desc.run.options.former_names import FORMER
from amazon_desc.run.options.wanted import wanted
from amazon_desc.support.printing import say

Row = dict[str, str]

# What is not declared by us, in the order of the page.
OF_RUNS = {
    "config": "a file of options, also a shipped one by its name; may be given several times",
    "print_config": "print all options as they would be, and run nothing",
    "trainer.default_root_dir": "the run folder",
    "trainer.max_epochs": "passes over the data",
    "trainer.max_steps": "stop after so many optimizer steps; -1: no limit",
    "trainer.devices": "GPUs of a machine, or processes; -1: all it has",
    "trainer.num_nodes": "machines, each with as many",
    "trainer.max_time": "how long a fit trains before it saves and leaves",
    "trainer.fast_dev_run": "a number of batches to try a command with; nothing is kept",
    "trainer.val_check_interval": "optimizer steps between two validations",
    "trainer.log_every_n_steps": "optimizer steps between two points of a curve",
    "trainer.gradient_clip_val": "largest norm of an optimizer step's gradient; null: no limit",
    "trainer.precision": "null: bf16-mixed where the GPU has bf16, else 16-mixed; 32-true on a CPU",
    "seed_everything": "order of the data, initial LoRA and dropout",
    "ckpt_path": "",  # declared by us
}
OF_THE_OPTIMIZER = {
    "lr": "peak learning rate",
    "weight_decay": "share of a weight that a step takes away, times the learning rate",
}
SECTIONS = {
    "data": "The data",
    "data.prompt": "The prompt",
    "data.cleaning": "What is cleaned away, and what is not learnt from",
    "model": "The model",
    "model.lora": "LoRA",
    "model.decoding": "How texts are written",
    "checkpoint": "Checkpoints",
}
OPTIMIZER = "model.optimizer"


def sections(parser: ArgumentParser) -> dict[str, list[Row]]:
    """Returns the options that are ours, or that users need, by the title they stand under."""
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    found = {"The run": [row_of(actions[name], does) for name, does in OF_RUNS.items()]}
    for group, title in SECTIONS.items():
        rows: list[Row] = []
        for name, action in actions.items():
            if name.rpartition(".")[0] != group or name in (*SECTIONS, *FORMER):
                continue
            if f"--{name}" in action.option_strings:  # it is no link
                rows.append(row_of(action))
            if name == OPTIMIZER:
                rows += rows_of_optimizer(action.default["init_args"])
        found[title] = rows
    return found


def row_of(action: Any, does: str = "") -> Row:
    """Returns what an option is called, does, takes and is by default."""
    names = [name for name in action.option_strings if not name.endswith("+")]
    row = {"name": ", ".join(names), "does": " ".join((does or action.help).split())}
    kind = getattr(action, "_typehint", None)
    if kind is not None:
        row |= {"wanted": wanted(action.dest, kind), "default": f"default {shown(action.default)}"}
    return row


def rows_of_optimizer(arguments: dict[str, Any]) -> list[Row]:
    """Returns the arguments of the optimizer that are options most often."""
    return [
        {
            "name": f"--{OPTIMIZER}.init_args.{name}",
            "does": does,
            "wanted": "a number",
            "default": f"default {shown(arguments[name])}",
        }
        for name, does in OF_THE_OPTIMIZER.items()
    ]


def shown(value: Any) -> str:
    """Returns a default as a config has it, in one line; of a class its name."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value["class_path"] if isinstance(value, dict) else value).replace("\n", "\\n")


class HelpOfTrainer(Action):
    """--help.trainer: prints Lightning's own options and leaves."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        does = "Show all options of Lightning's trainer and exit."
        super().__init__(option_strings, dest, nargs=0, default=SUPPRESS, help=does)

    def __call__(self, parser: Any, *parsed: Any) -> None:
        say(page_of_trainer(parser).rstrip("\n"))
        parser.exit()


def page_of_trainer(parser: ArgumentParser) -> str:
    """Returns Lightning's own text of its trainer's options.

    Raises:
        AssertionError: this version has none.
    """
    text = parser.format_help()
    found = re.search(r"^[^\n]+:\n  --trainer CONFIG.*?(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, "the parser has the trainer's options in a section of their own"
    return (
        "Options of Lightning's trainer, in its words; those that do something else here are "
        f"refused with\nthe option that takes their place.\n\n{found[0]}\n"
    )
