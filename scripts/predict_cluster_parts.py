"""Parts of predict_cluster.py: what is written into each, and what is found in one.

In come records that are dealt out, out go parts that have no name yet, and counts of what is in
them. Which part gets its name is decided in predict_cluster.py. What Ray Data hands over are rows
of plain values and bytes.
"""

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from predict_cluster_files import Parts
from predict_cluster_titles import Dealt, dealt

from amazon_desc.run.predicting.forms import cell_of, merged_type
from amazon_desc.run.predicting.records import (
    OWN,
    SKIPPED,
    Record,
    line_of,
    repeated,
    skipped,
    written,
)
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.layouts import ADAPTER_WEIGHTS


@dataclass(frozen=True)
class Asked:
    """A run, and how it is to write: every engine opens it so."""

    run: str
    accelerator: Literal["cpu", "gpu"]
    precision: str | None
    typed: tuple[str, ...]
    """settings of decoding, as on the command line"""
    rows_per_part: int
    num_threads: int
    weights: str = ""
    """the sha256 of the adapter, once it is known"""
    way: tuple[Any, int] | None = None
    """engine and texts at a time of all engines; None: that is still to be chosen"""

    def opened(self) -> Any:
        """Returns model and data, without weights.

        Raises:
            UserError: it is no finished run, or its base or weights are others now.
        """
        from amazon_desc.describer import opened

        how: dict[str, Any] = {"accelerator": self.accelerator, "precision": self.precision}
        model, data = opened(self.run, **how, typed=self.typed)
        if self.weights not in ("", found := sha256_of(weights_of(self.run))):
            raise UserError(
                f"{os.uname().nodename}, {weights_of(self.run)}: wanted the weights that this "
                f"command began with (sha256 {self.weights[:12]}), found others ({found[:12]}). "
                f"Copy the run's folder to this machine again."
            )
        return model, data

    def plan(self, model: Any, data: Any) -> Any:
        """Returns how this machine writes.

        Raises:
            UserError: its texts would not be those of the others.
        """
        from amazon_desc.model.machine import machine_of
        from amazon_desc.model.writing_plan import plan_writing
        from amazon_desc.run.options.micro_batch import task_of_options
        from amazon_desc.training.writing import texts_of

        task = task_of_options(model, data, model.compute_dtype)
        texts = texts_of(model.decoding, model.engine, data, self.rows_per_part, self.way)
        plan = plan_writing(task, machine_of(model.device, task.dtype), texts)
        if plan.titles_together > 1:
            raise UserError(
                f"--precision {model.trainer.precision}: in half precision the plain engine's "
                f"texts depend on who is beside them{plan.reason}, and here that is left to "
                f"chance. Give --precision 32-true, or GPUs that have the fused engine."
            )
        is_other = self.way not in (None, (plan.engine, plan.at_a_time))
        if is_other and not plan.is_exact:  # in float32 neither decides a text
            raise UserError(
                f"{os.uname().nodename}: wanted {self.way[1]} texts at a time by the {self.way[0]} "
                f"engine, as on the other machines, found {plan.at_a_time} by the {plan.engine} "
                f"one{plan.reason}. Use machines of one kind, or give --batch_size."
            )
        return plan


def weights_of(run: str) -> Path:
    from amazon_desc.run.folder import RunFolder

    return RunFolder(Path(run)).adapter / ADAPTER_WEIGHTS


def chosen_way(asked: Asked, opened: tuple[Any, Any] | None = None) -> tuple[str, int]:
    """Returns engine and texts at a time of the machine that it is called on."""
    plan = asked.plan(*(opened or asked.opened()))
    return plan.engine, plan.at_a_time


class Engine:
    """Writes parts with a run's weights, which it loads once.

    Args:
        output: where parts go
        types: of the columns, where the form has any
    """

    def __init__(self, asked: Asked, output: str, form: str, types: dict[str, str]) -> None:
        import torch

        from amazon_desc.generation.writing import Streaming

        torch.set_num_threads(asked.num_threads)
        self.output, self.form, self.types = Parts(output), form, types
        self.model, self.data = asked.opened()
        plan = asked.plan(self.model, self.data)
        self.model.configure_model()
        settings = self.model.decoding
        self.writer = Streaming(self.model.network, self.model.writing_with(settings), plan)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        records = self.records(dealt(row))
        name = uuid.uuid4().hex
        self.output.write_unfinished(name, encoded(records, self.form, self.types))
        return {"unfinished": name, **contents(records)}

    def records(self, some: Sequence[Dealt]) -> list[Record]:
        """Returns the records of a part; titles that are the same are written for once."""
        from amazon_desc.data.loading.prompts import prompts_of_rows
        from amazon_desc.run.predicting.lines import SHORTENED

        wanted: dict[str, tuple[int, str, str]] = {}
        for each in some:
            if not each.reason:
                wanted.setdefault(each.cleaned, (each.drawn_as, each.title, ""))
        prompts = prompts_of_rows(wanted.values(), self.data.encoder, self.data.clean_title)
        texts = dict(zip(wanted, self.writer.write(prompts), strict=True))
        done: dict[str, Record] = {}
        records = []
        for row, _, title, reason, kept, cleaned in some:
            columns = {} if kept is None else json.loads(kept)
            if reason:
                records.append(skipped(row, title, reason, columns))
            elif cleaned in done:
                records.append(repeated(row, title, done[cleaned], columns))
            else:
                found = texts[cleaned]
                said = SHORTENED if found.is_shortened else ""
                candidates = (found.description, *found.others)
                done[cleaned] = written(row, title, candidates, said, columns)
                records.append(done[cleaned])
        return records


# What is in a part


class Counts(NamedTuple):
    """How much is in a part, or in many."""

    num_titles: int = 0
    """records with a text"""
    num_ended: int = 0
    num_tokens: int = 0
    reasons: Mapping[str, int] = MappingProxyType({})
    """why records have none"""

    def __add__(self, other: "Counts") -> "Counts":  # type: ignore[override]
        *numbers, reasons = zip(self, other, strict=True)
        return Counts(*map(sum, numbers), Counter(reasons[0]) + Counter(reasons[1]))


def counts_of(records: Iterable[Record]) -> Counts:
    texts, reasons = [], Counter[str]()
    for record in records:
        if record["finish_reason"] == SKIPPED:
            reasons[record["reason"]] += 1
        else:
            texts.append((record["finish_reason"] == "stop", record["num_tokens"]))
    num_ended, num_tokens = (sum(of) for of in zip(*texts, strict=True)) if texts else (0, 0)
    return Counts(len(texts), num_ended, num_tokens, reasons)


def contents(records: Sequence[Record]) -> dict[str, Any]:
    """Returns which records a part has, and their counts, as `read_contents` reads them."""
    rows = np.array([record["row"] - 1 for record in records], "<i8")
    return {"rows": rows.tobytes(), "counts": orjson.dumps([*counts_of(records)])}


def read_contents(row: dict[str, Any]) -> tuple[np.ndarray, Counts]:
    *numbers, reasons = orjson.loads(row["counts"])
    return np.frombuffer(row["rows"], "<i8"), Counts(*numbers, reasons)


def look_into(row: dict[str, Any], output: str, form: str) -> dict[str, Any]:
    """Returns what is in a part that has its name; `problem` is an empty text, or what is wrong."""
    name = row["name"]
    try:
        records, problem = decoded(Parts(output).read(name) or b"", form), ""
        found = contents(records)
    except (ValueError, LookupError, TypeError) as error:
        found = contents([])
        problem = (
            f"--output: {name} is not as it was written ({' '.join(str(error).split())}). Delete "
            f"it: it is written again."
        )
    return {"name": name, "problem": problem, **found}


# Forms


def types_of(kinds: dict[str, set[str]], num_candidates: int) -> dict[str, str]:
    """Returns the columns of all parts, ours first, and the one type that each has.

    {"sku": {"int", "null"}}, 1 -> row: int, title: text, ..., reason: text, sku: int
    """
    own = {name: "text" for name in OWN} | {"row": "int", "num_tokens": "int"}
    own["candidates"] = "texts"
    if num_candidates == 1:
        del own["candidates"]
    return own | {name: merged_type(found - {"null"}) for name, found in kinds.items()}


def encoded(records: Sequence[Record], form: str, types: dict[str, str]) -> bytes:
    """Returns the bytes of a part."""
    if form == "jsonl":
        return "".join(map(line_of, records)).encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.struct(
        [("description", pa.string()), ("finish_reason", pa.string()), ("num_tokens", pa.int64())]
    )
    of_kind = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
    of_kind["texts"] = pa.list_(text)
    schema = pa.schema([(name, of_kind.get(kind, pa.string())) for name, kind in types.items()])
    columns = {n: [cell_of(r.get(n), kind) for r in records] for n, kind in types.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def decoded(data: bytes, form: str) -> list[Record]:
    """Returns the records of a part, of a Parquet file what is counted of them alone.

    Raises:
        ValueError: the part is not as it was written.
    """
    if form == "jsonl":
        return [orjson.loads(line) for line in data.splitlines()]
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["row", "finish_reason", "num_tokens", "reason"]
    return pq.read_table(pa.BufferReader(data), columns=columns).to_pylist()
