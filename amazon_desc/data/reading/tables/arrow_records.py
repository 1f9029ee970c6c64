"""Arrow -> its records as (place, {column: value}), or a Fault for each that cannot be read.

In comes the path of an Arrow file or stream (.arrow, .feather, what `datasets` keeps), out go the
records as of Parquet: only the opening differs. The file is mapped, not read into memory. What was
damaged in it is found before a value is read, as its places in memory are not to be trusted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.data.reading.files.sources import Fault, Meter, RawRecord, start_of
from amazon_desc.data.reading.tables.parquet_records import parquet_records


class _Metadata(NamedTuple):
    num_rows: int


def arrow_records(
    path: Path, columns: Sequence[str], others: Sequence[str] | None, meter: Meter
) -> Iterator[RawRecord | Fault]:
    return parquet_records(path, columns, others, meter, "Arrow", ArrowFile)


class ArrowFile:
    """An Arrow file with the names by which Parquet files are read."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        self._arrow, self._is_file = pyarrow, start_of(path).startswith(b"ARROW1")
        self._map = pyarrow.memory_map(str(path))
        self.schema_arrow = self._opened().schema
        self.metadata = _Metadata(sum(batch.num_rows for batch in self._batches()))

    def __enter__(self) -> "ArrowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def iter_batches(self, batch_size: int, columns: Sequence[str] | None) -> Iterator[Any]:
        """Yields the records in order, so many at a time, of these columns or of all."""
        for batch in self._batches():
            chosen = batch if columns is None else batch.select(columns)
            for start in range(0, chosen.num_rows, batch_size):
                part = chosen.slice(start, batch_size)
                self._refuse_damage(part)
                yield part

    def _opened(self) -> Any:
        self._map.seek(0)
        ipc = self._arrow.ipc
        return ipc.open_file(self._map) if self._is_file else ipc.open_stream(self._map)

    def _batches(self) -> Iterator[Any]:
        reader = self._opened()
        if not self._is_file:
            yield from reader
            return
        yield from map(reader.get_batch, range(reader.num_record_batches))

    def _refuse_damage(self, batch: Any) -> None:
        """Refuses a batch that points out of its file; text that is not UTF-8 is a bad record."""
        for column in batch.columns:
            try:
                column.validate(full=True)
            except self._arrow.ArrowInvalid as error:
                if "UTF8" not in str(error):
                    raise
