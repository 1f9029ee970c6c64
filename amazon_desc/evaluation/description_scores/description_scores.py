"""ROUGE, BLEU, chrF and more of product descriptions as a module of the `evaluate` library.

In: predictions and references, one text each. Out: the dict of `amazon_desc`'s `score_texts`.
`evaluate.load` copies this file into its cache and runs it there, so the imports are absolute; it
also reads them line by line itself: keep every import a line of its own.
"""

from typing import Any

import datasets
import evaluate

from amazon_desc.evaluation.metrics import score_texts

_DESCRIPTION = """\
Scores written product descriptions against the real ones: rouge1, rouge2 and rougeL are the mean F1
of a text (0 to 1, rouge_score with the Porter stemmer), bleu and chrf are sacrebleu's corpus scores
(0 to 100); loops, length_ratio, distinct1 and distinct2 say how the texts are written.
"""

_INPUTS = """\
Args:
    predictions (list of str): the written descriptions; an empty one counts.
    references (list of str): the real descriptions, one for each prediction.
Returns:
    rouge1, rouge2, rougeL (float, 0 to 1), bleu and chrf (float, 0 to 100), loops, distinct1 and
    distinct2 (float, 0 to 1), and length_ratio (float, from 0).
"""

_CITATION = """\
@inproceedings{lin-2004-rouge,
    title = "{ROUGE}: A Package for Automatic Evaluation of Summaries",
    author = "Lin, Chin-Yew", year = "2004", url = "https://aclanthology.org/W04-1013"}
@inproceedings{post-2018-call,
    title = "A Call for Clarity in Reporting {BLEU} Scores",
    author = "Post, Matt", year = "2018", url = "https://aclanthology.org/W18-6319"}
"""


class DescriptionScores(evaluate.Metric):
    """`evaluate.load(folder).compute(predictions=[...], references=[...])`, without a network."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, *, predictions: Any = None, references: Any = None, **kwargs: Any
    ) -> dict[str, float]:
        if kwargs:
            raise TypeError(f"description_scores has no options, but was given {sorted(kwargs)}.")
        return score_texts(predictions, references)
