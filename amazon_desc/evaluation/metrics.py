"""Scores of texts and of the loss, kept as sums and counts.

In: written descriptions beside the real ones, or the loss of a batch beside its number of targets.
Out: plain numbers. States add up over batches and ranks (`dist_reduce_fx="sum"`), so a score never
is a mean of means. Nothing here reads a file or the network, and no text is cleaned: both sides
are scored as they come. How ROUGE and BLEU are computed is left to `rouge_score` and `sacrebleu`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

DESCRIPTION_SCORES = Path(__file__).resolve().parent / "description_scores"
"""The same scores for the `evaluate` library: `evaluate.load(str(DESCRIPTION_SCORES))`."""

_ROUGE_KEYS = ("rouge1", "rougeL")
_MAX_NGRAM = 4


class TextScores(Metric):
    """ROUGE-1, ROUGE-L and BLEU of predictions, each against one reference.

    - `rouge1`, `rougeL`: mean F1 of a text, 0 to 1, of `rouge_score` with the Porter stemmer
      (Lin 2004, https://aclanthology.org/W04-1013). It knows ASCII letters and digits only, so a
      text without any scores 0, even against itself.
    - `bleu`: 0 to 100, exactly `sacrebleu.corpus_bleu(predictions, [references]).score`, all its
      defaults included: 13a tokens, exponential smoothing (Post 2018,
      https://aclanthology.org/W18-6319). BLEU belongs to a corpus: it is no mean over texts.

    An empty prediction is a prediction and scores 0 in ROUGE.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    rouge_sums: Tensor
    num_texts: Tensor
    ngram_matches: Tensor
    ngram_totals: Tensor
    num_words: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def add_sum(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
            self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

        add_sum("rouge_sums", (len(_ROUGE_KEYS),), torch.float64)
        add_sum("num_texts", (), torch.int64)
        add_sum("ngram_matches", (_MAX_NGRAM,), torch.int64)
        add_sum("ngram_totals", (_MAX_NGRAM,), torch.int64)
        add_sum("num_words", (2,), torch.int64)  # of the predictions, of the references

    def update(self, predictions: list[str], references: list[str]) -> None:
        """Adds texts; the n-th prediction belongs to the n-th reference. None at all is fine.

        Raises:
            ValueError: if there are not as many predictions as references.
        """
        if len(predictions) != len(references):
            raise ValueError(
                f"{len(predictions)} predictions but {len(references)} references: "
                "every prediction needs the one reference it is scored against."
            )
        if not predictions:
            return
        rouge = [_rouge_f1(*pair) for pair in zip(predictions, references, strict=True)]
        bleu = _bleu().corpus_score(predictions, [references])
        # `double()`: a LightningModule that is cast to bf16 as a whole casts its metrics with it,
        # and a sum in bf16 stops growing after a few hundred texts.
        self.rouge_sums = self.rouge_sums.double() + self._tensor(rouge, torch.float64).sum(0)
        self.num_texts = self.num_texts + len(predictions)
        self.ngram_matches = self.ngram_matches + self._tensor(bleu.counts, torch.int64)
        self.ngram_totals = self.ngram_totals + self._tensor(bleu.totals, torch.int64)
        self.num_words = self.num_words + self._tensor([bleu.sys_len, bleu.ref_len], torch.int64)

    def compute(self) -> dict[str, float]:
        """Returns `rouge1` and `rougeL` (0 to 1) and `bleu` (0 to 100) of all texts so far.

        Raises:
            UserError: if there were no texts. No number would be honest: NaN is dropped from
                charts without a word, and 0 looks like a bad model.
        """
        num_texts = int(self.num_texts)
        if num_texts == 0:
            raise UserError(
                "Scores of texts: wanted at least one prediction with its reference, found none. "
                "Give a data set that is not empty, or do not ask for scores."
            )
        rouge = (self.rouge_sums.double() / num_texts).tolist()
        num_predicted, num_expected = self.num_words.tolist()
        bleu = _bleu().compute_bleu(
            self.ngram_matches.tolist(),
            self.ngram_totals.tolist(),
            num_predicted,
            num_expected,
            smooth_method="exp",
        )
        return {**dict(zip(_ROUGE_KEYS, rouge, strict=True)), "bleu": float(bleu.score)}

    def _tensor(self, values: Sequence[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.num_texts.device)


class TargetLoss(Metric):
    """Mean loss of a target token (nats), and its perplexity, over everything seen.

    Batches hold different numbers of targets, so a mean of their means would be wrong; this sums
    losses and targets apart: update(6.0, 2) and update(2.0, 6) give a loss of 8 / 8 = 1.0 (their
    means 3.0 and 0.33 would give 1.67) and a perplexity of e = 2.718.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    loss_sum: Tensor
    num_targets: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, dtype in (("loss_sum", torch.float64), ("num_targets", torch.int64)):
            self.add_state(name, default=torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, loss_sum: Tensor, num_targets: int | Tensor) -> None:
        """Adds a batch: the sum (no mean) of its targets' losses in nats, a 0-d tensor on any
        device, and the number of its targets. Does not wait for the device."""
        device = self.num_targets.device
        self.loss_sum = self.loss_sum.double() + loss_sum.detach().to(device, torch.float64)
        self.num_targets = self.num_targets + torch.as_tensor(num_targets).to(device, torch.int64)

    def compute(self) -> dict[str, float]:
        """Returns `loss` (nats per target token) and `perplexity` (exp(loss), at least 1).

        A loss above 709 has the perplexity `inf`; a NaN stays a NaN in both.

        Raises:
            UserError: if no token was a target.
        """
        if int(self.num_targets) == 0:
            raise UserError(
                "Loss of the descriptions: wanted at least one target token, found none. "
                "Give a data set that is not empty and whose descriptions are not."
            )
        loss = self.loss_sum.double() / self.num_targets
        return {"loss": loss.item(), "perplexity": loss.exp().item()}


def score_texts(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns the `TextScores` of `predictions` against `references`, one reference each.

    Scores just these texts: in a run on several ranks it waits for no other rank.

    Raises:
        ValueError: if the numbers of texts differ, or (as `UserError`) are zero.
    """
    scores = TextScores(sync_on_compute=False)
    scores.update(list(predictions), list(references))
    return scores.compute()


def _rouge_f1(prediction: str, reference: str) -> list[float]:
    scores = _rouge().score(target=reference, prediction=prediction)
    return [float(scores[key].fmeasure) for key in _ROUGE_KEYS]


# Imported late: the two cost more than half a second, and building the command line needs neither.
@cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE_KEYS), use_stemmer=True)


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    # `force` changes no number; it silences a warning about tokenized text, once a batch.
    return BLEU(force=True)
