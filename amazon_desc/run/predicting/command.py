"""predict: titles in, a file of descriptions out, or texts on standard output.

In come the parts of a command, out goes an output that is whole, or that the same command goes on
with. Where what is decided: the titles in source.py, the files in output.py, the lines in lines.py.
Several processes meet once, before they write, and the first one tells the others what is left to
do. Then each works for itself, so that none hangs where another one dies.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lightning.pytorch.trainer import Trainer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.markers import warn_of_markers
from amazon_desc.data.loading.blocks import Run
from amazon_desc.data.loading.order import Share
from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predicting.callback import PredictionFile
from amazon_desc.run.predicting.forms import read_form
from amazon_desc.run.predicting.lines import GrowingLines
from amazon_desc.run.predicting.output import Output
from amazon_desc.run.predicting.parts import Joined, Part, Parts
from amazon_desc.run.predicting.provenance import (
    TITLES,
    WEIGHTS,
    Way,
    choose_way,
    prediction_settings,
    titles_record,
)
from amazon_desc.run.predicting.source import TitleSource
from amazon_desc.support.printing import printable, say
from amazon_desc.support.ranks import Place, here
from amazon_desc.training.exchange import leave, refuse_differences, told, wait_for_all
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.strategy import meet


def prints_texts(options: Any) -> bool:
    """Whether texts, and nothing else, go to standard output: those of titles that were typed."""
    return bool(options.title) and options.output is None


class Begun(NamedTuple):
    """What the first of several processes tells the others, before they decide how to write."""

    table: Path
    """of the titles, which it has read"""
    before: Way | None
    """how it was written until now"""


class Left(NamedTuple):
    """What it tells them then."""

    runs: list[Run]
    """titles that texts are to be written for, by their numbers"""
    parts: Parts | None
    """where each of them writes; None: nothing is kept, or one alone writes"""


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
        source, place = TitleSource.of(self.data), here()
        if self.data.title:  # for these one process is enough
            if not place.is_first:
                return
            place = Place()
        self.data.share = Share(place.rank, place.world_size)
        meet(place)
        self.held.callback(leave)
        if place.is_first:
            self.lead(source)
        else:
            self.follow(source)

    # The first process, which has the output

    def lead(self, source: TitleSource) -> None:
        data, is_printed = self.data, prints_texts(self.data)
        output = Output.of(self.run, source.name, self.typed() if is_printed else data.output)
        folder = self.held.enter_context(output.alone())
        settings = self.settings(source)
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
        if self.trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            self.choose(None)
            self.deal(Left([(0, table.num_written)], None))
            self.write_share(PredictionFile())
            return
        lines = output.begin(record, settings, table, self.choose, folder / "offsets")
        if lines is None:
            told(None)
        else:
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

    def choose(self, before: Way | None) -> Way:
        """Decides with the others how to write."""
        assert self.data.table is not None, "it was read"
        told(Begun(self.data.table.folder.resolve(), before))
        return self.chosen(before)

    def write(self, output: Output, lines: GrowingLines, weights: dict[str, str]) -> PredictionFile:
        """Adds what is missing, with the model only where there is a text to write."""
        parts, first, num_processes = Parts(output.parts), lines.num_written, self.data.share[1]
        assert self.model.writing_plan is not None, "it was chosen"
        together = self.model.writing_plan.titles_together
        runs = parts.gather(first, self.data.num_titles, together)
        num_ahead = self.data.num_titles - first - sum(end - start for start, end in runs)
        if num_ahead:
            say(f"Texts that are ahead of it, written by several processes: {num_ahead:,}")
        is_parted = bool(runs and num_processes > 1) or bool(parts.paths())
        part = self.deal(Left(runs, parts if is_parted else None))
        paths = [parts.path(rank) for rank in range(num_processes)]
        joined = Joined(parts.before, paths, first) if is_parted else None
        file = PredictionFile(lines, weights, part, joined)
        file.add([])
        self.write_share(file)
        lines.close()
        if joined is not None and joined.is_empty():
            parts.remove()
        if lines.is_complete:
            output.finish()
        return file

    # The others, which are told what to do

    def follow(self, source: TitleSource) -> None:
        weights, begun = self.settings(source)[WEIGHTS], told(None)
        if begun is None:
            return
        self.data.table = TitleTable(begun.table)
        self.chosen(begun.before)
        part = self.deal(None)
        self.write_share(PredictionFile(weights=weights, part=part))

    # All of them

    def settings(self, source: TitleSource) -> dict[str, Any]:
        precision = self.trainer.precision
        found = prediction_settings(self.model, self.data, source, precision, self.weights)
        refuse_differences(found)
        return found

    def chosen(self, before: Way | None) -> Way:
        return choose_way(self.model, self.data, self.options, self.trainer.precision, before)

    def deal(self, left: Left | None) -> Part | None:
        """Has this process know its share, and leave the others; returns what it writes to."""
        data, left = self.data, told(left)
        assert left is not None, "the first process says it"
        data.left, parts = left
        data.titles_at_a_time = self.size_of_blocks(data.blocks.num_dealt)
        part = None
        if parts is not None:
            part = self.held.enter_context(parts.begin(data.share.rank))
        wait_for_all()
        leave()
        return part

    def size_of_blocks(self, num_titles: int) -> int:
        """Returns how many titles are dealt together.

        As many as one process writes for together, or fewer where each would not have some.
        """
        plan, num_processes = self.model.writing_plan, self.data.share.world_size
        assert plan is not None, "it was chosen"
        if num_processes == 1 or plan.titles_together > 1:
            return plan.titles_at_a_time
        return max(1, min(plan.titles_at_a_time, -(-num_titles // num_processes)))

    def write_share(self, file: PredictionFile) -> None:
        with file.background:
            file.join()
            if len(self.data.blocks):
                self.predict(file)
            file.finish()

    def predict(self, file: PredictionFile) -> None:
        warn_of_markers(self.data.encoder)
        say(str(self.model.writing_plan))
        self.trainer.callbacks.append(file)  # pyright: ignore[reportAttributeAccessIssue]
        chosen = {"ckpt_path": self.checkpoint, "weights_only": True}
        self.trainer.predict(self.model, self.data, return_predictions=False, **chosen)
