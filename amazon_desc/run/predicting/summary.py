"""What an output holds, in a few lines: said at its end.

In come records one by one, out come counts and sentences. Nothing is kept of a text but numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from amazon_desc.evaluation.repetition import LOOP_SHARE, repeated_share
from amazon_desc.run.predicting.lines import SHORTENED
from amazon_desc.run.predicting.records import SKIPPED

NUM_REASONS = 5
# Lengths are counted by themselves up to here, for a median without the texts.
MOST_TOKENS_COUNTED = 1 << 16


class Summary:
    """Counts of the records that a command wrote."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.num_records = self.num_texts = self.num_ended = self.num_loops = self.num_tokens = 0
        self.num_repeated = self.num_shortened = 0

    def add(
        self, record: Mapping[str, Any], is_repeated: bool = False, is_old: bool = False
    ) -> None:
        """Counts a record whose line was added; of an old one, the text was written before."""
        self.num_records += 1
        if record["finish_reason"] == SKIPPED:
            self.reasons[record["reason"]] += 1
            return
        if is_repeated:
            self.num_repeated += 1
            return
        if is_old:
            return
        self.num_texts += 1
        self.num_ended += record["finish_reason"] == "stop"
        self.num_shortened += record.get("reason") == SHORTENED
        self.num_loops += repeated_share(record["description"]) > LOOP_SHARE
        self.lengths[min(record["num_tokens"], MOST_TOKENS_COUNTED)] += 1
        of_all = record.get("candidates", [record])
        self.num_tokens += sum(text["num_tokens"] for text in of_all)

    @property
    def median_tokens(self) -> int:
        """Tokens of the text in the middle; of two, the shorter one's."""
        seen = 0
        for length, num in sorted(self.lengths.items()):
            seen += num
            if 2 * seen >= self.num_texts:
                return length
        return 0

    def lines(self, seconds: float) -> Iterator[str]:
        """Yields sentences on what was written in so many seconds."""
        if self.num_texts:
            speed = f"{self.num_texts / seconds:,.1f} titles/s, {self.num_tokens / seconds:,.0f}"
            yield (
                f"Texts written: {self.num_texts:,} in {seconds:,.1f} s: {speed} tokens/s. "
                f"{self.share(self.num_ended)} ended by themselves, {self.share(self.num_loops)} "
                f"loop; {self.median_tokens} tokens in the middle, {max(self.lengths)} at most."
            )
        if self.num_repeated:
            yield f"Repeated titles, with the text of the first: {self.num_repeated:,}."
        if self.num_shortened:
            yield f"Titles that were too long, whose ends were not read: {self.num_shortened:,}."
        if self.reasons:
            most = self.reasons.most_common(NUM_REASONS)
            reasons = "; ".join(f"{num:,} × {reason}" for reason, num in most)
            yield f"Skipped records: {self.reasons.total():,} ({reasons})."

    def share(self, num: int) -> str:
        return f"{num / self.num_texts:.1%}".replace("%", " %")
