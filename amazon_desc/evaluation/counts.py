"""What is counted once in each written text: a row of numbers, whose sums make all scores.

In come texts beside their references, with or without titles, out goes a row for each. How ROUGE,
BLEU and chrF count is left to `rouge_score` and `sacrebleu`; no text is cleaned. What sums of rows
mean is told in scores.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from amazon_desc.evaluation.facts import facts, facts_to_find, title_words, words
from amazon_desc.evaluation.repetition import is_loop

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

ROUGE_KEYS = ("rouge1", "rouge2", "rougeL")

_NAMES = (
    *ROUGE_KEYS,  # F1
    *("is_loop", "has_ended", "is_copied"),
    *("num_words", "num_reference_words"),
    *("num_facts", "num_invented", "num_title_words", "num_title_words_used"),
)
COLUMN = {name: number for number, name in enumerate(_NAMES)}
"""Where a row has each number; what is not known of a text is NaN."""
BLEU_COLUMNS = slice(len(_NAMES), len(_NAMES) + 10)
"""Tokens of both sides, then n-grams that match and all n-grams of the text, up to 4."""
CHRF_COLUMNS = slice(len(_NAMES) + 10, len(_NAMES) + 28)
"""N-grams of text and reference and those that match, up to 6 characters."""
NUM_COLUMNS = CHRF_COLUMNS.stop


def count_texts(
    predictions: Sequence[str],
    references: Sequence[str],
    titles: Sequence[str] | None = None,
    has_ended: Sequence[bool] | None = None,
    is_copied: Sequence[bool] | None = None,
) -> np.ndarray:
    """Returns the rows (N, NUM_COLUMNS), float64, of N texts, each beside its own reference.

    "a red mug" beside "a mug", titled "Mug": num_words 3, num_reference_words 2, num_title_words 1,
    num_title_words_used 1, num_facts 0, and so on; without a title both of its numbers are NaN.
    """
    rows = np.full((len(predictions), NUM_COLUMNS), np.nan)
    if not len(rows):
        return rows
    pairs = list(zip(predictions, references, strict=True))
    rows[:, : len(ROUGE_KEYS)] = [_rouge_f1(*pair) for pair in pairs]
    _put(rows, "is_loop", [is_loop(text) for text in predictions])
    _put(rows, "has_ended", has_ended)
    _put(rows, "is_copied", is_copied)
    _put(rows, "num_words", [len(text.split()) for text in predictions])
    _put(rows, "num_reference_words", [len(text.split()) for text in references])
    if titles is not None:
        of_titles = [
            [*_count_facts(*pair, title), *_count_title_words(pair[0], title)]
            for pair, title in zip(pairs, titles, strict=True)
        ]
        rows[:, COLUMN["num_facts"] : COLUMN["num_title_words_used"] + 1] = of_titles
    for columns, metric in ((BLEU_COLUMNS, bleu()), (CHRF_COLUMNS, chrf())):
        # The library's own rows, from which its paired tests are made too.
        rows[:, columns] = metric._extract_corpus_statistics(predictions, [references])
    return rows


def bleu_of(sums: np.ndarray) -> float:
    """Returns sacrebleu's BLEU of summed rows, with whole numbers as it would have them."""
    return _score_of(bleu(), sums[BLEU_COLUMNS])


def chrf_of(sums: np.ndarray) -> float:
    """Returns sacrebleu's chrF of summed rows."""
    return _score_of(chrf(), sums[CHRF_COLUMNS])


def _score_of(metric: Any, sums: np.ndarray) -> float:
    return float(metric._compute_score_from_stats([int(count) for count in sums.tolist()]).score)


def signatures() -> dict[str, str]:
    """Returns sacrebleu's signatures, which say with what settings its scores were found."""
    found = {}
    for name, metric in (("bleu", bleu()), ("chrf", chrf())):
        metric._cache_references([[""]])  # a signature has the number of references
        found[name] = str(metric.get_signature())
    return found


def _put(rows: np.ndarray, name: str, values: Sequence[float] | None) -> None:
    if values is not None:
        if len(values) != len(rows):
            raise ValueError(f"{len(rows)} texts but {len(values)} of {name}: wanted one each.")
        rows[:, COLUMN[name]] = values


def _rouge_f1(prediction: str, reference: str) -> list[float]:
    scores = _rouge().score(target=reference, prediction=prediction)
    return [float(scores[key].fmeasure) for key in ROUGE_KEYS]


def _count_facts(prediction: str, reference: str, title: str) -> tuple[int, int]:
    """Returns how many different facts a text has, and how many of them it invents."""
    found = facts(prediction)
    if not found:
        return 0, 0
    return len(found), len(found - facts_to_find(title) - facts_to_find(reference))


def _count_title_words(prediction: str, title: str) -> tuple[int, int]:
    """Returns how many different words a title has, and how many of them the text uses."""
    wanted = title_words(title)
    return len(wanted), len(wanted & words(prediction))


# Imported late: the two cost more than half a second, and building the command line needs neither.
@cache
def _rouge() -> RougeScorer:
    from nltk.stem.porter import PorterStemmer
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenize import tokenize

    # The scorer's own tokens: but it stems each word anew, which is most of the time that it takes.
    stemmer = SimpleNamespace(stem=lru_cache(maxsize=100_000)(PorterStemmer().stem))
    tokenizer = SimpleNamespace(tokenize=lambda text: tokenize(text, stemmer))
    return RougeScorer(list(ROUGE_KEYS), tokenizer=tokenizer)


@cache
def bleu() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    # `force` changes no number; it silences a warning about tokenized text.
    return BLEU(force=True)


@cache
def chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
