"""The prepared data set on disk: what every run with the same data and settings reads.

In come files of products, out goes a folder with Arrow tables and a manifest:

    train.arrow        one packed row a record: input_ids, lengths and prompt_lengths of examples
    validation.arrow   one example a record: title, description, input_ids, num_prompt_tokens
    test.arrow         the same
    manifest.json      settings, sources with their sha256, counts

The folder's name is the fingerprint of all that decides its content, so a corpus is either found
whole or made anew beside the others. Nothing here knows tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amazon_desc.data.packing import packed_rows
from amazon_desc.data.prompts import PromptSettings
from amazon_desc.data.records import Product
from amazon_desc.data.selection import Selection, Sources, kept_products
from amazon_desc.data.splits import Split, split_of, title_hash
from amazon_desc.data.tokens import Encoder, Example, load_tokenizer, tokenizer_fingerprint
from amazon_desc.errors import DataError
from amazon_desc.files import replacing_folder, write_text

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

# Raise it whenever the same files and settings would give other tables.
FORMAT_VERSION = 1

RECORDS_A_BATCH = 1_000


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Everything that decides a corpus, besides the files' content and the tokenizer."""

    sources: Sources
    validation_fraction: float
    test_fraction: float
    max_seq_length: int
    row_tokens: int
    prompt: PromptSettings

    def identity(self) -> dict[str, Any]:
        """Returns the settings as plain values; files count by their content, not their paths."""
        settings = dataclasses.asdict(self)
        del settings["sources"]["train_files"]
        return settings


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, opened: its tables are mapped from the disk, not read into memory."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    def table(self, split: Split) -> Dataset:
        """Returns the table of packed rows ("train") or of examples ("validation", "test")."""
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / f"{split}.arrow"))

    def summary(self) -> str:
        """Returns what was read, refused, kept and packed, in a few lines."""
        return summarize(self.manifest["counts"], self.manifest["settings"]["row_tokens"])


def open_or_prepare(
    settings: CorpusSettings,
    tokenizer_folder: Path,
    corpora: Path,
    say: Callable[[str], None] = print,
) -> Corpus:
    """Returns the corpus of these settings out of the folder `corpora`, making it if need be.

    Raises:
        DataError: a file cannot be used, or leaves nothing to train on.
    """
    files = [describe_file(Path(file)) for file in settings.sources.train_files]
    identity = {
        "format_version": FORMAT_VERSION,
        "settings": settings.identity(),
        "files": [file["sha256"] for file in files],
        "tokenizer": tokenizer_fingerprint(tokenizer_folder),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    folder = corpora / digest.hexdigest()[:16]
    if not (folder / "manifest.json").is_file():
        say(f"Preparing {', '.join(settings.sources.train_files)} (kept in {folder})")
        tokenizer = load_tokenizer(tokenizer_folder)
        encoder = Encoder(tokenizer, settings.prompt, settings.max_seq_length)
        with replacing_folder(folder) as temporary:
            counts = write_tables(settings, encoder, temporary)
            manifest = {**identity, "files": files, "counts": counts}
            write_text(temporary / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    corpus = Corpus(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    say(corpus.summary())
    return corpus


def describe_file(path: Path) -> dict[str, Any]:
    """Returns the path, size in bytes and sha256 of a file of products."""
    if not path.exists():
        raise DataError(
            f"--data.train_file {path}: no such file (looked for {path.absolute()}). Name a file "
            f"of products, or `sample` for the invented ones that ship with the package."
        )
    if path.is_dir():
        raise DataError(
            f"--data.train_file {path}: wanted a file of products, found a directory. Name the "
            f"file in it (for example trn.json.gz)."
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": sha256}


def write_tables(settings: CorpusSettings, encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Selects, splits, encodes and packs; writes the three tables and returns the counts."""
    selection = Selection()
    splits: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    examples: dict[Split, list[tuple[Product, Example]]] = {
        "train": [],
        "validation": [],
        "test": [],
    }
    for batch in batches(kept_products(settings.sources, selection), RECORDS_A_BATCH):
        for product, example in zip(batch, encoder.examples(batch), strict=True):
            split = split_of(product.title, settings.validation_fraction, settings.test_fraction)
            examples[split].append((product, example))
            splits[split] += 1
            endings[example.ending] += 1
    refuse_empty_splits(settings, selection, splits)
    ids = [example.input_ids for _, example in examples["train"]]
    prompt_lengths = [example.num_prompt_tokens for _, example in examples["train"]]
    rows = packed_rows(ids, prompt_lengths, settings.row_tokens)
    num_rows = write_table(folder / "train.arrow", row_schema(), rows)
    for split in ("validation", "test"):
        ordered = sorted(examples[split], key=lambda pair: title_hash(pair[0].title, "order"))
        records = (example_record(product, example) for product, example in ordered)
        write_table(folder / f"{split}.arrow", example_schema(), records)
    num_tokens = sum(map(len, ids))
    return {
        **vars(selection),
        "splits": splits,
        "endings": endings,
        "num_tokens": num_tokens,
        "num_target_tokens": num_tokens - sum(prompt_lengths),
        "num_rows": num_rows,
    }


def refuse_empty_splits(
    settings: CorpusSettings, selection: Selection, splits: Counter[str]
) -> None:
    """Refuses a corpus that has nothing to train on, or nothing to measure with."""
    fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    for split in ("train", "validation", "test"):
        fraction = fractions.get(split)
        if splits[split] or fraction == 0:
            continue
        lost = [*selection.refused.items(), *selection.bad.items()]
        raise DataError(
            f"--data.train_file {', '.join(settings.sources.train_files)}: no usable product for "
            f"{split}: {selection.num_records} records read, {splits.total()} usable"
            + (f" ({'; '.join(f'{n} × {reason}' for reason, n in lost)})" if lost else "")
            + ". Name a file with titles and descriptions"
            + ("." if fraction is None else f", or raise --data.{split}_fraction ({fraction}).")
        )


def batches(products: Iterator[Product], size: int) -> Iterator[list[Product]]:
    while batch := list(islice(products, size)):
        yield batch


def row_schema() -> pyarrow.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema({"input_ids": ids, "lengths": ids, "prompt_lengths": ids})


def example_schema() -> pyarrow.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "title": pa.string(),
            "description": pa.string(),
            "input_ids": pa.list_(pa.int32()),
            "num_prompt_tokens": pa.int32(),
        }
    )


def example_record(product: Product, example: Example) -> dict[str, Any]:
    return {
        "title": product.title,
        "description": product.description,
        "input_ids": example.input_ids,
        "num_prompt_tokens": example.num_prompt_tokens,
    }


def write_table(path: Path, schema: pyarrow.Schema, records: Iterable[Any]) -> int:
    """Writes records as an Arrow stream, a batch at a time; returns how many there were."""
    import pyarrow as pa

    records, num_records = iter(records), 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(records, RECORDS_A_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            num_records += len(batch)
    return num_records


def summarize(counts: dict[str, Any], row_tokens: int) -> str:
    """Returns the counts of a manifest as a few lines of text."""
    num_pairs = sum(counts["splits"].values())
    fill = counts["num_tokens"] / (counts["num_rows"] * row_tokens)
    shortened, cut = (counts["endings"].get(name, 0) / num_pairs for name in ("shortened", "cut"))
    splits = (f"{counts['splits'].get(s, 0):,} {s}" for s in ("train", "validation", "test"))
    lines = [
        f"Data: {counts['num_records']:,} records, {num_pairs:,} usable pairs: {', '.join(splits)}",
        f"      {counts['num_tokens']:,} tokens to train on, {counts['num_target_tokens']:,} of "
        f"descriptions, in {counts['num_rows']:,} rows of {row_tokens} ({fill:.1%} filled)",
        f"      descriptions shortened to whole sentences: {shortened:.1%}, cut: {cut:.1%}",
    ]
    for heading, reasons in (("left out", counts["refused"]), ("cannot be read", counts["bad"])):
        if reasons:
            listed = "; ".join(f"{number:,} × {reason}" for reason, number in reasons.items())
            lines.append(f"      {heading}: {listed}")
    return "\n".join([*lines, *(f"      {fault}" for fault in counts["faults"])])
