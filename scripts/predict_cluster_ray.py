"""The Ray cluster of predict_cluster.py: files and parts in, what its processes found or wrote out.

Ray Data deals the work out, and does it again where a process is lost. What is done is in
predict_cluster_titles.py and predict_cluster_parts.py; nothing is decided here but how many engines
there are, and what each of them may take of a machine.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import predict_cluster_files
import predict_cluster_parts
import predict_cluster_titles
import pyarrow as pa
from predict_cluster_files import Titles
from predict_cluster_parts import Asked, Engine, chosen_way, look_into
from predict_cluster_titles import Reading, Survey, deal, survey, surveyed

from amazon_desc.support.errors import DataError, UserError

# Parts on their way, of a cluster that is begun here; what is more waits for its turn.
OBJECT_STORE_BYTES = 512 << 20
# Of a CPU core: what an engine leaves for reading, which takes next to nothing.
FOR_READING = 0.1


def import_ray() -> Any:
    """Returns Ray, which sends nothing to anybody and says what goes wrong alone."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"a cluster needs Ray, which is not here ({error}). Install it on every machine: "
            f"pip install -e '.[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it raises says the same
    warnings.filterwarnings("ignore", module="ray.data")  # that few parts need few engines
    return ray


class Cluster:
    """A Ray cluster: one that is there, or one on this machine.

    Args:
        address: of one that is there, as ray.init takes it
        num_engines: None: one a GPU, or a CPU core where there is no GPU

    Raises:
        UserError: Ray is not here, or none answers at the address.
    """

    def __init__(self, address: str | None, num_engines: int | None) -> None:
        if address is not None and address.startswith("ray://"):
            raise UserError(
                f"--address {address}: wanted a cluster that this machine belongs to, found Ray "
                f"Client, through which Ray Data does not run. Call this on a machine of the "
                f"cluster, with --address HEAD:6379."
            )
        self.ray = ray = import_ray()
        if not ray.is_initialized():
            own: dict[str, Any] = {
                "num_cpus": max(os.cpu_count() or 1, num_engines or 1),
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
            }
            address = address or os.environ.get("RAY_ADDRESS")
            where = own if address is None else {"address": address}
            try:
                ray.init(**where, log_to_driver=False, logging_level="ERROR")
            except ConnectionError as error:
                raise UserError(
                    f"--address {address}: wanted a Ray cluster that answers, found none "
                    f"({' '.join(str(error).split())}). Look at it with `ray status`; "
                    f"RAY_AUTH_MODE and its token have to be the same here and there."
                ) from error
        # other machines need not have these scripts
        ours = (predict_cluster_files, predict_cluster_titles, predict_cluster_parts)
        for module in (*ours, sys.modules[__name__]):
            ray.cloudpickle.register_pickle_by_value(module)
        there = ray.cluster_resources()
        self.num_gpus, self.num_cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        self.num_engines = num_engines or self.num_gpus or self.num_cpus

    @property
    def accelerator(self) -> Literal["cpu", "gpu"]:
        return "gpu" if self.num_gpus else "cpu"

    @property
    def num_threads(self) -> int:
        """Of each engine."""
        return 1 if self.num_gpus else max(1, self.num_cpus // self.num_engines)

    @property
    def of_engine(self) -> dict[str, float]:
        """What an engine takes of its machine."""
        if self.num_gpus:
            return {"num_gpus": 1, "num_cpus": 1}
        return {"num_cpus": self.num_threads - FOR_READING}

    def way(self, asked: Asked, opened: tuple[Any, Any]) -> tuple[str, int]:
        """Returns engine and texts at a time, as a machine that writes would choose them.

        Args:
            opened: model and data, for where this machine can choose for all
        """
        if not self.num_gpus:
            return chosen_way(asked, opened)
        choose = self.ray.remote(chosen_way).options(num_gpus=1)
        try:
            return self.ray.get(choose.remote(asked))
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def surveys(self, titles: Titles, reading: Reading) -> Iterator[tuple[int, Survey]]:
        """Yields what is in each file, with its number."""
        files = enumerate(zip(titles.names, titles.addresses, strict=True))
        rows = [{"number": n, "name": name, "address": address} for n, (name, address) in files]
        looked_at = self.dataset(rows).map_batches(of_tables(survey), fn_args=(reading,), **WHOLE)
        for row in rows_of(looked_at):
            yield row["number"], surveyed(row)

    def contents(self, names: Sequence[str], output: str, form: str) -> Iterator[dict[str, Any]]:
        """Yields what is in each part."""
        if names:
            parts = self.dataset([{"name": name} for name in names])
            yield from rows_of(
                parts.map_batches(of_tables(look_into), fn_args=(output, form), **WHOLE)
            )

    def written(
        self,
        files: Sequence[dict[str, Any]],
        asked: Asked,
        reading: Reading,
        where: tuple[str, str, dict[str, str]],
    ) -> Iterator[dict[str, Any]]:
        """Yields what is in each part that engines have written.

        Args:
            where: output, form and types, as an Engine takes them
        """
        how = {"fn_args": (reading, asked.rows_per_part), "num_cpus": FOR_READING}
        dealt = self.dataset(files).map_batches(deal_tables, **how, **WHOLE)
        engines = self.ray.data.ActorPoolStrategy(size=self.num_engines)
        made = {"fn_constructor_args": (asked, *where), "compute": engines, **self.of_engine}
        yield from rows_of(dealt.map_batches(EngineOfTables, **made, **WHOLE))

    def dataset(self, rows: Sequence[dict[str, Any]]) -> Any:
        """Returns a dataset of which every row is a block, those that are made of it too."""
        context = self.ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # a byte: a block is full when it has a row
        with self.ray.data.DataContext.current(context):
            return self.ray.data.from_arrow([table_of(row) for row in rows])


# Rows as Ray Data hands them over: as NumPy's bytes they would lose the zeros at their ends

WHOLE: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": 1}


def row_of(table: pa.Table) -> dict[str, Any]:
    (row,) = table.to_pylist()
    return row


def table_of(row: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([row])


def of_tables(function: Callable[..., dict[str, Any]]) -> Callable[..., pa.Table]:
    """Returns the same of tables of one row."""
    return lambda table, *arguments: table_of(function(row_of(table), *arguments))


def deal_tables(table: pa.Table, reading: Reading, rows_per_part: int) -> Iterator[pa.Table]:
    yield from map(table_of, deal(row_of(table), reading, rows_per_part))


class EngineOfTables:
    """An Engine that is made when it is needed, and says what a user can mend as its `problem`."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.engine: Engine | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        from amazon_desc.run.failures import as_user_error

        row = row_of(table)
        if row["problem"]:
            return table_of(row)
        try:
            if self.engine is None:
                self.engine = Engine(*self.arguments)
            return table_of({**self.engine(row), "problem": ""})
        except Exception as error:  # of any library; what nobody can mend is raised
            if (mended := as_user_error(error, ["predict"])) is None:
                raise
            return table_of({"problem": str(mended)})


def rows_of(dataset: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows as they come.

    Raises:
        UserError: what a process says that a user can mend. Exceptions lose their kind on the way.
    """
    for table in dataset.iter_batches(prefetch_batches=0, **WHOLE):
        row = row_of(table)
        if row.get("problem"):
            raise DataError(row["problem"])
        yield row
