"""predict for a catalogue that outgrows one machine: the same records, written by a Ray cluster.

In: a finished run, and titles as Parquet or JSON Lines in a folder or an object store. Out: a
folder of parts, the same form. Each record is answered once, by its number among all records,
whoever is killed and however often; its text is the one that `predict` writes. What was begun is
gone on with by the same command, or refused.

    python scripts/predict_cluster.py runs/shop --titles s3://shop/titles --output s3://shop/texts
"""

import argparse
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from predict_cluster_files import UNFINISHED, Parts, Titles, found_titles, shown_place
from predict_cluster_parts import Asked, types_of, weights_of
from predict_cluster_ray import Cluster
from predict_cluster_titles import Reading, Survey, first_twice, id_text, titles_of
from predict_cluster_written import WRITER, Written
from tqdm import tqdm

from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.printing import say

SETTINGS, SUMMARY, SUCCESS = "_settings.json", "_summary.json", "_SUCCESS"
ROWS_PER_PART = 4_096
REMEDY = "Move or delete it, or name another --output."


@dataclass
class Work:
    """What a command writes for, and where."""

    asked: Asked
    opened: tuple[Any, Any]
    """model and data of that"""
    reading: Reading
    titles: Titles
    output: Parts
    cluster: Cluster
    settings: dict[str, Any]
    """what decides the records, as `predict` records it"""

    def __call__(self) -> None:
        begun_at = time.perf_counter()
        record = self.record()
        before = None if record is None else record["way"]
        way = tuple(before or self.cluster.way(self.asked, self.opened))
        self.asked = replace(self.asked, way=way)
        surveys = self.surveys()
        files = self.files(surveys)
        if record is not None:
            self.refuse_other_files(record["files"], files)
        self.refuse_twice(surveys)
        types = self.types(surveys)
        if record is not None and record["types"] != types:
            raise UserError(
                f"{shown_place(self.output.named)} has columns of other types, and parts of one "
                f"folder have the same:\n  {record['types']}, now {types}\n{REMEDY}"
            )
        written = Written(self.output, self.titles, surveys, self.begin(files, types))
        written.look(self.cluster)
        num_before = int(written.is_written.sum())
        if num_before:
            say(f"Of {len(written.is_written):,} records {num_before:,} have their text already.")
        written.write(self.cluster, self.asked, self.reading, types)
        self.finish(written, time.perf_counter() - begun_at, num_before)

    # What was there before

    def record(self) -> dict[str, Any] | None:
        """Returns what is known of the parts that are there.

        Raises:
            UserError: they are made with other settings, or nothing is known of them.
        """
        from amazon_desc.run.options.settings import changes

        place = shown_place(self.output.named)
        record = self.output.read_json(SETTINGS)
        there = [name for name in self.output.names() if name != WRITER]
        if not isinstance(record, dict) or not {"settings", "files", "way", "types"} <= {*record}:
            if there:
                raise UserError(
                    f"--output {place}: wanted an empty folder, or parts with their {SETTINGS}, "
                    f"found {there[0]}, and predictions are never overwritten. {REMEDY}"
                )
            return None
        if changed := changes(record["settings"], self.settings):
            differences = "\n".join(changed)
            raise UserError(
                f"{place} is there already, made with other settings, and predictions are never "
                f"overwritten:\n{differences}\nSet them back to resume. Or: {REMEDY}"
            )
        return record

    def refuse_other_files(self, before: list[dict[str, Any]], files: list[dict[str, Any]]) -> None:
        """Refuses titles that were changed; files may have come behind those of before."""
        if files[: len(before)] == before:
            return
        pairs = zip([*before, *[None] * len(files)], files, strict=False)
        then, now = next((a, b) for a, b in pairs if a != b)
        raise UserError(
            f"{shown_place(self.output.named)} is there already, made of other titles, and "
            f"predictions are never overwritten:\n  {described(then)}, now {described(now)}\nPut "
            f"them back to resume; files may only come behind, by their names. Or: {REMEDY}"
        )

    # The titles

    def surveys(self) -> list[Survey]:
        """Returns what is in each file.

        Raises:
            DataError: one of them cannot be read, lacks a column or an id, or there is no record.
        """
        found: dict[int, Survey] = {}
        with tqdm(total=len(self.titles.names), desc="Looking at files", leave=False) as bar:
            for number, survey in self.cluster.surveys(self.titles, self.reading):
                found[number] = survey
                bar.update()
        return [found[number] for number in range(len(self.titles.names))]

    def files(self, surveys: list[Survey]) -> list[dict[str, Any]]:
        facts = zip(self.titles.names, surveys, strict=True)
        return [{"name": n, "num_records": s.num_records, "sha256": s.sha256} for n, s in facts]

    def refuse_twice(self, surveys: list[Survey]) -> None:
        """Refuses two records with the same id."""
        if self.reading.id_column is None:
            return
        twice = first_twice(np.concatenate([survey.ids for survey in surveys]))
        if twice is None:
            return
        places, texts = zip(*(self.place_and_id(row, surveys) for row in twice), strict=True)
        if texts[0] != texts[1]:  # once in thousands of such catalogues, digests alone are equal
            return
        raise DataError(
            f"--id_column {self.reading.id_column}: wanted an id of its own for each record, found "
            f"{texts[0]!r} twice, at {places[0]} and {places[1]}. Take one of them out, or leave "
            f"--id_column away: then records are told by their places."
        )

    def place_and_id(self, row: int, surveys: list[Survey]) -> tuple[str, str]:
        for survey, address, name in zip(
            surveys, self.titles.addresses, self.titles.names, strict=True
        ):
            if row < survey.num_records:
                found = next(t for n, t in enumerate(titles_of(address, self.reading)) if n == row)
                assert found.kept is not None, "what has an id could be read"
                place = f"{name}, {found.place.rpartition(', ')[2]}"
                return place, id_text(found.kept, str(self.reading.id_column))
            row -= survey.num_records
        raise AssertionError("a row of the files")

    def types(self, surveys: list[Survey]) -> dict[str, str]:
        if not self.reading.needs_types:
            return {}
        kinds: dict[str, set[str]] = {}
        for survey in surveys:
            for name, found in survey.types.items():
                kinds.setdefault(name, set()).update(found)
        return types_of(kinds, self.opened[0].decoding.num_candidates)

    # The parts

    def begin(self, files: list[dict[str, Any]], types: dict[str, str]) -> str:
        """Has the folder to itself: a command that was there before may finish no part any more."""
        writer = uuid.uuid4().hex
        self.output.remove(UNFINISHED)
        self.output.write(WRITER, writer.encode())
        self.output.remove(SUCCESS)
        record = {"settings": self.settings, "way": self.asked.way, "types": types, "files": files}
        self.output.write(SETTINGS, json.dumps(record, indent=1).encode())
        return writer

    def finish(self, written: Written, seconds: float, num_before: int) -> None:
        counts, num_rows = written.counts, len(written.is_written)
        for name in {*self.output.whole()} - written.parts:
            self.output.remove(name)  # of a command that was there before, and is no more needed
        summary = {
            "rows": num_rows,
            "titles": counts.num_titles,
            "tokens": counts.num_tokens,
            "ended": counts.num_ended,
            "skipped": dict(counts.reasons),
            "parts": len(written.parts),
            "seconds": round(seconds, 1),
            "rows_in_these_seconds": num_rows - num_before,
            "engines": self.cluster.num_engines,
            "settings": self.settings,
        }
        self.output.write(SUMMARY, json.dumps(summary, indent=1).encode())
        self.output.remove(UNFINISHED)
        self.output.remove(WRITER)
        self.output.files.pipe_file(self.output.path(SUCCESS), b"")
        num_new, place = num_rows - num_before, shown_place(self.output.named)
        say(
            f"All records ({num_rows:,}) are in {place}: {counts.num_titles:,} with a text, of "
            f"{counts.num_tokens:,} tokens together; {num_rows - counts.num_titles:,} without a "
            f"title. Now: {num_new:,} in {seconds:,.1f} s, {num_new / seconds:,.1f} a second."
        )


def described(file: dict[str, Any] | None) -> str:
    if file is None:
        return "nothing"
    return f"{file['name']} ({file['num_records']:,} records, sha256 {file['sha256'][:12]})"


# The command


def work_of(options: argparse.Namespace, typed: Sequence[str]) -> Work:
    """Returns what a command line asks for, checked as far as it can be before Ray is there."""
    from amazon_desc.run.predicting.provenance import WEIGHTS, prediction_settings
    from amazon_desc.run.predicting.source import TitleSource, columns_to_keep

    titles, output = found_titles(options.titles), Parts(options.output)
    run = Path(options.run).expanduser().absolute()
    if options.batch_size is not None:
        typed = [*typed, "--data.generation_batch_size", str(options.batch_size)]
    asked = Asked(str(run), "cpu", options.precision, tuple(typed), options.rows_per_part, 1)
    model, data = asked.opened()
    named = options.keep_columns
    keep = columns_to_keep(named[0] if len(named) == 1 else named)
    if options.id_column is not None and keep != "all" and options.id_column not in keep:
        keep = [options.id_column, *([] if keep == "none" else keep)]
    sources = data.settings.sources
    column = options.title_column or sources.title_column
    source = TitleSource(options.titles, None, column, keep, sources.form)
    precision, weights = model.trainer.precision, weights_of(asked.run)
    settings = prediction_settings(model, data, source, precision, weights)
    settings |= {"--id_column": options.id_column, "form": titles.form}
    reading = Reading(
        column,
        keep,
        data.settings.cleaning,
        options.id_column,
        model.decoding.is_sampled,
        titles.form == "parquet",
    )
    cluster = Cluster(options.address, options.num_engines)
    here = {"accelerator": cluster.accelerator, "num_threads": cluster.num_threads}
    asked = replace(asked, **here, weights=settings[WEIGHTS]["sha256"])
    return Work(asked, (model, data), reading, titles, output, cluster, settings)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Settings of decoding are taken too: --model.decoding.max_new_tokens 64",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", help="the folder of a finished run, at the same path on every machine")
    add("--titles", required=True, help="a folder, a pattern or a file, here or of an object store")
    add("--output", required=True, help="a folder for the parts, here or of an object store")
    add("--title_column", help="default: as the run has it")
    add("--id_column", help="a column that has another value in each record; it is kept")
    add("--keep_columns", nargs="+", default=["none"], help="columns to carry through, or all")
    add("--num_engines", type=int, help="default: one a GPU, or where there is none, a CPU core")
    add("--address", help="of a Ray cluster; default: one on this machine, for as long as it takes")
    add("--batch_size", type=int, help="texts at a time; default: by the free memory")
    add("--rows_per_part", type=int, default=ROWS_PER_PART, help=f"default: {ROWS_PER_PART}")
    add("--precision", help="of computing, as --trainer.precision; default: as the run has it")
    options, typed = parser.parse_known_args(arguments)
    if odd := [t for t in typed if t.startswith("--") and not t.startswith("--model.decoding.")]:
        parser.error(f"unrecognized arguments: {' '.join(odd)}")
    with errors_in_a_sentence(["predict"], "python scripts/predict_cluster.py"):
        work_of(options, typed)()


if __name__ == "__main__":
    main()
