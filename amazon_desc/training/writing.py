"""How the module writes: the stream of texts that the batches of a command are taken from.

In come the numbers of titles, as loaders serve them, out come predictions. A stream is begun for
the titles of a stage, once for each side that is scored, and ended to let go of memory. Which
engine writes is decided in model/writing_plan.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.writing import Prediction, Writing, write
from amazon_desc.model.execution import machine_with
from amazon_desc.model.machine import dtype_of
from amazon_desc.model.plan import Task
from amazon_desc.model.writing_plan import Engine, EngineOption, Texts, WritingPlan, plan_writing
from amazon_desc.training.stepping import SteppingModule


class WritingModule(SteppingModule):
    """A module that writes for its data's titles."""

    network: Any

    def __init__(self, decoding: DecodingSettings, engine: EngineOption) -> None:
        super().__init__()
        self.decoding = decoding
        self.engine: EngineOption = engine
        self.writing_plan: WritingPlan | None = None  # made when writing begins, if not before
        self.written: Iterator[Prediction] = iter(())

    @property
    def task(self) -> Task:
        """What is trained, and writes."""
        raise NotImplementedError

    @property
    def compute_dtype(self) -> torch.dtype:
        return dtype_of(self.trainer.precision)

    def end_ids(self) -> list[int]:
        """Returns the tokens that end a description: the one that is trained first."""
        encoder = self.data.encoder
        return list(dict.fromkeys([encoder.end_id, encoder.eos_id]))

    def begin_writing(self, num_batches: int, *, has_lora: bool = True) -> None:
        """Begins with the titles of so many blocks."""
        self.end_writing()
        data = self.data
        if self.writing_plan is None:
            machine = machine_with(self.task, self.device)
            asked = texts_of(self.decoding, self.engine, data, data.num_titles)
            self.writing_plan = plan_writing(self.task, machine, asked)
        writing = self.writing_with(self.decoding)
        prompts = data.prompts(islice(data.blocks, num_batches))
        self.written = write(self.network, prompts, writing, self.writing_plan, has_lora=has_lora)

    def writing_with(self, settings: DecodingSettings) -> Writing:
        data, ends = self.data, self.end_ids()
        return Writing(settings, data.tokenizer, ends, data.longest_prompt, self.compute_dtype)

    def take_written(self, num_titles: int) -> list[Prediction]:
        """Returns the next ones, which are written now if they are not there yet."""
        return list(islice(self.written, num_titles))

    def end_writing(self) -> None:
        """Lets go of what writing takes of the memory."""
        written: Any = self.written
        self.written = iter(())
        getattr(written, "close", int)()

    # Prediction

    def on_predict_start(self) -> None:
        (num_batches,) = self.trainer.num_predict_batches
        self.begin_writing(int(num_batches))

    def predict_step(self, batch: list[int], batch_idx: int) -> list[Prediction]:
        return self.take_written(len(batch))

    def on_predict_end(self) -> None:
        self.end_writing()


def texts_of(
    decoding: DecodingSettings,
    engine: EngineOption,
    data: DescriptionData,
    num_titles: int,
    before: tuple[Engine, int] | None = None,
) -> Texts:
    """Returns what there is to write, as the options say it.

    Args:
        before: engine and texts at a time of what is resumed
    """
    return Texts(
        num_titles,
        data.longest_prompt + decoding.max_new_tokens,
        engine,
        data.generation_batch_size,
        max(decoding.num_beams, decoding.num_candidates),
        decoding.num_beams > 1,
        before,
    )
