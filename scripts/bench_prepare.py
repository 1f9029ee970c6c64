"""Preparing speed: our corpus beside a TRL-style pipeline and the bare tokenizer, in turn.

    pip install -e ".[bench]"  &&  python scripts/bench_prepare.py trn.json.gz --tokenizer FOLDER

Each run is a process of its own on the same rows and cores; its clock starts when imports and
tokenizer are loaded, and stops when the result is on the disk (bare: when the ids are computed).
Out: usable pairs a second (for all those that we keep), peak memory of all processes of a run
(proportional set size), disk used; and what opening our corpus takes, and loading from it.
Run it on an idle machine. Without TRL the others are run.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace as Task
from typing import Any

import yaml

import amazon_desc
from amazon_desc.data.corpus.workers import num_cores
from amazon_desc.data.reading.files.sources import open_source

QLORA = Path(__file__).resolve().parents[1] / "configs" / "qlora.yaml"
REFERENCE = yaml.safe_load(QLORA.read_text(encoding="utf-8"))["data"]
SIDES = ("ours", "trl", "bare")
CHARACTERS_PER_TOKEN, PAIRS_PER_BATCH, NUM_LOADED_BATCHES = 6, 4_000, 2_000
SAMPLE_SECONDS = 0.5
PACKAGES = ("tokenizers", "transformers", "datasets", "pyarrow", "torch", "trl")
COLUMNS = {  # what each run measures, its heading, and what stands for several runs
    "pairs_per_second": ("pairs/s", median),
    "seconds": ("seconds", median),
    "import_seconds": ("imports", median),
    "tokenizer_seconds": ("tokenizer", median),
    "peak_megabytes": ("peak MB", max),
    "peak_disk_megabytes": ("disk MB", max),
    "final_disk_megabytes": ("kept MB", max),
}
RATIOS = {"to_trl": "by TRL's", "to_bare": "by bare's"}
HEADINGS = [heading for heading, _ in COLUMNS.values()] + list(RATIOS.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="products, a JSON object a line (.json[l][.gz])")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer.json")
    parser.add_argument("--lines", type=int, help="use only so many lines from the file's start")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--processes", type=int, help="workers of each run; default: the cores")
    parser.add_argument("--only", default=",".join(SIDES), help="sides to run")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--keep-corpora", type=Path, help="folder to keep our corpus in")
    options = parser.parse_args(arguments)
    sides = options.only.split(",")
    if not set(sides) <= set(SIDES):
        parser.error(f"--only {options.only}: wanted some of {','.join(SIDES)}")
    if "trl" in sides and importlib.util.find_spec("trl") is None:
        print('TRL is not installed and left out: pip install -e ".[bench]"', file=sys.stderr)
        sides.remove("trl")
    with TemporaryDirectory(prefix="bench_prepare-") as folder:
        report = compare(options, sides, Path(folder))
    print("\n" + table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def compare(options: argparse.Namespace, sides: list[str], folder: Path) -> dict[str, Any]:
    """Runs all sides in turn, then opens our corpus; returns all numbers as plain values."""
    file = cut(options.file, options.lines, folder) if options.lines else options.file.absolute()
    base = stand_in_base(options.tokenizer, folder)
    task = {"file": str(file), "base": str(base), "work": str(folder)}
    task |= {"processes": options.processes, "cores": options.processes or num_cores()}
    runs: list[dict[str, Any]] = []
    print(f"{'run':<8}" + "".join(heading.rjust(11) for heading in HEADINGS))
    num_pairs = run(task, "texts")["num_pairs"]
    for turn in range(options.repeats):
        for side in sides[:: -1 if turn % 2 else 1]:
            shutil.rmtree(folder / side, ignore_errors=True)
            done = run(task, side)
            shutil.rmtree(folder / "trl", ignore_errors=True)
            assert done.get("num_pairs", num_pairs) == num_pairs, "these are not the pairs we keep"
            rate = num_pairs / done["seconds"]
            runs.append({"side": side, "turn": turn + 1, "pairs_per_second": rate, **done})
            print(row_of(f"{side} {turn + 1}", runs[-1]), flush=True)
    opening = run(task, "opening") if "ours" in sides else None
    if options.keep_corpora and opening:
        shutil.copytree(folder / "ours", options.keep_corpora, dirs_exist_ok=True)
    facts = {"file": options.file.name, "lines": options.lines, "usable_pairs": num_pairs}
    facts |= {"cores": task["cores"], **environment()}
    return {"facts": facts, "sides": summarize(runs), "opening": opening, "runs": runs}


def cut(file: Path, num_lines: int, folder: Path) -> Path:
    with open_source(file) as source, (folder / f"rows{source.suffix}").open("wb") as rows:
        rows.writelines(islice(source.stream, num_lines))
    return Path(rows.name)


def stand_in_base(tokenizer: Path, folder: Path) -> Path:
    """Returns a folder with the tokenizer that passes for a base: its weights are never read."""
    (base := folder / "base").mkdir()
    for file in tokenizer.absolute().iterdir():
        if file.suffix != ".safetensors":
            (base / file.name).symlink_to(file)
    (base / "model.safetensors").touch()
    return base


def run(task: dict[str, Any], what: str) -> dict[str, Any]:
    """Does the task in a process of its own, watching the memory and disk that it takes."""
    result = Path(task["work"], what)
    others = {name: value for name, value in os.environ.items() if "TOKENIZERS" not in name}
    search_path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    settings = {"PYTHONPATH": search_path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(result)}
    if what == "bare":
        settings |= {"TOKENIZERS_PARALLELISM": "1", "RAYON_NUM_THREADS": str(task["cores"])}
    start = f"import sys, {Path(__file__).stem} as bench; bench.work(*sys.argv[1:])"
    command = [sys.executable, "-c", start, what, json.dumps(task)]
    memory, disk, output = [], [], None
    with Path(task["work"], "errors").open("w+") as errors:
        process = subprocess.Popen(
            command, env={**others, **settings}, stdout=subprocess.PIPE, stderr=errors
        )
        while output is None:
            with suppress(subprocess.TimeoutExpired):
                output = process.communicate(timeout=SAMPLE_SECONDS)[0].decode()
            memory.append(megabytes_held(process.pid))
            disk.append(megabytes_in(result))
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{output}{errors.read()}\nerror: {what} failed")
    done = json.loads(output.splitlines()[-1])
    done["peak_megabytes"] = max(*memory, done.pop("last_megabytes")) or None
    return {**done, "peak_disk_megabytes": max(disk), "final_disk_megabytes": disk[-1]}


def megabytes_held(pid: int) -> float:
    """Returns the proportional set size of a process and of all that descend from it.

    It is 0 for a process that has ended, and everywhere but on Linux.
    """
    total = 0.0
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total = sum(int(line.split()[1]) * 1024e-6 for line in lines if line.startswith("Pss:"))
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):  # the thread has ended
                children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
                total += sum(megabytes_held(int(child)) for child in children)
    return total


def megabytes_in(folder: Path) -> float:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total / 1e6


# What each process does


def work(what: str, task: str) -> None:
    does = {"ours": prepare, "trl": prepare_with_trl, "bare": tokenize_bare}
    does |= {"texts": write_texts, "opening": open_corpus}
    done = does[what](Task(**json.loads(task)), Clock())
    print("\n" + json.dumps({**done, "last_megabytes": megabytes_held(os.getpid())}))


class Clock(dict[str, float]):
    """Seconds of one thing after the other, by their names, from the start of the process."""

    last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self[name], self.last = now - self.last, now


def data_of(task: Task) -> Any:
    """Returns the reference run's data module; prompts are plain text, as its own base has them."""
    import datasets  # noqa: F401 (fit has imported both when it comes to the data)
    import transformers.models.auto.tokenization_auto  # noqa: F401

    from amazon_desc.data.datamodule import DescriptionData
    from amazon_desc.data.encoding.prompts import PromptSettings

    paths = {"train_file": task.file, "backbone": task.base, "corpora": f"{task.work}/ours"}
    prompt = PromptSettings(REFERENCE["prompt"]["template"], chat=False)
    numbers = {"prepare_workers": task.processes, "num_epochs": 1_000}
    data = DescriptionData(**{**REFERENCE, **paths, **numbers, "prompt": prompt})
    data.trainer = Task(state=Task(fn="fit"))  # type: ignore[assignment]
    return data


def prepare(task: Task, clock: Clock) -> dict[str, Any]:
    data = data_of(task)
    clock.lap("import_seconds")
    assert data.tokenizer  # in the time measured it is loaded once more
    clock.lap("tokenizer_seconds")
    data.setup("fit")
    clock.lap("seconds")
    token = data.opened.rows().examples.features["input_ids"].feature.dtype
    counts = data.opened.manifest["counts"]
    found = {name: counts[name] for name in ("num_records", "num_pairs", "num_rows", "num_tokens")}
    return {**clock, **found, "token_bytes": {"uint16": 2, "int32": 4}[token]}


def prepare_with_trl(task: Task, clock: Clock) -> dict[str, Any]:
    """Prepares as notebooks do, wherever they differ in the fastest way; all stays in the cache.

    It is batched and learns all tokens: SFTTrainer's own row by row, or with a mask, is slower.
    """
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import pack_dataset

    clock.lap("import_seconds")
    tokenizer = AutoTokenizer.from_pretrained(task.base)
    template, many = REFERENCE["prompt"]["template"], {"num_proc": task.cores}
    clock.lap("tokenizer_seconds")

    def is_usable(row: dict[str, Any]) -> bool:
        return bool((row["title"] or "").strip() and (row["content"] or "").strip())

    def write(rows: dict[str, list[str]]) -> dict[str, list[str]]:
        texts, end = zip(rows["title"], rows["content"], strict=True), tokenizer.eos_token
        return {"text": [f"{template.format(title=title)} {text}{end}" for title, text in texts]}

    def tokenize(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(rows["text"], truncation=True, max_length=REFERENCE["max_seq_length"])
        return {"input_ids": ids["input_ids"], "labels": ids["input_ids"]}

    rows = load_dataset("json", data_files=task.file, split="train").filter(is_usable, **many)
    texts = rows.map(write, batched=True, remove_columns=rows.column_names, **many)
    examples = texts.map(tokenize, batched=True, remove_columns=texts.column_names, **many)
    packed = pack_dataset(examples, REFERENCE["row_tokens"], "bfd", many)
    clock.lap("seconds")
    return {**clock, "num_examples": len(examples), "num_rows": len(packed)}


def tokenize_bare(task: Task, clock: Clock) -> dict[str, Any]:
    from tokenizers import Tokenizer

    clock.lap("import_seconds")
    tokenizer = Tokenizer.from_file(f"{task.base}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    clock.lap("tokenizer_seconds")
    seconds = 0.0
    with Path(task.work, "texts.jsonl").open() as lines:
        while texts := [
            text for line in islice(lines, PAIRS_PER_BATCH) for text in json.loads(line)
        ]:
            clock.lap("reading_per_batch")
            tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            clock.lap("tokenizing_per_batch")
            seconds += clock["tokenizing_per_batch"]
    return {**clock, "seconds": seconds}


def write_texts(task: Task, clock: Clock) -> dict[str, Any]:
    """Writes prompts and descriptions of the pairs that we keep, cut, for the bare tokenizer."""
    from amazon_desc.data.cleaning.cleaner import Cleaner, normalize_title
    from amazon_desc.data.corpus.splits import text_hash
    from amazon_desc.data.reading.records import Product, read_products

    clean, template = Cleaner(), REFERENCE["prompt"]["template"]
    limit = CHARACTERS_PER_TOKEN * REFERENCE["max_seq_length"]
    best: dict[str, tuple[tuple[int, int], str]] = {}
    for record in read_products(Path(task.file)):
        product = clean(record) if isinstance(record, Product) else record
        if isinstance(product, Product):
            title, text = normalize_title(product.title), product.description
            rank = len(text), -text_hash(text, "distinct")
            if title not in best or rank > best[title][0]:
                texts = template.replace("{title}", product.title)[:limit], text[:limit]
                best[title] = rank, json.dumps(texts)
    with Path(task.work, "texts.jsonl").open("w") as lines:
        lines.writelines(f"{texts}\n" for _, texts in best.values())
    return {"num_pairs": len(best)}


def open_corpus(task: Task, clock: Clock) -> dict[str, Any]:
    """Opens the corpus and takes the first batch; then some more, as fast as they come."""
    data = data_of(task)
    clock.lap("import_seconds")
    before = megabytes_held(os.getpid())
    clock.lap("looking")
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    clock.lap("seconds")
    more = megabytes_held(os.getpid()) - before if before else None
    clock.lap("looking")
    num_tokens = sum(batch.num_tokens for batch in islice(batches, NUM_LOADED_BATCHES))
    clock.lap("loading_seconds")
    rate = num_tokens / clock["loading_seconds"]
    return {**clock, "megabytes_more": more, "num_tokens": num_tokens, "tokens_per_second": rate}


# The numbers


def summarize(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns of each side what stands for its runs, and its rate by those of TRL and bare.

    rates of ours = [3, 4, 9], of bare = [8]  ->  ours: to_bare = 4 / 8 = 0.5, to_trl = None
    """
    sides: dict[str, dict[str, Any]] = {}
    for side in dict.fromkeys(run["side"] for run in runs):
        values = {name: [r[name] or 0 for r in runs if r["side"] == side] for name in COLUMNS}
        sides[side] = {name: COLUMNS[name][1](values[name]) or None for name in COLUMNS}
    for summary in sides.values():
        for other in ("trl", "bare"):
            rate = sides.get(other, {}).get("pairs_per_second")
            summary[f"to_{other}"] = rate and summary["pairs_per_second"] / rate
    return sides


def promises(report: dict[str, Any]) -> Iterator[tuple[str, float | None, str]]:
    """Yields what is promised of our side: its name, the value found, the value promised."""
    ours, opening = report["sides"]["ours"], report["opening"]
    run = next(run for run in report["runs"] if run["side"] == "ours")
    disk = ours["peak_disk_megabytes"] * 1e6 / run["num_tokens"]
    yield "rate by TRL's", ours["to_trl"], "at least 2.0 on 2 cores, aim 2.5"
    yield "rate by the bare tokenizer's", ours["to_bare"], "at least 0.80 on 2 cores"
    yield "peak MB while preparing", ours["peak_megabytes"], "at most 1,500, full-size file"
    yield f"disk by tokens of {run['token_bytes']} bytes", disk / run["token_bytes"], "below 2"
    yield "disk by tokens of 4 bytes", disk / 4, "-"
    yield "seconds to the first batch", opening["seconds"], "below 3"
    yield "MB more than the imports then", opening["megabytes_more"], "below 300"
    yield "tokens/s from the loader", opening["tokens_per_second"], "at least 1,000,000"


def table(report: dict[str, Any]) -> str:
    lines = [f"{'result':<8}" + "".join(heading.rjust(11) for heading in HEADINGS)]
    lines += [row_of(side, summary) for side, summary in report["sides"].items()]
    if report["opening"]:
        lines += ["", f"{'ours':<32}{'found':>11}   promised"]
        lines += [f"{what:<32}{shown(v):>11}   {wanted}" for what, v, wanted in promises(report)]
    return "\n".join([*lines, "", json.dumps(report["facts"])])


def row_of(name: str, values: dict[str, Any]) -> str:
    return f"{name:<8}" + "".join(
        shown(values.get(column)).rjust(11) for column in (*COLUMNS, *RATIOS)
    )


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def environment() -> dict[str, Any]:
    """Returns what the numbers depend on, besides the file and the cores."""
    facts = {"cpu": platform.processor(), "amazon_desc": amazon_desc.__version__}
    facts["python"] = platform.python_version()
    with suppress(OSError, IndexError):
        facts["cpu"] = Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0][3:]
    with suppress(OSError):
        command = ["git", "-C", str(QLORA.parent), "describe", "--always", "--dirty"]
        facts["commit"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    for package in PACKAGES:
        with suppress(ImportError):  # PackageNotFoundError is one
            facts[package] = version(package)
    return facts


if __name__ == "__main__":
    sys.exit(main())
