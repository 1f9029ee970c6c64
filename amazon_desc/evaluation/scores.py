"""Scores from sums of rows: of all texts once, of texts drawn anew a thousand times.

In come sums of the rows of counts.py, or of losses; out go scores by their name. How variety is
scored, which is no sum over texts, is told in variety.py.
"""

from __future__ import annotations

import numpy as np

from amazon_desc.evaluation.counts import COLUMN, ROUGE_KEYS, bleu_of, chrf_of

RATIOS = {
    "length_ratio": ("num_words", "num_reference_words"),
    "invented": ("num_invented", "num_facts"),
    "title_words": ("num_title_words_used", "num_title_words"),
}
"""Scores that are sum / sum over the texts; one without anything to count is 0."""

SHARES = {"loops": "is_loop", "ended": "has_ended", "copied": "is_copied"}
"""Scores that are a share of the texts."""


def scores_of_texts(sums: np.ndarray, num_texts: int) -> dict[str, np.ndarray]:
    """Returns scores (R,) from R sums of rows (R, NUM_COLUMNS), each of `num_texts` texts.

    A score is left out if something of it is not known (NaN). With num_texts 4, and sums of 2.0 for
    the F1 of rouge1 and of 30 and 40 for the words of texts and references:

        {"rouge1": [0.5], ..., "length_ratio": [0.75], ...}
    """
    found = {name: sums[:, COLUMN[name]] / num_texts for name in ROUGE_KEYS}
    found["bleu"] = np.array([bleu_of(row) for row in sums])
    found["chrf"] = np.array([chrf_of(row) for row in sums])
    found |= {name: sums[:, COLUMN[column]] / num_texts for name, column in SHARES.items()}
    found |= {
        name: ratio(sums[:, COLUMN[above]], sums[:, COLUMN[below]])
        for name, (above, below) in RATIOS.items()
    }
    return {name: values for name, values in found.items() if not np.isnan(values).any()}


def scores_of_losses(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Returns scores (R,) from R sums of losses (nats), targets and right first choices (R, 3).

    [[8.0, 8, 6]] -> {"loss": [1.0], "perplexity": [2.718], "accuracy": [0.75]}

    A loss above 709 has the perplexity `inf`; a NaN stays a NaN in both. Without the number that
    are right (NaN) there is no accuracy.
    """
    losses, num_targets, num_right = sums.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        loss = losses / num_targets
        found = {"loss": loss, "perplexity": np.exp(loss)}
        if not np.isnan(num_right).any():
            found["accuracy"] = num_right / num_targets
    return found


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns above / below, and 0 for what is divided by 0."""
    found = np.zeros(len(above))
    return np.divide(above, below, out=found, where=below != 0)
