"""What decides the lines of an output, as the record beside it says it.

In come modules and options, out go settings by the names of their options, and how texts are
written. What is done with a record of before is decided in output.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model.writing_plan import Engine
from amazon_desc.run.options.micro_batch import choose_engine
from amazon_desc.run.options.settings import content
from amazon_desc.run.predicting.source import TitleSource
from amazon_desc.support.digests import sha256_of
from amazon_desc.training.exchange import gathered, refuse_differences
from amazon_desc.training.module import DescriptionModule

WEIGHTS = "--model.adapter"
TITLES = "--data.titles"


class Way(NamedTuple):
    """How texts are written, as the settings of their file record it."""

    engine: Engine
    size: int
    """texts at a time"""
    titles_together: int
    """titles that have to be written for together, to give the same texts again"""


def way_of(batches: dict[str, Any]) -> Way:
    """Returns what a record says."""
    return Way(**{name: batches[name] for name in Way._fields})


def choose_way(
    model: DescriptionModule,
    data: DescriptionData,
    trainer: Any,
    precision: Any,
    before: Way | None,
) -> Way:
    """Has model and data write as the options say, and as before where they leave that open.

    Several processes write alike, by what fits on all of their devices.

    Args:
        trainer: its options

    Raises:
        UserError: they cannot write by the same engine.
    """
    same = None if before is None else (before.engine, before.size)
    plan = choose_engine(model, data, trainer, precision, same)
    refuse_differences({"--model.engine": plan.engine})
    plan = min(gathered(plan), key=lambda of: (of.is_merged, of.at_a_time))
    model.writing_plan = plan
    data.titles_at_a_time = plan.titles_at_a_time
    return Way(plan.engine, plan.at_a_time, plan.titles_together)


def prediction_settings(
    model: DescriptionModule, data: DescriptionData, source: TitleSource, precision: str, file: Path
) -> dict[str, Any]:
    """Returns what decides the lines, but for the titles.

    Args:
        file: of the weights: an adapter's, or a checkpoint
    """
    identity = model.identity(data)
    cleaning = asdict(data.settings.cleaning)
    return {
        "--data.title_column": source.column,
        "--data.keep_columns": source.keep,
        **{f"--data.cleaning.{rule}": value for rule, value in cleaning.items()},
        "--data.prompt.template": identity.template,
        "--data.prompt.chat": identity.is_chat,
        "--data.prompt.system": identity.system,
        "--data.max_seq_length": data.max_seq_length,
        "--model.backbone": content(identity.backbone, identity.base_sha256),
        "--model.quantization": identity.quantization,
        WEIGHTS: content(str(file), sha256_of(file)),
        **{f"--model.decoding.{name}": value for name, value in deciding(model.decoding).items()},
        "--trainer.precision": precision,
    }


def titles_record(source: TitleSource, table: TitleTable, num_records: int | None) -> Any:
    """Returns what the first records are; of fewer than so many, what all are."""
    digest = table.digest(num_records) or table.digest()
    assert digest is not None, "that of all records is known"
    return content(source.known_as, digest)


def deciding(decoding: DecodingSettings) -> dict[str, Any]:
    """Returns the settings of decoding that decide the texts: of greedy ones not the seed."""
    settings = asdict(decoding)
    if not decoding.is_sampled:
        del settings["seed"]
    return settings
