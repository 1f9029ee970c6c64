"""Runs -> the tables of a report: scores with intervals, what was trained, what differs.

In come what is known of the runs, out go rows of plain text, one column a run or a side. Files and
folders have their names alone here: a page is handed on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from statistics import median
from typing import Any, NamedTuple

from amazon_desc.evaluation.summary import SCORES
from amazon_desc.run.report.facts import RunFacts
from amazon_desc.run.report.figures import columns_of
from amazon_desc.run.report.score_names import MEANINGS, direction, shown_value
from amazon_desc.run.report.scores import StageScores
from amazon_desc.run.report.values import entries, mapping, number, text
from amazon_desc.run.report.verdict import bounds, is_sure, mood_of, shown_p

UNKNOWN = "not known"
MOST_CHARACTERS = 300  # of a setting
MOST_EXAMPLES = 3


class Cell(NamedTuple):
    """A number, and what stands small below it."""

    main: str
    below: str = ""


class ScoreRow(NamedTuple):
    """A score of all sides."""

    label: str
    meaning: str
    direction: str
    cells: list[Cell]


def score_columns(runs: Sequence[RunFacts], stage: str) -> list[str]:
    labels = [label for label, *_ in columns_of(runs, stage, "loss")]
    return [*labels, "change"] if len(runs) == 1 else labels


def score_rows(runs: Sequence[RunFacts], stage: str) -> list[ScoreRow]:
    """Returns the scores of a stage that any side has; of one run with the change, too."""
    rows = []
    for name, shown in SCORES.items():
        columns = columns_of(runs, stage, name)
        if all(of is None for _, of, _ in columns):
            continue
        cells = [
            Cell(
                shown_value(name, of.value if of else None),
                bounds(name, of) if of and of.has_bounds else "",
            )
            for _, of, _ in columns
        ]
        if len(runs) == 1:
            cells.append(change_of(runs[0].stages[stage], name))
        rows.append(ScoreRow(shown.label, MEANINGS[name], direction(shown.better), cells))
    return rows


def change_of(scores: StageScores, name: str) -> Cell:
    """Returns tuned minus base, and in words what that is."""
    base, tuned = scores.of("base", name), scores.of("tuned", name)
    change = scores.compared.get(name)
    if base is None or tuned is None:
        return Cell("–")
    value = tuned.value - base.value if change is None else change.value
    shown = shown_value(name, value, "+")
    if change is None:
        return Cell(shown)
    p_value = shown_p(change.p_value).removeprefix(", ")
    if value == 0:
        return Cell(shown, "no change")
    if not is_sure(change):
        return Cell(shown, f"may be chance{', ' * bool(p_value)}{p_value}")
    if SCORES[name].better == "near 1":
        is_nearer = abs(tuned.value - 1) < abs(base.value - 1)
        word = "nearer to 1" if is_nearer else "farther from 1"
    else:
        word = "better" if mood_of(name, base, tuned, change) == "good" else "worse"
    return Cell(shown, f"{word}{', ' * bool(p_value)}{p_value}")


def measured_on(scores: StageScores) -> list[tuple[str, str]]:
    """Returns what the scores of a stage were measured on, and how."""
    rows = []
    if scores.num_titles is not None:
        tokens = "" if scores.num_targets is None else f", {scores.num_targets:,} target tokens"
        rows.append(("titles", f"{scores.num_titles:,} held-out titles{tokens}"))
    for file in scores.files:
        rows.append((f"file ({file['use']})", file_name(file)))
    if scores.num_resamples is not None:
        seed = "" if scores.seed is None else f", seed {scores.seed}"
        drawn = f"95 %, of {scores.num_resamples:,} draws of titles with replacement{seed}"
        rows.append(("intervals", drawn))
    rows += [(f"signature of {name}", of) for name, of in scores.signatures.items()]
    if scores.decoding:
        settings = ", ".join(f"{name} {plain(value)}" for name, value in scores.decoding.items())
        rows.append(("texts written with", settings))
    return rows


class DataRow(NamedTuple):
    """What became of some records."""

    what: str
    num: str
    examples: list[str]


def data_rows(run: RunFacts) -> list[DataRow]:
    """Returns how the files were understood, what is learnt from, and what was left out and why."""
    data = run.data
    examples, splits = mapping(data.get("refused_examples")), mapping(data.get("splits"))
    faults = [text(fault) for fault in entries(data.get("faults"))]
    rows = [DataRow("records read", counted(data.get("num_records")), [])]
    rows += [DataRow("", "", [text(remark)]) for remark in entries(data.get("remarks"))]
    rows += [DataRow(f"for {split}", counted(num), []) for split, num in splits.items()]
    for reason, num in mapping(data.get("refused")).items():
        found = [text(example) for example in entries(examples.get(reason))]
        rows.append(DataRow(f"left out: {words(reason)}", counted(num), found))
    for reason, num in mapping(data.get("bad")).items():
        found = [fault for fault in faults if fault.endswith(f": {reason}")]
        rows.append(DataRow(f"cannot be read: {reason}", counted(num), found[:MOST_EXAMPLES]))
    if leak := text(data.get("leak_example")):
        num = counted(data.get("num_leaks"))
        rows.append(DataRow("titles that hold their description", num, [leak]))
    return [row for row in rows if row.num or row.examples] if data else []


def counted(value: Any) -> str:
    found = number(value)
    return "" if found is None else f"{found:,.0f}"


def words(reason: str) -> str:
    return reason.replace("_", " ")


def about_rows(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """Returns what was trained on what, a column a run; a row that no run knows is left out."""
    columns = [dict(about(run)) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [column.get(name, UNKNOWN) for column in columns]) for name in names]
    return [(name, values) for name, values in rows if set(values) != {UNKNOWN}]


def about(run: RunFacts) -> list[tuple[str, str]]:
    lora = {name: run.setting(f"model.lora.{name}") for name in ("r", "alpha", "dropout")}
    kinds = [name[4:] for name in ("use_dora", "use_rslora") if run.setting(f"model.lora.{name}")]
    schedule = run.setting("model.schedule")
    rows = [
        ("base", base_of(run)),
        ("quantisation", shown(run.setting("model.quantization"))),
        ("LoRA", ", ".join([*(f"{name} {plain(of)}" for name, of in lora.items()), *kinds])),
        (
            "begun from",
            file_name(run.setting("model.adapter")) if run.setting("model.adapter") else "",
        ),
        ("data", "; ".join(map(file_name, files_of(run))) or UNKNOWN),
        ("steps", steps_of(run)),
        ("a step", step_of(run)),
        ("learning rate", shown(run.setting("model.optimizer.init_args.lr"))),
        ("schedule", shown(schedule)),
        ("seed", shown(run.setting("seed_everything"))),
        ("precision", shown(run.setting("trainer.precision") or "chosen by the device")),
        ("started", moment(run.record.get("started"))),
        ("finished", moment(run.record.get("finished"), "not finished")),
        ("took", duration(run.seconds)),
        *speed_of(run),
        ("versions", versions_of(run)),
    ]
    return [(name, value) for name, value in rows if value and value != UNKNOWN]


def base_of(run: RunFacts) -> str:
    base = run.setting("model.backbone")
    return file_name(base) if base else UNKNOWN


def files_of(run: RunFacts) -> list[Any]:
    files = run.setting("data.train_file")
    return files if isinstance(files, list) else [files] if files else []


def file_name(value: Any) -> str:
    """Returns a file or base by its name and the beginning of its digest, not by its folder."""
    name = text(mapping(value).get("name")) or text(value)
    digest = text(mapping(value).get("sha256"))
    name = PurePath(name).name if PurePath(name).is_absolute() else name
    return f"{name} (sha256 {digest[:12]}…)" if digest else name


def steps_of(run: RunFacts) -> str:
    num_steps, epochs = number(run.record.get("num_steps")), run.log.curves.get("epoch")
    if num_steps is None:
        return UNKNOWN
    passes = "" if epochs is None else f", {epochs.values[-1]:.2f} passes over the data"
    return f"{int(num_steps):,}{passes}"


def step_of(run: RunFacts) -> str:
    rows, tokens = (number(run.setting(f"data.{name}")) for name in ("rows_per_step", "row_tokens"))
    return (
        UNKNOWN if rows is None or tokens is None else f"{rows:,.0f} rows of {tokens:,.0f} tokens"
    )


def speed_of(run: RunFacts) -> list[tuple[str, str]]:
    curves, rows = run.log.curves, []
    if "tokens_per_second" in curves:
        rows.append(
            ("speed", f"{median(curves['tokens_per_second'].values):,.0f} tokens/s (median)")
        )
    if "mfu" in curves:
        used = f"{median(curves['mfu'].values):.0%}".replace("%", " %")
        rows.append(("use of the card", f"{used} of its limit (median)"))
    if "peak_memory_gib" in curves:
        most = max(curves["peak_memory_gib"].values)
        rows.append(("most memory of the card", f"{most:.2f} GiB of tensors"))
    return rows


def versions_of(run: RunFacts) -> str:
    return ", ".join(
        f"{name} {plain(of)}" for name, of in mapping(run.record.get("versions")).items()
    )


def moment(value: Any, otherwise: str = UNKNOWN) -> str:
    try:
        return datetime.fromisoformat(text(value)).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return otherwise


def duration(seconds: float | None) -> str:
    """Returns a time as people say it. 3725.0 -> "1 h 2 min 5 s, pauses included" """
    if seconds is None or seconds < 0:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(hours or minutes)
    return " ".join([*parts, f"{rest} s"]) + ", pauses included"


def differing(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """Returns the settings that decide a run and are not the same in all of these."""
    settings = [mapping(run.record.get("settings")) for run in runs]
    names = sorted({name for of in settings for name in of})
    rows = []
    for name in names:
        values: list[Any] = [of.get(name, UNKNOWN) for of in settings]
        if any(value != values[0] for value in values):
            rows.append((name.removeprefix("--"), [shown(value) for value in values]))
    return rows


def shown(value: Any) -> str:
    """Returns a setting in a line; what names files by their digests has their names."""
    if isinstance(value, list) and value and all("sha256" in mapping(entry) for entry in value):
        return "; ".join(map(file_name, value))
    if "sha256" in mapping(value):
        return file_name(value)
    return UNKNOWN if value is None else plain(value)


def plain(value: Any) -> str:
    """Returns a setting as YAML has it; texts as they are."""
    if isinstance(value, str):
        line = value
    else:
        line = "none" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"
