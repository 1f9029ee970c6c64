"""Files of products -> the tables of a corpus, in one pass over the files.

In come the settings and an encoder, out go tables in a folder, and the report of what was done.
Only where a split would get nothing, a second pass gives it a title.
Reading happens here, cleaning and tokenising in other processes; what is known of all pairs is held
in memory, their tokens and texts go straight to the disk. Whether a corpus is needed at all, and
that it is never taken for whole before it is, is decided in corpus.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amazon_desc.data.cleaning.cleaner import Cleaner, CleaningSettings
from amazon_desc.data.corpus.near_repeats import NO_SKETCHES
from amazon_desc.data.corpus.packing import pack
from amazon_desc.data.corpus.pairs import (
    NUM_REFUSALS_SHOWN,
    PAIR,
    TRAIN,
    PairBatch,
    PairMaker,
)
from amazon_desc.data.corpus.product_files import ProductFiles, RecordReader
from amazon_desc.data.corpus.report import Report, beginning, counted, shown
from amazon_desc.data.corpus.selection import NO_TITLES, PartBound, RepeatedTitles, choose, is_in
from amazon_desc.data.corpus.splits import SPLITS, Split, filling_fractions
from amazon_desc.data.corpus.tables import (
    ExampleWriter,
    examples_schema,
    held_out_schema,
    open_table,
    write_chosen,
    write_rows,
    writing,
)
from amazon_desc.data.corpus.workers import map_in_order
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.support.errors import DataError, UserError


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Everything that decides a corpus, besides the files' content and the tokenizer."""

    sources: ProductFiles
    cleaning: CleaningSettings
    repeated_titles: RepeatedTitles
    num_products: int | None
    validation_fraction: float
    test_fraction: float
    max_seq_length: int
    row_tokens: int
    prompt: PromptSettings

    def __post_init__(self) -> None:
        if self.max_seq_length > self.row_tokens:
            raise UserError(
                f"--data.max_seq_length {self.max_seq_length}: an example must fit into a packed "
                f"row, and --data.row_tokens is {self.row_tokens}. Change one of them."
            )
        if self.validation_fraction + self.cut_off_for_test >= 1:
            raise UserError(
                f"--data.validation_fraction {self.validation_fraction} and "
                f"--data.test_fraction {self.test_fraction} leave nothing to train on; "
                f"wanted a sum below 1."
            )

    def identity(self) -> dict[str, Any]:
        """Returns the settings as plain values; files count by their content, not their paths."""
        settings = dataclasses.asdict(self)
        for name in ("train_files", "test_file", "max_bad_records", "max_bad_share"):
            del settings["sources"][name]
        return settings

    @property
    def cut_off_for_test(self) -> float:
        """The share of titles that test takes from the files to train on."""
        return 0.0 if self.sources.test_file else self.test_fraction


class Preparation:
    """One pass over the files: what has been seen, and the tables that are being written.

    `fractions` are those of validation and test, where they are not as the settings say.
    """

    def __init__(
        self,
        settings: CorpusSettings,
        encoder: Encoder,
        folder: Path,
        fractions: tuple[float, float] | None = None,
    ) -> None:
        self.settings = settings
        self.is_second = fractions is not None
        self.fractions = fractions or (settings.validation_fraction, settings.cut_off_for_test)
        self.folder = folder
        self.token_type = "uint16" if len(encoder.pieces) <= 1 << 16 else "int32"
        self.maker = PairMaker(
            Cleaner(settings.cleaning),
            encoder,
            *self.fractions,
            self.token_type,
            settings.cleaning.finds_near_repeats,
        )
        self.bound = PartBound(settings.num_products)
        self.reader = RecordReader(settings.sources, self.bound)
        self.report = Report()
        self.pairs: list[np.ndarray] = [np.empty(0, PAIR)]
        self.split_hashes: list[np.ndarray] = [np.empty(0, "u8")]
        self.sketches: list[np.ndarray] = [NO_SKETCHES]
        self.orders: list[int] = []
        self.test_titles = [NO_TITLES]
        self.leaks: list[tuple[int, str]] = []  # numbers among the pairs, and how they are shown
        self.num_pairs = 0

    def run(self, num_workers: int) -> Report:
        """Writes all tables."""
        examples, held_out = (
            examples_schema(self.token_type),
            held_out_schema(self.token_type),
        )
        with (
            self.reader.bar,
            writing(self.folder / "examples.arrow", examples) as example_writer,
            writing(self.folder / "held_out.arrow", held_out) as held_out_writer,
        ):
            train = ExampleWriter(example_writer, examples)
            for made in map_in_order(self.maker, self.reader, num_workers):
                self.note(made)
                is_train = made.pairs["split"] == TRAIN
                trained = made.pairs[is_train]
                train.add(made.train_ids, trained["num_tokens"], trained["num_prompt_tokens"])
                records = [vars(record) for record in made.held_out]
                held_out_writer.write_batch(pa.RecordBatch.from_pylist(records, held_out))
            train.flush()
        pairs = np.concatenate(self.pairs)
        kept = self.choose(pairs)
        is_split = kept & ~pairs["is_tested"]
        fractions = filling_fractions(np.concatenate(self.split_hashes)[is_split], *self.fractions)
        if fractions != self.fractions and not self.is_second:
            again = Preparation(self.settings, self.maker.encoder, self.folder, fractions)
            return again.run(num_workers)
        self.pack(pairs, kept)
        return self.report

    def note(self, made: PairBatch) -> None:
        """Takes in what one batch says of its records."""
        products = self.reader.waiting.popleft()
        self.report.add_refusals(made.refused, made.refused_at, products)
        if made.leak is not None:
            number, record = made.leak
            self.leaks.append((self.num_pairs + number, shown(products[record])))
        self.pairs.append(made.pairs)
        self.split_hashes.append(made.split_hashes)
        self.sketches.append(made.sketches)
        self.orders += [record.order for record in made.held_out]
        if len(made.titles):
            self.test_titles.append(made.titles)
        else:
            is_tested = is_in(made.pairs["title"], self.titles_of_test_file())
            self.bound.add(made.pairs["part"][~is_tested])
        self.num_pairs += len(made.pairs)
        self.reader.bar.set_postfix_str(f"{self.num_pairs:,} pairs", refresh=False)

    def titles_of_test_file(self) -> np.ndarray:
        """Returns the hashes of the test file's titles, sorted; it is read before the others."""
        if len(self.test_titles) > 1:
            self.test_titles = [np.unique(np.concatenate(self.test_titles))]
        return self.test_titles[0]

    def choose(self, pairs: np.ndarray) -> np.ndarray:
        """Decides which pairs are kept, and counts the others."""
        settings, report = self.settings, self.report
        cleaning = settings.cleaning
        chosen = choose(
            pairs,
            settings.repeated_titles,
            settings.num_products,
            self.titles_of_test_file(),
            np.concatenate(self.sketches) if cleaning.finds_near_repeats else None,
            cleaning.near_repeats,
            cleaning.boilerplate,
        )
        report.refused.update(chosen.reasons)
        for reason, alike in chosen.alike.items():
            report.refused_examples[reason] = self.shown_alike(pairs, alike)
        report.num_records = self.reader.num_records
        report.bad, report.faults = self.reader.bad.counts, self.reader.bad.faults
        report.remarks = [*settings.sources.remarks, *dict.fromkeys(self.reader.remarks)]
        report.add_long_records(self.reader.long_records)
        return chosen.kept

    def shown_alike(self, pairs: np.ndarray, alike: np.ndarray) -> list[str]:
        """Returns the first descriptions that are nearly others, with those others, as text."""
        is_train = pairs["split"] == TRAIN
        places = np.cumsum(is_train) - 1
        trained = alike[is_train[alike].all(axis=1)][:NUM_REFUSALS_SHOWN]
        table = open_table(self.folder / "examples.arrow")
        encoder = self.maker.encoder

        def text(number: int) -> str:
            example = table[int(places[number])]
            ids = example["input_ids"][example["num_prompt_tokens"] :]
            return encoder.backend.decode(ids, skip_special_tokens=True)

        return [f"{beginning(text(one))} like {beginning(text(other))}" for one, other in trained]

    def pack(self, pairs: np.ndarray, kept: np.ndarray) -> None:
        """Packs the pairs of train that are kept, and orders the others."""
        settings, report = self.settings, self.report
        chosen = pairs[kept]
        report.splits = counted(chosen["split"], SPLITS)
        for split in ("train", "test") if settings.sources.test_file else ("train",):
            if not report.splits.get(split):
                raise no_product(settings, vars(report), split)

        trained = kept[pairs["split"] == TRAIN]
        numbers = np.flatnonzero(trained)
        lengths = chosen["num_tokens"][chosen["split"] == TRAIN]
        rows = [numbers[row].tolist() for row in pack(lengths, settings.row_tokens)]
        write_rows(self.folder / "rows.arrow", rows)

        is_held_out = pairs["split"] != TRAIN
        orders = np.array(self.orders, "u8")
        for number, split in enumerate(SPLITS):
            if number != TRAIN:
                of_split = np.flatnonzero((kept & (pairs["split"] == number))[is_held_out])
                ordered = of_split[np.argsort(orders[of_split], kind="stable")]
                write_chosen(
                    self.folder / "held_out.arrow", ordered, self.folder / f"{split}.arrow"
                )
        (self.folder / "held_out.arrow").unlink()
        leak = next((line for number, line in self.leaks if kept[number]), None)
        report.add_pairs(chosen, len(rows), settings.row_tokens, leak)


def no_product(settings: CorpusSettings, report: dict[str, Any], split: Split) -> DataError:
    """Returns the refusal of a split without a product, with what became of all records."""
    fraction = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    option, files = "train_file", ", ".join(settings.sources.train_files)
    if split == "test" and settings.sources.test_file:
        option, files, fraction = "test_file", settings.sources.test_file, {}
    lost = [*report["refused"].items(), *report["bad"].items()]
    num_usable = sum(report["splits"].values())
    is_short = num_usable > 0 and fraction.get(split, 0) > 0
    remedy = f"Name a file with {'more ' if is_short else ''}titles and descriptions"
    if fraction.get(split) == 0:
        remedy += f", or raise --data.{split}_fraction (0)"
    elif is_short and split == "validation":
        remedy += ", or train without: --data.validation_fraction 0"
    return DataError(
        f"--data.{option} {files}: no usable product for {split}: "
        f"{report['num_records']} records read, {num_usable} usable"
        + (f" ({'; '.join(f'{n} × {reason}' for reason, n in lost)})" if lost else "")
        + f". {remedy}."
    )
