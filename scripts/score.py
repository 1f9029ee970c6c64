"""Scores a file of predictions against a file of real descriptions; no GPU, no model.

    python scripts/score.py predictions.jsonl references.jsonl

In: predictions as `amazon_desc predict` writes them, in any of its forms, and products in any file
that `amazon_desc` trains on. Out: scores on the screen, each with its 95 % interval. References are
cleaned like the training data, since the model learnt that text; predictions stay as they are.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from amazon_desc.data.cleaning.cleaner import Cleaner, normalize_title
from amazon_desc.data.reading.formats import read_records
from amazon_desc.data.reading.records import Fault, Product, read_products
from amazon_desc.evaluation.metrics import count
from amazon_desc.run.predicting.forms import as_it_was
from amazon_desc.support.errors import DataError, UserError

# What predict reads and writes is cleaned by the rules that all have as a default.
CLEANER = Cleaner()


class Pair(NamedTuple):
    """A prediction as it was read, and the text that it is scored against."""

    prediction: Product
    reference: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        predictions = read_predictions(options.predictions)
        references = read_references(options.references, options.title, options.description)
        pairs = join(predictions, references)
        if not pairs:
            raise DataError(
                f"{options.predictions}: none of its {len(predictions)} titles has a description "
                f"in {options.references}. Give the file that the titles were taken from."
            )
        has_ended = read_endings(options.predictions, pairs)
        print_scores(pairs, has_ended, num_left_out=len(predictions) - len(pairs))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Spells the columns' options like the command line, because the readers' errors name those."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path, help="rows with title and description")
    parser.add_argument("references", type=Path, help="rows with title and content or description")
    column = "column of the references that holds the"
    parser.add_argument(
        "--data.title_column", dest="title", default="title", metavar="NAME", help=f"{column} title"
    )
    parser.add_argument(
        "--data.description_column",
        dest="description",
        metavar="NAME",
        help=f"{column} description; content, or else description, if not given",
    )
    return parser


def read_predictions(path: Path) -> list[Product]:
    """Returns the rows with titles in order: predict writes nothing for those without one.

    Leaving out one that cannot be read would flatter the model.
    """
    products, was = [], as_it_was if path.suffix.lower() == ".csv" else str
    for record in read_products(path, "title", "description"):
        if isinstance(record, Fault):
            raise DataError(f"{record.place}: {record.reason}. Write the predictions anew.")
        if title_key(title := was(record.title)):
            products.append(Product(title, was(record.description), record.place))
    return products


def read_endings(path: Path, pairs: Sequence[Pair]) -> list[bool] | None:
    """Returns which of the texts ended by themselves; None if their records do not all tell."""
    reasons = {
        record.place: record.values["finish_reason"]
        for record in read_records(path, ["title", "description"], others=["finish_reason"])
        if not isinstance(record, Fault) and record.values.get("finish_reason")
    }
    found = [reasons.get(pair.prediction.place) for pair in pairs]
    return None if None in found else [reason == "stop" for reason in found]


def read_references(
    path: Path, title_column: str = "title", description_column: str | None = None
) -> Iterator[Product | Fault]:
    """Yields the rows in order, from `content` or else `description` if no column is named."""
    if description_column is not None:
        return read_products(path, title_column, description_column)
    try:
        return read_products(path, title_column, "content")
    except DataError as error:
        try:
            return read_products(path, title_column, "description")
        except DataError:
            raise error from None


def join(predictions: Sequence[Product], references: Iterable[Product | Fault]) -> list[Pair]:
    """Returns, in order, the predictions that have a reference, with it.

    The n-th prediction for a title gets the n-th description of that title, so files with the same
    titles in the same order are joined row by row. Case, white space and entities do not tell
    titles apart. References are read until every prediction has one; a Fault among them is skipped.
    """
    keys = [title_key(product.title) for product in predictions]
    num_wanted = Counter(keys)
    found: defaultdict[str, list[str]] = defaultdict(list)
    num_missing = len(keys)
    for record in references:
        if isinstance(record, Product) and (key := title_key(record.title)) in num_wanted:
            description = CLEANER.text(record.description)
            if description and len(found[key]) < num_wanted[key]:
                found[key].append(description)
                num_missing -= 1
        if not num_missing:
            break
    waiting = {key: iter(descriptions) for key, descriptions in found.items()}
    pairs = []
    for key, product in zip(keys, predictions, strict=True):
        reference = next(waiting.get(key, iter(())), None)
        if reference is not None:
            pairs.append(Pair(product, reference))
    return pairs


def title_key(title: str) -> str:
    return normalize_title(CLEANER.text(title))


def print_scores(
    pairs: Sequence[Pair], has_ended: Sequence[bool] | None, num_left_out: int
) -> None:
    """Prints a line for each score: its name, its value and its interval."""
    print(f"texts         {len(pairs):>8}")
    if num_left_out:
        print(f"left out      {num_left_out:>8}  (titles without a description in the references)")
    counted = count(
        [pair.prediction.description for pair in pairs],
        [pair.reference for pair in pairs],
        [CLEANER.text(pair.prediction.title) for pair in pairs],
        has_ended,
    )
    for name, (value, low, high) in counted.intervals().items():
        print(f"{name:<12}  {value:8.4f}  95 % {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    sys.exit(main())
