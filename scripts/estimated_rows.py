"""What a fit trains on, for an estimate: from the prepared data, or as real rows usually are.

In come the options of a fit, out go rows, how full they are, and how much of them is learnt.
"""

from typing import NamedTuple

from amazon_desc.data.corpus.corpus import Corpus, find_prepared
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.support.errors import DataError
from amazon_desc.support.hub import find_backbone

# Of real rows; the prepared data says it exactly.
TARGET_SHARE = 0.63
FILL = 0.994
EXAMPLE_TOKENS = 171
MEAN_CONTEXT = 95.0


class Rows(NamedTuple):
    """What is trained on."""

    num_rows: int | None
    """of an epoch"""
    fill: float
    target_share: float
    mean_context: float
    num_scored: int
    """examples of validation"""
    num_scored_tokens: int
    source: str


def rows_of(data: DescriptionData, num_rows: int | None) -> Rows:
    """Returns what the prepared data says, or else what is usual."""
    share = TARGET_SHARE if data.loss_on == "completion" else 1.0
    usual = Rows(
        num_rows,
        FILL,
        FILL * share,
        MEAN_CONTEXT,
        data.num_scored,
        EXAMPLE_TOKENS * data.num_scored,
        "--rows",
    )
    if num_rows is not None:
        return usual
    folder = find_backbone(data.backbone, data.revision, needs_weights=False).folder
    try:
        corpus = find_prepared(
            data.settings, folder, data.corpora_folder, data.encoder.prompter.dated_frame
        )
    except DataError:
        corpus = None  # the file is somewhere else
    if corpus is None:
        return usual._replace(source="none: prepare the data (scripts/prepare.py), or give --rows")
    return prepared_rows(corpus, data)


def prepared_rows(corpus: Corpus, data: DescriptionData) -> Rows:
    counts, lengths = corpus.manifest["counts"], corpus.report()["lengths"]["example_tokens"]
    share = counts["num_target_tokens"] / counts["num_tokens"]
    mean = lengths["sum"] / lengths["num"]
    num_scored = min(data.num_scored, counts["splits"].get("validation", 0))
    return Rows(
        counts["num_rows"],
        counts["fill"],
        counts["fill"] * (share if data.loss_on == "completion" else 1.0),
        lengths["sum_squares"] / lengths["sum"] / 2,
        num_scored,
        round(mean * num_scored),
        str(corpus.folder),
    )
