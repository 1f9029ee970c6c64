"""Descriptions in Python: what `predict` writes to a file, as a function of titles.

In come a finished run and titles, out come texts. Base, weights, prompt, engine and decoding are
the run's own; nothing is written to its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from amazon_desc.cli import build
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.prompts import Pairs, prompts_of
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.writing import Prediction, Streaming, write
from amazon_desc.model.execution import machine_with
from amazon_desc.model.writing_plan import EngineOption, WritingPlan, plan_writing
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.checks import check_base, find_weights, recorded_frame
from amazon_desc.support.errors import UserError
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.random_states import random_states, restore_random_states
from amazon_desc.training.writing import texts_of


class Describer:
    """Writes descriptions of products with the weights of a finished run.

        from amazon_desc import Describer

        describe = Describer.from_run("runs/qlora")
        describe(["Girls Ballet Tutu Neon Pink"])   # -> ["A soft tutu of three layers ..."]

    Attributes:
        decoding: how texts are written, as the run has it
    """

    def __init__(self, model: DescriptionModule, data: DescriptionData) -> None:
        """Takes a module that is loaded, and its data; `from_run` makes both."""
        self.model, self.data = model, data
        self.decoding = model.decoding
        self.kept: dict[bool, Streaming] = {}  # by whether it has LoRA
        self.growing: Iterator[Prediction] = iter(())

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        engine: EngineOption = "auto",
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    ) -> Describer:
        """Loads base and adapter of a run folder. Random states of the process stay as they were.

        Args:
            run: the folder that fit was given as --trainer.default_root_dir
            engine: who writes, as --model.engine
            accelerator: where, as --trainer.accelerator

        Raises:
            UserError: it is no finished run, or its base is another one now.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        states = random_states(device)
        try:
            model, data = opened(run, engine=engine, accelerator=accelerator)
            model.configure_model()
        finally:
            restore_random_states(states, device)
        return cls(model, data)

    def __call__(self, titles: Sequence[str], **decoding: Any) -> list[str]:
        """Returns a description of each title.

        Args:
            decoding: settings over the run's own, such as `temperature=0.7`
        """
        return [found.description.text for found in self.predictions(titles, **decoding)]

    def predictions(self, titles: Sequence[str], **decoding: Any) -> list[Prediction]:
        """Returns the same with how each text ended, its number of tokens, and its candidates.

        A title's text depends on its prompt, the settings, the seed, and its place among the
        titles; that of a file's title is the same, if it has the same place.

        Raises:
            UserError: a setting that makes no sense.
        """
        if isinstance(titles, str):
            raise UserError("titles: wanted a list of titles, found one text. Write [title].")
        clean = self.data.clean_title
        pairs = [(title, "") for title in titles]
        return self.write(pairs, replace(self.decoding, **decoding), clean)

    def write(
        self, pairs: Pairs, settings: DecodingSettings, clean: Any = str, *, has_lora: bool = True
    ) -> list[Prediction]:
        """Returns what is written for titles, some with their true descriptions.

        Args:
            clean: what is done to a title before it is put to the model
            has_lora: False: the base alone writes
        """
        if not pairs:
            return []
        prompts = prompts_of(pairs, self.data.encoder, clean, 0)
        writing = self.model.writing_with(settings)
        plan = self.plan(len(pairs), settings)
        return list(write(self.model.network, prompts, writing, plan, has_lora=has_lora))

    def stream(self, title: str, *, has_lora: bool = True, **decoding: Any) -> Iterator[Prediction]:
        """Returns what is written for a title as it grows, and last what `predictions` has for it.

            for found in describe.stream("Red Mug"):
                print(found.description.text)  # -> "A", "A red", ..., "A red mug."

        Until a text is whole its `finish_reason` is None. Of several candidates it is the first;
        beams come whole. One text at a time: another one ends what is left of the one before. What
        it is written with is kept: merged weights of the tuned model, and of the base.

        Args:
            has_lora: False: the base alone writes
            decoding: settings over the run's own

        Raises:
            UserError: a setting that makes no sense.
        """
        settings = replace(self.decoding, **decoding)
        settings = replace(settings, num_candidates=1)
        self.end_stream()
        kept = self.kept.get(has_lora)
        if kept is None or not kept.writes(settings):
            kept = None
            self.kept.pop(has_lora, None)  # its memory is free for the next one
            writing = self.model.writing_with(settings)
            kept = Streaming(self.model.network, writing, self.plan(1, settings), has_lora=has_lora)
            self.kept[has_lora] = kept
        (prompt,) = prompts_of([(title, "")], self.data.encoder, self.data.clean_title, 0)
        self.growing = kept(prompt, settings)
        return self.growing

    def end_stream(self) -> None:
        """Ends a text that is being written, and leaves the model as it was before."""
        growing: Any = self.growing
        self.growing = iter(())
        getattr(growing, "close", int)()

    def plan(self, num_titles: int, settings: DecodingSettings) -> WritingPlan:
        model = self.model
        asked = texts_of(settings, model.engine, self.data, num_titles)
        return plan_writing(model.task, machine_with(model.task, model.device), asked)


def opened(
    run: str | Path,
    *,
    engine: EngineOption = "auto",
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    precision: str | None = None,
    typed: Sequence[str] = (),
) -> tuple[DescriptionModule, DescriptionData]:
    """Returns what a run folder's configuration says, checked; `configure_model` loads the weights.

    They are the run's own, whatever adapter it was started from.

    Args:
        precision: of computing, as --trainer.precision; None: as the run has it
        typed: further options, as on the command line: ["--model.decoding.seed", "3"]

    Raises:
        UserError: it is no run with trained weights, or its base is another one now.
    """
    folder = RunFolder(Path(run).expanduser())
    if not folder.config.is_file():
        raise UserError(f"{folder.path}: wanted a run folder, found no config.yaml. Run fit.")
    options = {
        "--trainer.default_root_dir": folder.path,
        "--trainer.logger": "false",
        "--trainer.accelerator": accelerator,
        "--model.engine": engine,
        **({} if precision is None else {"--trainer.precision": precision}),
    }
    given = [str(part) for pair in options.items() for part in pair]
    cli: Any = build(["--config", str(folder.config), *given, *typed], run=False)
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    model.trainer = data.trainer = trainer
    trainer.datamodule = data
    check_base(model, data)
    model.adapter = None
    data.frame = recorded_frame(folder, None, None, is_fit=False)
    model.adapter = find_weights(folder, None, model, data).adapter
    model.to(trainer.strategy.root_device)
    return model, data
