"""What scores mean to a reader of the page, in words and numbers.

In comes a score by its name, out go words. What scores are called, in which order they are shown
and which way each is better is evaluation's business.
"""

from amazon_desc.evaluation.summary import SCORES, Better

MEANINGS = {
    "loss": "how surprised the model is by the real text, in nats a token",
    "perplexity": "the exponential of the loss",
    "accuracy": "share of the real text's tokens that are its first choice",
    "rouge1": "words shared with the real text",
    "rouge2": "pairs of words shared with it",
    "rougeL": "words shared with it in the same order",
    "bleu": "runs of up to four words shared, 0 to 100",
    "chrf": "runs of letters shared, 0 to 100",
    "loops": "share of texts that repeat themselves",
    "ended": "share of texts that ended by themselves",
    "length_ratio": "words written for each word of the real texts",
    "distinct1": "share of words that are not repeats",
    "distinct2": "share of pairs of words that are not repeats",
    "copied": "share of texts with passages of training descriptions",
    "invented": "share of numbers and sizes that neither title nor real text has",
    "title_words": "share of the title's words that the text uses",
}

AGAINST_REFERENCE = ("loss", "accuracy", "rouge1", "rouge2", "rougeL", "bleu", "chrf")
SHARES = ("loops", "ended", "copied", "invented", "title_words", "distinct1", "distinct2")


def direction(better: Better) -> str:
    """Returns the direction of a score in words."""
    return f"{better} is better"


def shown_value(name: str, value: float | None, sign: str = "") -> str:
    """Returns a score as it is shown. ("loss", 3.0091) -> "3.009"; an en dash for none."""
    if value is None:
        return "–"
    decimals = SCORES[name].decimals
    text = f"{value:{sign}.1e}" if abs(value) >= 1e6 else f"{value:{sign},.{decimals}f}"
    return text.replace("-", "−")
