"""The files of one output: their names, and what is done with those that are there.

In come the records to write for and the settings of a command, out go the lines that the file grows
by, after those that are there already. It grows as JSON Lines beside its name:

    NAME                 the whole file, in its form
    NAME.partial         its lines, while it grows
    NAME.parts           what several processes write, until it is joined
    NAME.settings.json   what it is made with: the same command goes on, another one is refused

A whole file is replaced only by a longer one, when titles were appended to its source.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.settings import changes
from amazon_desc.run.predicting.forms import form_of, read_form, write_form
from amazon_desc.run.predicting.lines import (
    GrowingLines,
    Input,
    Kept,
    Offsets,
    OtherLines,
    cut,
    kept_of,
)
from amazon_desc.run.predicting.provenance import Way, way_of
from amazon_desc.run.predicting.records import line_of, renamed
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.files import (
    empty_folder_removed,
    read_json,
    remove_leftovers,
    replacing_file,
    storage,
    temporary_folder,
    write_text,
)
from amazon_desc.support.locks import alone
from amazon_desc.support.printing import say

REMEDY = "Move or delete it, or name another file with --data.output."
"""what a user does about a file that is in the way"""


@dataclass(frozen=True)
class Output:
    """The names of one output: `path` is there only when it is complete."""

    path: Path

    @classmethod
    def of(cls, run: RunFolder, source: str, named: str | None = None) -> Output:
        """Returns where predictions go: `named`, or for `a/v2.csv.gz` predictions/v2.csv.gz.jsonl.

        Raises:
            UserError: the name asks for no form, or is a folder's.
        """
        path = run.predictions / f"{source}.jsonl" if named is None else Path(named).expanduser()
        form_of(path)
        if path.is_dir():
            raise UserError(f"--data.output {path}: wanted a file, found a folder. {REMEDY}")
        return cls(path)

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    @property
    def settings(self) -> Path:
        return self.path.with_name(self.path.name + ".settings.json")

    @property
    def scratch(self) -> Path:
        """A folder for what is needed while it is written."""
        return self.path.with_name(self.path.name + ".scratch")

    @property
    def parts(self) -> Path:
        """A folder for what several processes write, until it is joined."""
        return self.path.with_name(self.path.name + ".parts")

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """Has the output to itself, in a folder that goes again if it stays empty, or refuses.

        Yields a folder for what is needed meanwhile. What killed commands left is removed.
        """
        with ExitStack() as held:
            with storage(self.path.parent):
                held.enter_context(empty_folder_removed(self.path.parent))
            held.enter_context(alone(self.path, "written"))
            for path in (self.path, self.partial, self.settings, self.scratch):
                remove_leftovers(path)
            if not self.partial.exists():  # parts go on after it
                shutil.rmtree(self.parts, ignore_errors=True)
            with storage(self.path.parent):
                folder = held.enter_context(temporary_folder(self.scratch))
            yield folder

    # What was made before, and with what

    def read_record(self) -> dict[str, Any] | None:
        """Returns what is known of the files that are there.

        Raises:
            UserError: there are files, and nothing is known of them.
        """
        record = read_json(self.settings) if self.settings.is_file() else None
        if (there := self.there()) is None:
            return None
        if not isinstance(record, dict) or not {"settings", "batches", "num_records"} <= {*record}:
            raise UserError(
                f"{there} is there already, and predictions are never overwritten. {REMEDY}"
            )
        return record

    def there(self) -> Path | None:
        return next((path for path in (self.path, self.partial) if path.exists()), None)

    def refuse_other(self, record: dict[str, Any], settings: dict[str, Any]) -> None:
        """Refuses to go on with settings that would have given other lines."""
        if changed := changes(record["settings"], settings):
            differences = "\n".join(changed)
            raise UserError(
                f"{self.there()} is there already, made with other settings, and predictions are "
                f"never overwritten:\n{differences}\nSet them back to resume. Or: {REMEDY}"
            )

    # What goes on

    def begin(
        self,
        record: dict[str, Any] | None,
        settings: dict[str, Any],
        table: Input,
        choose: Callable[[Way | None], Way],
        offsets: Path,
    ) -> GrowingLines | None:
        """Returns the lines that are to come, or None: all are there, in a whole file.

        Of an interrupted file the last line is cut off if it is torn, and where titles have to be
        written for together to give the same texts, what comes after their last whole group.

        Args:
            record: of what is there
            settings: of this command
            choose: decides how to write on, of how it was written before
            offsets: a file for where texts lie

        Raises:
            UserError: what is there has lines of other records.
        """
        first, before, kept, places = 0, None, Kept(), Offsets(offsets)
        if record is not None:
            first, before = record["batches"]["first"], way_of(record["batches"])
        is_longer = record is not None and not self.partial.exists()
        try:
            if is_longer:
                kept = self.kept_whole(table)
                if kept.num_lines == len(table):
                    say(f"All records ({len(table):,}) are in {self.path} already")
                    return None
                first = kept.num_written
            elif record is not None and before is not None:
                kept = kept_of(self.partial, table, places, first, before.titles_together)
                with storage(self.path.parent):
                    cut(self.partial, kept)  # on the disk before it is noted how it goes on
        except DataError as error:
            raise UserError(f"{error}. {REMEDY}") from error
        way = choose(before)
        if way != before:
            first = kept.num_written
        batches = {"first": first, **way._asdict()}
        text = {"settings": settings, "num_records": len(table), "batches": batches}
        with storage(self.path.parent):
            write_text(self.settings, json.dumps(text, indent=1) + "\n")
            if is_longer:
                self.open_again(table)
                kept = kept_of(self.partial, table, places)
        if is_longer:
            say(f"{self.path} has the first {kept.num_lines:,} of {len(table):,} records")
        elif kept.num_lines:
            say(f"Resuming after record {kept.num_lines:,} of {len(table):,} in {self.partial}")
        return GrowingLines(self.partial, table, places, kept)

    def kept_whole(self, table: Input) -> Kept:
        """Returns what a whole file has of the records.

        Raises:
            OtherLines: it has others, or one of them twice.
        """
        num_lines = num_written = 0
        rows = table.records()
        for num_lines, record in enumerate(read_form(self.path), start=1):
            of_input = next(rows, None)
            found = record.get("row"), record.get("title")
            if of_input is None or found != (num_lines, of_input.title):
                raise OtherLines(
                    f"{self.path}, record {num_lines}: wanted the {len(table):,} records of the "
                    f"titles in their order, found another"
                )
            num_written += of_input.is_written
        return Kept(num_lines, num_written)

    def open_again(self, table: Input) -> None:
        """Makes the lines of a whole file anew, to go on after them."""
        with replacing_file(self.partial) as temporary, temporary.open("wb") as lines:
            of_input = zip(read_form(self.path), table.records(), strict=False)
            for record, row in of_input:
                columns = {} if row.kept is None else renamed(json.loads(row.kept))
                lines.write(line_of(record | columns).encode())

    def state(self, lines: GrowingLines) -> str:
        """Returns what is said of it at the end."""
        num_records = len(lines.table)
        if lines.is_complete:
            return f"All records ({num_records:,}) are in {self.path}"
        return (
            f"{lines.num_lines:,} of {num_records:,} records are in {self.partial}. The same "
            f"command without --trainer.limit_predict_batches resumes from there."
        )

    def finish(self) -> None:
        """Gives whole lines their name, in the form that it asks for."""
        with storage(self.path.parent, "name another --data.output"):
            write_form(self.partial, self.path)
