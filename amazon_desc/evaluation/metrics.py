"""Scores of texts and of the loss, kept as a row of numbers for each text and each example.

In: written descriptions beside the real ones, or losses beside their numbers of targets. Out: plain
numbers, and what was counted, for intervals and comparisons (counted.py). States of several batches
and ranks are joined, so a score never is a mean of means. Nothing here reads a file or the network,
and no text is cleaned: both sides are scored as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from amazon_desc.evaluation.counted import CountedLosses, CountedTexts
from amazon_desc.evaluation.counts import NUM_COLUMNS, count_texts
from amazon_desc.evaluation.variety import Runs, ngram_ids
from amazon_desc.support.errors import UserError

DESCRIPTION_SCORES = Path(__file__).resolve().parent / "description_scores"
"""The same scores for the `evaluate` library: `evaluate.load(str(DESCRIPTION_SCORES))`."""

_RUNS = (1, 2)  # words of a run, of distinct-1 and distinct-2

# States are whole numbers, those of fractions their bits: a LightningModule that is cast to bf16 as
# a whole casts the floating-point states of its metrics with it, but not these.


class TextScores(Metric):
    """The scores of predictions, each against one reference; README.md says what each is.

    - `rouge1`, `rouge2`, `rougeL`: mean F1 of a text, 0 to 1, of `rouge_score` with the Porter
      stemmer (Lin 2004, https://aclanthology.org/W04-1013). It knows ASCII letters and digits only,
      so a text without any scores 0, even against itself.
    - `bleu`, `chrf`: 0 to 100, exactly `sacrebleu.corpus_bleu(predictions, [references]).score` and
      `sacrebleu.corpus_chrf`'s, all defaults included: 13a tokens, exponential smoothing (Post
      2018, https://aclanthology.org/W18-6319; Popovic 2015, https://aclanthology.org/W15-3049).
      They belong to a corpus: they are no means over texts.

    An empty prediction is a prediction and scores 0 in ROUGE.
    """

    full_state_update = False
    is_differentiable = False

    rows: list[Tensor]
    num_runs: list[Tensor]
    words: list[Tensor]
    pairs_of_words: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("rows", "num_runs", "words", "pairs_of_words"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        titles: Sequence[str] | None,
        predictions: Sequence[str],
        references: Sequence[str],
        has_ended: Sequence[bool] | None,
        is_copied: Sequence[bool] | None = None,
    ) -> None:
        """Adds texts; the n-th prediction belongs to the n-th of all others. None at all is fine.

        Args:
            titles: None: not known, and without scores that need them
            has_ended: whether each text ended by itself; None: not known
            is_copied: whether each is copied from what was trained on; None: not known

        Raises:
            ValueError: if there are not as many of one as of the others.
        """
        if len(predictions) != len(references):
            raise ValueError(
                f"{len(predictions)} predictions but {len(references)} references: "
                "every prediction needs the one reference it is scored against."
            )
        if titles is not None and len(titles) != len(predictions):
            raise ValueError(f"{len(predictions)} predictions but {len(titles)} titles.")
        rows = count_texts(predictions, references, titles, has_ended, is_copied)
        self.rows.append(self._tensor(rows.view(np.int64)))
        runs = [Runs.of([ngram_ids(text, size) for text in predictions]) for size in _RUNS]
        self.num_runs.append(self._tensor(np.stack([of.lengths for of in runs], axis=1)))
        self.words.append(self._tensor(runs[0].ids))
        self.pairs_of_words.append(self._tensor(runs[1].ids))

    def compute(self) -> dict[str, float]:
        """Returns the scores of all texts so far, but those of which something was not known.

        Raises:
            UserError: if there were no texts. No number would be honest: NaN is dropped from
                charts without a word, and 0 looks like a bad model.
        """
        counted = self.counted()
        if not len(counted):
            raise UserError(
                "Scores of texts: wanted at least one prediction with its reference, found none. "
                "Give a data set that is not empty, or do not ask for scores."
            )
        return counted.scores()

    def counted(self) -> CountedTexts:
        """Returns what was counted in all texts so far (of this rank, outside of compute)."""
        rows = _joined(self.rows).view(np.float64).reshape(-1, NUM_COLUMNS)
        num_runs = _joined(self.num_runs).reshape(-1, len(_RUNS))
        ids = (_joined(self.words), _joined(self.pairs_of_words))
        return CountedTexts(rows, (Runs(ids[0], num_runs[:, 0]), Runs(ids[1], num_runs[:, 1])))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


class TargetLoss(Metric):
    """Mean loss of a target token (nats), and its perplexity, over everything seen.

    Examples have different numbers of targets, so a mean of their means would be wrong; this keeps
    losses and targets apart: sums of 6.0 and 2.0 over 2 and 6 targets are a loss of 8 / 8 = 1.0
    (their means 3.0 and 0.33 would give 1.67) and a perplexity of e = 2.718.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    loss_sums: list[Tensor]
    num_targets: list[Tensor]
    num_right: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("loss_sums", "num_targets", "num_right"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        loss_sums: Tensor,
        num_targets: int | Tensor,
        num_right: int | Tensor | None = None,
    ) -> None:
        """Adds examples, or the sum of a batch as if it was one. Does not wait for the device.

        Args:
            loss_sums: (E,) or of one (), on any device: the sum (no mean) of its targets' losses
            num_targets: (E,) or (): how many targets it has
            num_right: (E,) or (): how many of them are the model's first choice; None: not known
        """
        sums = loss_sums.detach().to(self.device, torch.float64).reshape(-1)
        self.loss_sums.append(sums.view(torch.int64))
        self.num_targets.append(self._numbers(num_targets, len(sums)))
        self.num_right.append(self._numbers(-1 if num_right is None else num_right, len(sums)))

    def _numbers(self, numbers: int | Tensor, num_examples: int) -> Tensor:
        found = torch.as_tensor(numbers).detach().to(self.device, torch.int64).reshape(-1)
        return found.expand(num_examples)

    def compute(self) -> dict[str, float]:
        """Returns `loss` (nats per target token), `perplexity` (exp(loss), at least 1) and, if all
        examples came with it, `accuracy` (share of the targets that are the first choice, 0 to 1).

        A loss above 709 has the perplexity `inf`; a NaN stays a NaN in both.

        Raises:
            UserError: if no token was a target.
        """
        if self.total_targets == 0:
            raise UserError(
                "Loss of the descriptions: wanted at least one target token, found none. "
                "Give a data set that is not empty and whose descriptions are not."
            )
        return self.counted().scores()

    def counted(self) -> CountedLosses:
        """Returns the losses of all examples so far (of this rank, outside of compute)."""
        sums = _joined(self.loss_sums).view(np.float64)
        num_right = _joined(self.num_right).astype(np.float64)
        num_right[num_right < 0] = np.nan
        return CountedLosses(np.stack([sums, _joined(self.num_targets), num_right], axis=1))

    @property
    def total_targets(self) -> int:
        """How many targets there were so far."""
        return int(_joined(self.num_targets).sum())


def count(
    predictions: Sequence[str],
    references: Sequence[str],
    titles: Sequence[str] | None = None,
    has_ended: Sequence[bool] | None = None,
) -> CountedTexts:
    """Returns what is counted in `predictions` against `references`, one reference each.

    Raises:
        ValueError: if the numbers of texts differ.
    """
    return _updated(predictions, references, titles, has_ended).counted()


def score_texts(
    predictions: Sequence[str],
    references: Sequence[str],
    titles: Sequence[str] | None = None,
    has_ended: Sequence[bool] | None = None,
) -> dict[str, float]:
    """Returns the `TextScores` of `predictions` against `references`, one reference each.

    Without titles there is no `invented` and no `title_words`, without has_ended no `ended`.
    Scores just these texts: in a run on several ranks it waits for no other rank.

    Raises:
        ValueError: if the numbers of texts differ, or (as `UserError`) are zero.
    """
    return _updated(predictions, references, titles, has_ended).compute()


def _updated(
    predictions: Sequence[str],
    references: Sequence[str],
    titles: Sequence[str] | None,
    has_ended: Sequence[bool] | None,
) -> TextScores:
    scores = TextScores(sync_on_compute=False)
    scores.update(titles, list(predictions), list(references), has_ended)
    return scores


def _joined(parts: Tensor | list[Tensor]) -> np.ndarray:
    """Returns a state as one array: a list of tensors or, joined with other ranks', a tensor."""
    if isinstance(parts, Tensor):
        return parts.cpu().numpy()
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, np.int64)
