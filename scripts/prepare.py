"""Prepares the data of a config without training, and shows what a model will see of it.

In: the config and options of a run. Out: the prepared data, which `fit` with the same options then
finds, and its report: how each file was understood, what was left out and why. With --show N, the
first N records as they were read and as they are once they are cleaned, and N examples as text, in
which all that is learnt, and nothing else, stands between » and «.

    python scripts/prepare.py --config configs/qlora.yaml --show 5
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice, pairwise

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from amazon_desc.cli import build
from amazon_desc.data.cleaning.cleaner import Cleaner
from amazon_desc.data.corpus.product_files import ProductFiles
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.markers import warn_of_markers
from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.data.reading.records import Fault, Product, read_products
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.support.printing import printable, say

CHARACTERS_SHOWN = 200  # of a text as it was read

# Around what is learnt; on a terminal it is bold as well.
OPENING, CLOSING = "»", "«"
BOLD, PLAIN = "\033[1m", "\033[0m"


def prepare(arguments: list[str], num_shown: int) -> None:
    cli = build(arguments, run=False)
    data = cli.datamodule
    assert isinstance(data, DescriptionData)
    data.trainer = cli.trainer
    warn_of_markers(data.encoder)
    data.setup("fit")
    say(f"The report, with histograms: {data.opened.folder / 'data_report.json'}")
    cleaner = Cleaner(data.settings.cleaning)
    for record in islice(records(data.settings.sources), num_shown):
        print(f"\n{before_and_after(record, cleaner)}")
    for number, batch in enumerate(examples(data, num_shown), start=1):
        shown = text_of(batch, data.tokenizer, sys.stdout.isatty())
        num_targets = int(batch.is_target.sum())
        print(f"\n{number}: {batch.num_tokens} tokens, {num_targets} of them learnt\n{shown}")


def records(sources: ProductFiles) -> Iterator[Product | Fault]:
    """Yields what is read of the files to train on, in their order."""
    columns = sources.title_column, sources.description_column
    for path, use in sources.files:
        if use == "train":
            yield from read_products(path, *columns, form=sources.form)


def before_and_after(record: Product | Fault, cleaner: Cleaner) -> str:
    """Returns a record as it was read, and what cleaning makes of it, in a few lines.

    shop.csv, line 2
      title        'Mug &amp; saucer'
       -> cleaned  'Mug & saucer'
      description  'AUDIO CD'
       -> left out: too_short
    """
    lines = [printable(record.place)]
    if isinstance(record, Fault):
        return "\n".join([*lines, f"  cannot be read: {record.reason}"])
    cleaned = cleaner(record)
    for name in ("title", "description"):
        before = getattr(record, name)
        lines.append(f"  {name:<12} {quoted(before)}")
        if isinstance(cleaned, Product) and (after := getattr(cleaned, name)) != before:
            lines.append(f"   {'-> cleaned':<11} {quoted(after)}")
    if not isinstance(cleaned, Product):
        lines.append(f"   -> left out: {cleaned}")
    return "\n".join(lines)


def quoted(text: str) -> str:
    return repr(text if len(text) <= CHARACTERS_SHOWN else f"{text[:CHARACTERS_SHOWN]}…")


def examples(data: DescriptionData, num_shown: int) -> Iterator[RowBatch]:
    """Yields examples from all over the packed rows, as the model gets them, one at a time."""
    rows = data.opened.rows()
    for number in range(min(num_shown, len(rows))):
        row = rows[number * len(rows) // num_shown]
        chosen = number % len(row["lengths"])
        start = sum(row["lengths"][:chosen])
        yield data.collate_rows(
            [
                {
                    "input_ids": row["input_ids"][start : start + row["lengths"][chosen]],
                    "lengths": row["lengths"][chosen : chosen + 1],
                    "prompt_lengths": row["prompt_lengths"][chosen : chosen + 1],
                }
            ]
        )


def text_of(batch: RowBatch, tokenizer: PreTrainedTokenizerBase, is_terminal: bool) -> str:
    """Returns an example as text, control tokens too, with what is learnt set off."""
    ids, is_target = batch.input_ids[0, : batch.num_tokens], batch.is_target[0, : batch.num_tokens]
    marks = (f"{BOLD}{OPENING}", f"{CLOSING}{PLAIN}") if is_terminal else (OPENING, CLOSING)
    parts = []
    for part, is_learnt in stretches(ids, is_target):
        text = "\n".join(map(printable, str(tokenizer.decode(part)).split("\n")))
        parts.append(f"{marks[0]}{text}{marks[1]}" if is_learnt else text)
    return "".join(parts)


def stretches(ids: Tensor, is_target: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """Yields runs of tokens that are all learnt, or all not.

    ids = [1, 7, 4, 2], is_target = [0, 0, 1, 1]  ->  ([1, 7], False), ([4, 2], True)
    """
    changes = (is_target[1:] != is_target[:-1]).nonzero().flatten() + 1
    bounds = [0, *changes.tolist(), len(ids)]
    for start, stop in pairwise(bounds):
        yield ids[start:stop], bool(is_target[start])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Every option of fit is taken too: python -m amazon_desc fit --help",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="records and examples to print"
    )
    options, rest = parser.parse_known_args(arguments)
    with errors_in_a_sentence(rest, "python -m amazon_desc fit"):
        prepare(rest, options.show)


if __name__ == "__main__":
    main(sys.argv[1:])
