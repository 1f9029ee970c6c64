"""Titles and descriptions as the trainer wants them: one loader for each stage.

In come the data options, out go batches: packed rows to train on; packed rows and titles of the
same fixed examples to score; titles of a table to predict. Of titles a batch has the numbers, and
their prompts come as a stream. The only file of the data stage that knows Lightning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from amazon_desc.data.cleaning.cleaner import Cleaner, CleaningSettings
from amazon_desc.data.corpus.corpus import Corpus, Scored, describe_sources, open_or_prepare
from amazon_desc.data.corpus.packing import Row
from amazon_desc.data.corpus.preparing import CorpusSettings
from amazon_desc.data.corpus.product_files import ProductFiles
from amazon_desc.data.corpus.selection import RepeatedTitles
from amazon_desc.data.encoding.encoder import MIN_DESCRIPTION_TOKENS, Encoder
from amazon_desc.data.encoding.prompts import Frame, PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading import loaders
from amazon_desc.data.loading.batches import LossOn, RowBatch, collate_rows
from amazon_desc.data.loading.blocks import Blocks, Run, picked
from amazon_desc.data.loading.order import WHOLE, RowOrder
from amazon_desc.data.loading.position import TrainedRows
from amazon_desc.data.loading.prompts import Pairs, Prompt, prompts_of_rows
from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.data.reading.formats import Form
from amazon_desc.support.digests import Verify
from amazon_desc.support.hub import Backbone, find_backbone
from amazon_desc.support.mounts import default_corpora
from amazon_desc.support.options import Fraction, NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The loader of validation and test that serves rows; those after it serve titles.
ROWS = 0


class DescriptionData(TrainedRows, L.LightningDataModule):
    """Reads products or titles and serves batches.

    Args:
        train_file: products: a file, several, a folder, a pattern as exports/*.csv, an address or
            a data set of the hub (.json, .jsonl, .csv, .tsv, .parquet, .xlsx and more, also packed,
            or the data set's own .zip), or `sample`: invented ones that ship here
        test_file: a file of products to test on, such as the data set's tst.json.gz (of its .zip,
            that member); its titles are then not trained on, and test_fraction is not used
        title_column: the column or key that holds the title, in every format; `product.title`
            leads into objects. Where there is none of that name, the only one that is likely
        description_column: the same for the description; of several, as `description,features`,
            the texts are joined by line
        separator: what stands between the fields of a CSV file; null: what its first lines show
        encoding: of text files, as `cp1252`; null: UTF-8, or what their bytes show
        header_row: the line of a table that names its columns, from 1; null: the first that can
        titles: a file of titles to predict for (.txt with one a line, or any format of train_file);
            `-`: standard input
        title: titles to predict for in place of a file; may be given several times
        output: the file to predict into, its form by its name (.jsonl, .csv, .parquet); null:
            `RUN/predictions/<name of the titles' file>.jsonl`
        keep_columns: columns of the titles' file to write too: `none`, `all` or names: `sku,price`
        cleaning: what is cleaned away, and which products are not learnt from
        repeated_titles: of several descriptions of one title, learn the longest (`best`) or `all`
        num_products: use only this many products, a part that stays the same; null: all
        max_bad_records: stop when more records of products than this cannot be read
        max_bad_share: or a larger share of all records
        validation_fraction: share of all titles that validation holds out, chosen by their hash
        test_fraction: share of all titles that test holds out; of both at least one, if not 0
        num_scored: held-out products that validate and test score; always the same ones
        num_sampled: of them, those that texts are written for at each validation of a fit
        prompt: how a title is put to the model
        max_seq_length: tokens of one example: prompt, description and end token
        row_tokens: tokens of one packed row
        rows_per_step: rows of an optimizer step
        batch_size: of them, rows that are trained on at a time (a micro-batch): a divisor; `auto`:
            as many as fit into the memory
        generation_batch_size: titles that are written for at a time; `auto`: as many as the memory
            allows, where more are faster
        loss_on: what is learnt: description and end (`completion`), or the prompt too (`all`)
        num_workers: processes that load batches; 0: the main process does
        corpora: folder that keeps prepared data; null: beside the run folder, or, where that is on
            a mounted drive such as Colab's, in ~/.cache/amazon_desc
        prepare_workers: processes that prepare data, at most 8; null: one a core; 0: the main one
        verify: read all files again to be sure of them: `always`, or if size or time has `changed`
        backbone: the base whose tokenizer is used; follows model.backbone
        revision: the hub commit of the base; follows model.revision
        num_epochs: passes over the data; follows trainer.max_epochs
        max_rows: rows to train on at most, also over several epochs; follows trainer.max_steps
        seed: decides the order of the rows; follows seed_everything
    """

    def __init__(
        self,
        train_file: str | list[str] = "sample",
        test_file: str | None = None,
        title_column: str = "title",
        description_column: str = "content",
        separator: str | None = None,
        encoding: str | None = None,
        header_row: PositiveInt | None = None,
        titles: str | None = None,
        title: list[str] | None = None,
        output: str | None = None,
        keep_columns: str | list[str] = "none",
        cleaning: CleaningSettings = CleaningSettings(),  # noqa: B008 (frozen)
        repeated_titles: RepeatedTitles = "best",
        num_products: PositiveInt | None = None,
        max_bad_records: NonNegativeInt = 100,
        max_bad_share: Fraction = 0.05,
        validation_fraction: Fraction = 0.01,
        test_fraction: Fraction = 0.01,
        num_scored: PositiveInt = 500,
        num_sampled: NonNegativeInt = 16,
        prompt: PromptSettings = PromptSettings(),  # noqa: B008 (frozen)
        max_seq_length: PositiveInt = 256,
        row_tokens: PositiveInt = 2048,
        rows_per_step: PositiveInt = 1,
        batch_size: PositiveInt | Literal["auto"] = "auto",
        generation_batch_size: PositiveInt | Literal["auto"] = "auto",
        loss_on: LossOn = "completion",
        num_workers: NonNegativeInt = 0,
        corpora: str | None = None,
        prepare_workers: NonNegativeInt | None = None,
        verify: Verify = "changed",
        backbone: str = "tiny",
        revision: str | None = None,
        num_epochs: PositiveInt = 1,
        max_rows: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        # a process may be dealt none of what is scored
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.titles, self.title = titles, title
        self.output, self.keep_columns = output, keep_columns
        self.num_scored, self.num_sampled = num_scored, num_sampled
        self.rows_per_step = rows_per_step
        self.batch_size: int = 1 if batch_size == "auto" else batch_size  # `auto`: for now
        self.generation_batch_size: int | Literal["auto"] = generation_batch_size
        self.loss_on: LossOn = loss_on
        self.num_workers = num_workers
        self.corpora, self.prepare_workers = corpora, prepare_workers
        self.verify: Verify = verify
        self.num_epochs, self.max_rows = num_epochs, max_rows
        self.seed = seed
        self.backbone, self.revision = backbone, revision
        self.max_seq_length, self.row_tokens = max_seq_length, row_tokens
        form = Form(separator=separator, encoding=encoding, header_row=header_row)
        columns, most = (title_column, description_column), (max_bad_records, max_bad_share)
        self.settings = CorpusSettings(
            sources=ProductFiles.named(train_file, test_file, *columns, *most, form),
            cleaning=cleaning,
            repeated_titles=repeated_titles,
            num_products=num_products,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            max_seq_length=max_seq_length,
            row_tokens=row_tokens,
            prompt=prompt,
        )
        self.share = WHOLE  # of rows and titles, where several processes are dealt them
        self.corpus: Corpus | None = None
        self.frame: Frame | None = None  # of weights that are there, set before `encoder` is asked
        self.table: TitleTable | None = None  # what is predicted for, set before prompts are
        self.left: list[Run] | None = None  # of its titles, those that still have no description
        self.titles_at_a_time = 32 if generation_batch_size == "auto" else generation_batch_size

    # What is read

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.base.folder)

    @property
    def base(self) -> Backbone:
        """The base whose tokenizer is used; its weights need not be there."""
        return find_backbone(self.backbone, self.revision, needs_weights=False)

    @functools.cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self.settings.prompt, self.max_seq_length, self.frame)

    @functools.cached_property
    def source_files(self) -> list[dict[str, Any]]:
        """What the files of products are, by their content."""
        return describe_sources(self.settings, self.corpora_folder, self.verify)

    @property
    def corpora_folder(self) -> Path:
        if self.corpora:
            return Path(self.corpora)
        return default_corpora(self.trainer and self.trainer.default_root_dir)

    def prepare_data(self) -> None:
        self.setup(self.stage or "")  # no str(): of this enum it is "TrainerFn.PREDICTING"

    def setup(self, stage: str) -> None:
        if stage != "predict" and self.corpus is None:
            self.corpus = open_or_prepare(
                self.settings,
                self.base.folder,
                self.corpora_folder,
                verify=self.verify,
                num_processes=self.prepare_workers,
                files=self.source_files,
                frame=self.encoder.prompter.dated_frame,
            )
            self.corpus.refuse_empty(self.settings, stage)

    @property
    def stage(self) -> str | None:
        return self.trainer.state.fn if self.trainer else None

    # What is served

    def train_dataloader(self) -> DataLoader[RowBatch]:
        rows = self.opened.rows()
        order = self.order(len(rows), self.num_trained_rows)
        return loaders.ordered_loader(rows, order, self.collate_rows, self.num_workers, self.seed)

    def order(self, num_rows: int, first_row: int) -> RowOrder:
        settings = (self.num_epochs, self.seed, first_row, self.max_rows)
        return RowOrder(num_rows, self.batch_size, *settings, self.share)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Returns the loader of packed rows, and one for the texts of each side that is scored."""
        settings = (self.batch_size, self.collate_rows, self.seed, self.share)
        rows = loaders.fixed_loader(self.scored.rows, *settings)
        num_sides = 1 if self.stage == "fit" else 2
        return [rows, *(self.title_loader() for _ in range(num_sides))]

    test_dataloader = val_dataloader

    def title_loader(self) -> DataLoader[list[int]]:
        """Returns the loader of titles' numbers: whoever writes reads their prompts ahead."""
        return loaders.block_loader(self.blocks, self.seed)

    predict_dataloader = title_loader

    @property
    def blocks(self) -> Blocks:
        """The titles that this process writes for, in blocks that are handed out together."""
        runs = [(0, self.num_titles)] if self.left is None else self.left
        return Blocks(runs, self.titles_at_a_time, self.share)

    @property
    def longest_prompt(self) -> int:
        """Tokens that no prompt exceeds."""
        return self.max_seq_length - MIN_DESCRIPTION_TOKENS

    @property
    def scored(self) -> Scored:
        """The examples that are scored: packed rows, and titles with descriptions."""
        return self.opened.scored("test" if self.stage == "test" else "validation", self.num_scored)

    def pairs(self) -> Pairs:
        """Returns the titles and descriptions that texts are scored with in this stage."""
        return self.scored.pairs[: self.num_sampled if self.stage == "fit" else None]

    @property
    def num_titles(self) -> int:
        """How many titles texts are written for in this stage."""
        return len(self.pairs()) if self.table is None else self.table.num_written

    def prompts(self, blocks: Iterable[range] | None = None) -> Iterator[Prompt]:
        """Yields the prompts of blocks of this stage's titles; of all that this process has."""
        blocks = self.blocks if blocks is None else blocks
        if self.table is None:
            pairs = self.pairs()
            rows = ((row, *pairs[row]) for block in blocks for row in block)
            # those of a corpus are not cleaned again: `<b>` in one may be text
            return prompts_of_rows(rows, self.encoder, str)
        titles = picked(self.table.written, blocks)
        rows = ((row, title, "") for row, title in titles)
        return prompts_of_rows(rows, self.encoder, self.clean_title)

    @functools.cached_property
    def clean_title(self) -> Callable[[str], str]:
        return Cleaner(self.settings.cleaning).text

    def collate_rows(self, rows: list[Row]) -> RowBatch:
        return collate_rows(rows, self.row_tokens, self.encoder.pad_id, self.loss_on)

    def on_exception(self, exception: BaseException) -> None:
        """Ends the loader processes at once: one that hangs would hold everything up."""
        loaders.end_loader_processes()
