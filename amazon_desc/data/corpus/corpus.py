"""The prepared data set on disk: what every run with the same data and settings reads.

In come settings and files of products, out goes an opened corpus: a folder with the tables that
tables.py describes, and

    manifest.json      what it was made of: settings, files with their sha256, versions, counts
    data_report.json   the same counts, with examples of what was left out, and histograms

The folder's name is the fingerprint of all that decides its content, so a corpus is either found
whole or made anew beside the others; two processes never make one at the same time.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import amazon_desc
from amazon_desc.data.corpus.packing import Row, pack, rows_of
from amazon_desc.data.corpus.preparing import CorpusSettings, Preparation, no_product
from amazon_desc.data.corpus.report import summarize
from amazon_desc.data.corpus.splits import Split
from amazon_desc.data.corpus.tables import PackedRows, open_table
from amazon_desc.data.corpus.workers import num_cores
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import Frame
from amazon_desc.data.encoding.tokenizer import load_tokenizer, tokenizer_fingerprint
from amazon_desc.support.digests import (
    KNOWN_FILES,
    Verify,
    describe_file,
    refuse_replaced,
    remember,
    sha256_of,
)
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import (
    empty_folder_removed,
    read_json,
    remove_leftovers,
    replacing_folder,
    storage,
    write_text,
)
from amazon_desc.support.locks import one_at_a_time
from amazon_desc.support.printing import say

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Raise it whenever the same files and settings would give other tables.
FORMAT_VERSION = 4

# This process, which reads, keeps no more of them busy; and PartBound wants fewer than its DELAY.
MAX_PREPARING_PROCESSES = 8


class Scored(NamedTuple):
    """Held-out examples, each as part of a packed row and as a title with its description."""

    rows: list[Row]
    packed: list[int]
    """the examples' numbers in the order in which the rows hold them"""
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, opened: its tables are mapped from the disk, not read into memory."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    def rows(self) -> PackedRows:
        """Returns the packed rows to train on."""
        return PackedRows(self.folder)

    def held_out(self, split: Literal["validation", "test"]) -> Dataset:
        """Returns the table of the examples of validation or test, always in the same order."""
        return open_table(self.folder / f"{split}.arrow")

    def scored(self, split: Literal["validation", "test"], num_scored: int) -> Scored:
        """Returns the first held-out examples: packed, and as titles with their descriptions."""
        table = self.held_out(split)
        examples = table.select(range(min(num_scored, len(table)))).to_list()
        ids = [example["input_ids"] for example in examples]
        prompt_lengths = [example["num_prompt_tokens"] for example in examples]
        packing = pack([len(of) for of in ids], self.manifest["settings"]["row_tokens"])
        rows = list(rows_of(packing, ids, prompt_lengths))
        packed = [example for row in packing for example in row]
        pairs = [(example["title"], example["description"]) for example in examples]
        return Scored(rows, packed, pairs)

    def refuse_empty(self, settings: CorpusSettings, stage: str) -> None:
        """Refuses a corpus without a product for what a command reads: fit, validate or test.

        Raises:
            DataError: there is none; of fit only if validation is asked for.
        """
        reads: dict[str, Split] = {"validate": "validation", "test": "test"}
        if settings.validation_fraction > 0:
            reads["fit"] = "validation"
        split = reads.get(stage)
        if split is not None and not self.manifest["counts"]["splits"].get(split):
            raise no_product(settings, self.report(), split)

    def report(self) -> dict[str, Any]:
        """Returns what data_report.json holds."""
        return read_json(self.folder / "data_report.json")

    def summary(self) -> str:
        """Returns what was read, refused, kept and packed, in a few lines."""
        return summarize(self.report(), self.manifest["settings"]["row_tokens"])


def open_or_prepare(
    settings: CorpusSettings,
    tokenizer_folder: Path,
    corpora: Path,
    *,
    verify: Verify = "changed",
    num_processes: int | None = None,
    say: Callable[[str], None] = say,
    files: list[dict[str, Any]] | None = None,
    frame: Frame | None = None,
) -> Corpus:
    """Returns the corpus of these settings out of the folder `corpora`, making it if need be.

    It is made by `num_processes` processes beside this one, by default one for each core. `files`
    is what describe_sources says, if that is known already; `frame` is what the chat template wrote
    when a run began, where it is not the same every day.

    Raises:
        DataError: a file cannot be used, leaves nothing to train on, or was replaced meanwhile.
        StorageError: the corpus cannot be written, for example since the disk is full.
    """
    with storage(corpora), empty_folder_removed(corpora):
        files = files or describe_sources(settings, corpora, verify)
        identity = identity_of(settings, files, tokenizer_folder, frame)
        folder = corpora / name_of(identity)
        corpus = find_whole(folder, verify)
        if corpus is None:
            with one_at_a_time(folder, say):
                corpus = find_whole(folder, verify)  # another process may just have made it
                if corpus is None:
                    say(f"Preparing {', '.join(settings.sources.train_files)} (kept in {folder})")
                    tokenizer = tokenizer_of(tokenizer_folder, identity["tokenizer"])
                    encoder = Encoder(tokenizer, settings.prompt, settings.max_seq_length, frame)
                    write(settings, encoder, folder, {**identity, "files": files}, num_processes)
                    corpus = find_whole(folder, "changed")
                    assert corpus is not None, f"{folder} was just written"
        remember(files, corpora / KNOWN_FILES)
    say(corpus.summary())
    return corpus


def tokenizer_of(folder: Path, fingerprint: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer with this fingerprint, and no other that took its place meanwhile."""
    tokenizer = load_tokenizer(folder)
    if tokenizer_fingerprint(folder) != fingerprint:
        raise UserError(
            f"--model.backbone {folder}: its tokenizer was replaced while it was read. When it is "
            f"whole, run the same command again."
        )
    return tokenizer


def find_prepared(
    settings: CorpusSettings, tokenizer_folder: Path, corpora: Path, frame: Frame | None = None
) -> Corpus | None:
    """Returns the corpus of these settings if it is there already; makes and says nothing."""
    if not corpora.is_dir():
        return None
    files = describe_sources(settings, corpora, "changed")
    name = name_of(identity_of(settings, files, tokenizer_folder, frame))
    return find_whole(corpora / name, "changed")


def identity_of(
    settings: CorpusSettings,
    files: list[dict[str, Any]],
    tokenizer_folder: Path,
    frame: Frame | None = None,
) -> dict[str, Any]:
    """Returns all that decides a corpus' content; `frame`: where the tokenizer leaves it open."""
    return {
        **({} if frame is None else {"frame": list(frame)}),
        "format_version": FORMAT_VERSION,
        "settings": settings.identity(),
        "files": [{"sha256": file["sha256"], "use": file["use"]} for file in files],
        "tokenizer": tokenizer_fingerprint(tokenizer_folder),
    }


def name_of(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def describe_sources(
    settings: CorpusSettings, corpora: Path, verify: Verify
) -> list[dict[str, Any]]:
    """Returns what the files of products are, by their content."""
    known = corpora / KNOWN_FILES
    return [describe_file(path, use, known, verify) for path, use in settings.sources.files]


def write(
    settings: CorpusSettings,
    encoder: Encoder,
    folder: Path,
    identity: dict[str, Any],
    num_processes: int | None,
) -> None:
    """Prepares a corpus: the folder appears whole, with everything in it on the disk."""
    if num_processes is None:
        cores = num_cores()
        num_processes = cores if cores > 1 else 0  # one alone does the work itself
    num_processes = min(num_processes, MAX_PREPARING_PROCESSES)
    remove_leftovers(folder)
    with replacing_folder(folder) as temporary:
        report = Preparation(settings, encoder, temporary).run(num_processes).plain()
        refuse_replaced(identity["files"], folder.parent / KNOWN_FILES)
        tables = {path.name: describe_table(path) for path in sorted(temporary.glob("*.arrow"))}
        lengths = report.pop("lengths")
        quantiles = ("min", "median", "percentile_95", "max")
        manifest = {
            **identity,
            "versions": {
                "amazon_desc": amazon_desc.__version__,
                "python": platform.python_version(),
            },
            "tables": tables,
            "counts": {name: value for name, value in report.items() if "example" not in name},
            "lengths": {name: {q: of[q] for q in quantiles} for name, of in lengths.items()},
        }
        report = {**report, "lengths": lengths}
        write_text(temporary / "data_report.json", json.dumps(report, indent=1) + "\n")
        write_text(temporary / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def find_whole(folder: Path, verify: Verify) -> Corpus | None:
    """Returns the corpus in a folder, or None if it is not there or not what its manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, table in manifest["tables"].items():
            path = folder / name
            if path.stat().st_size != table["bytes"]:
                return None
            if verify == "always" and sha256_of(path) != table["sha256"]:
                return None
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return Corpus(folder, manifest)


def describe_table(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
