"""Which records of predict_cluster.py have their text, and which parts are given their names.

In come parts that are there and parts that engines wrote, out go names for those whose records, by
their numbers, had no text yet. So each record has one, whatever was dealt twice, and by whom it was
written. What is in a part is known in predict_cluster_parts.py.
"""

from typing import Any

import numpy as np
from predict_cluster_files import Parts, Titles, shown_place
from predict_cluster_parts import Asked, Counts, read_contents
from predict_cluster_ray import Cluster
from predict_cluster_titles import Reading, Survey, first_alike
from tqdm import tqdm

from amazon_desc.support.errors import DataError, InUseError

WRITER = "_writer"


class Written:
    """Which records have their text.

    Args:
        writer: what `_writer` has to hold, for a part to be finished
    """

    def __init__(self, output: Parts, titles: Titles, surveys: list[Survey], writer: str) -> None:
        self.output, self.titles, self.surveys = output, titles, surveys
        self.writer = writer
        self.starts = np.cumsum([0, *(survey.num_records for survey in surveys)])
        self.is_written = np.zeros(self.starts[-1], bool)
        digests = np.concatenate([survey.titles for survey in surveys])
        self.drawn_as = first_alike(digests) if len(digests) else None
        self.parts: set[str] = set()
        self.counts = Counts()

    def look(self, cluster: Cluster) -> None:
        """Finds out by the numbers of the records in all parts that are there."""
        names = self.output.whole()
        for row in cluster.contents(names, self.output.named, self.titles.form):
            rows, counts = read_contents(row)
            if not len(rows) or not self.takes(rows):
                raise DataError(
                    f"--output {shown_place(self.output.named)}: {row['name']} has a record twice, "
                    f"or one of another part, or of no file. Delete it: it is written again."
                )
            self.add(row["name"], rows, counts)

    def takes(self, rows: np.ndarray) -> bool:
        """Whether these are records, each of them once, and none has its text."""
        are_records = rows.min() >= 0 and rows.max() < len(self.is_written)
        are_new = are_records and not self.is_written[rows].any()
        return are_new and len(np.unique(rows)) == len(rows)

    def add(self, name: str, rows: np.ndarray, counts: Counts) -> None:
        self.is_written[rows] = True
        self.parts.add(name)
        self.counts += counts

    def write(
        self, cluster: Cluster, asked: Asked, reading: Reading, types: dict[str, str]
    ) -> None:
        """Has all records written that lack; a part that comes twice is taken once."""
        with tqdm(total=len(self.is_written), initial=int(self.is_written.sum())) as bar:
            while not self.is_written.all():
                num_before = self.is_written.sum()
                how = (self.output.named, self.titles.form, types)
                for row in cluster.written(self.lacking(), asked, reading, how):
                    rows, counts = read_contents(row)
                    if self.takes(rows):
                        self.refuse_other_writer()
                        # no name that another command gives: nothing takes the place of a part
                        name = f"part-{rows[0]:012d}-{self.writer[:8]}.{self.titles.form}"
                        self.output.finish(row["unfinished"], name)
                        self.add(name, rows, counts)
                        bar.update(len(rows))
                assert self.is_written.sum() > num_before, "a pass that writes nothing"

    def lacking(self) -> list[dict[str, Any]]:
        """Returns the files that have records without a text, and which these are."""
        found = []
        for number, survey in enumerate(self.surveys):
            first, end = self.starts[number : number + 2]
            is_written = self.is_written[first:end]
            if not is_written.all():
                drawn_as = b"" if self.drawn_as is None else self.drawn_as[first:end].tobytes()
                which = {"is_written": np.packbits(is_written).tobytes(), "drawn_as": drawn_as}
                place = {"address": self.titles.addresses[number], "first": int(first)}
                known = {"num_records": survey.num_records, "sha256": survey.sha256}
                found.append(place | known | which)
        return found

    def refuse_other_writer(self) -> None:
        if self.output.read(WRITER) != self.writer.encode():
            raise InUseError(
                f"{shown_place(self.output.named)} is written by a command that began after this "
                f"one, which leaves it to that. Wait until it has ended."
            )
