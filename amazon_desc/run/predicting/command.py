"""predict: titles in, a file of descriptions out, or texts on standard output.

In come the parts of a command, out goes an output that is whole, or that the same command goes on
with. Where what is decided: the titles in source.py, the files in output.py, the lines in lines.py.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.trainer import Trainer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.markers import warn_of_markers
from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predicting.callback import PredictionFile
from amazon_desc.run.predicting.forms import read_form
from amazon_desc.run.predicting.lines import GrowingLines
from amazon_desc.run.predicting.output import Output
from amazon_desc.run.predicting.provenance import (
    TITLES,
    WEIGHTS,
    choose_way,
    prediction_settings,
    titles_record,
)
from amazon_desc.run.predicting.source import TitleSource
from amazon_desc.support.printing import printable, say
from amazon_desc.training.module import DescriptionModule


def prints_texts(options: Any) -> bool:
    """Whether texts, and nothing else, go to standard output: those of titles that were typed."""
    return bool(options.title) and options.output is None


@dataclass
class Predicting:
    """What a command that writes descriptions needs.

    Args:
        options: those of the trainer
        weights: the file that holds those that are written with
        checkpoint: the same, if it is one
        held: what ends with the command
        stdout: where the texts of titles that were typed go
    """

    model: DescriptionModule
    data: DescriptionData
    trainer: Trainer
    options: Any
    run: RunFolder
    weights: Path
    checkpoint: Path | None
    held: ExitStack
    stdout: TextIO

    def __call__(self) -> None:
        source, data, model = TitleSource.of(self.data), self.data, self.model
        is_printed = prints_texts(data)
        output = Output.of(self.run, source.name, self.typed() if is_printed else data.output)
        folder = self.held.enter_context(output.alone())
        settings = prediction_settings(model, data, source, self.trainer.precision, self.weights)
        if (record := output.read_record()) is not None:
            output.refuse_other(record, settings)
        num_before = None if record is None else record["num_records"]
        data.table = table = TitleTable.read(
            source.readable(folder),
            source.column,
            source.keep,
            folder / "table",
            data.clean_title,
            num_before,
            source.form,
        )
        if record is not None:
            output.refuse_other(record, {TITLES: titles_record(source, table, num_before)})
        settings[TITLES] = titles_record(source, table, None)
        choose = partial(choose_way, model, data, self.options, self.trainer.precision)
        if self.trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            choose(None)
            self.predict(PredictionFile())
            return
        lines = output.begin(record, settings, table, choose, folder / "offsets")
        if lines is not None:
            file = self.write(output, lines, settings[WEIGHTS])
            if not is_printed:
                say(output.state(lines))
            for line in file.summary.lines(file.seconds):
                say(line)
        if is_printed and output.path.exists():
            for found in read_form(output.path):
                say(printable(found["description"]), self.stdout)

    def typed(self) -> str:
        """Returns a file for titles that were typed, which goes with the command."""
        folder = self.held.enter_context(tempfile.TemporaryDirectory(prefix="amazon_desc-"))
        return str(Path(folder, "typed.jsonl"))

    def write(self, output: Output, lines: GrowingLines, weights: dict[str, str]) -> PredictionFile:
        """Adds what is missing, with the model only where there is a text to write."""
        file = PredictionFile(lines, weights)
        file.add([])
        if not lines.is_complete:
            self.data.num_predicted = lines.num_written
            self.predict(file)
        lines.close()
        if lines.is_complete:
            output.finish()
        return file

    def predict(self, file: PredictionFile) -> None:
        warn_of_markers(self.data.encoder)
        say(str(self.model.writing_plan))
        self.trainer.callbacks.append(file)  # pyright: ignore[reportAttributeAccessIssue]
        chosen = {"ckpt_path": self.checkpoint, "weights_only": True}
        self.trainer.predict(self.model, self.data, return_predictions=False, **chosen)
