"""Training speed on this machine: `amazon_desc fit` beside its peers, each in its own process.

    pip install -e ".[bench]" liger-kernel
    python scripts/bench_train.py --json bench_train.json

All train LoRA (rank 16, on all linear layers) on the same NF4 base and the same examples. The base
has TinyLlama's shape and random weights, and the examples have the real data set's lengths: nothing
is downloaded. Ours is measured through the whole program, from its TensorBoard log, with packing,
logging, clipping and schedule, without validation. `bare` is our step in a plain loop: the trainer
costs the difference. Peers that are not installed, or fail, are listed with the reason.

Tokens are counted without padding, in the second half of a line's steps. The limit is what the card
makes of a large matrix product; a token takes 4 flop a weight of the linear layers and the head.
`ready` counts from the start of the process to the first window of steps at full speed; for a peer
to the end of its first step. `we are`: by our line of as many tokens a step and as many cards.

With `--devices 2` ours, TRL and TRL with Liger run on two cards of this machine, too, each with as
many tokens a card as on one (peers by torchrun, as their manuals say). `of one card`: how many
times as fast as on one; the share of the limit is that of all cards.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from bench_train_table import Line, completed, facts, heading, overheads, row_of

ROOT = Path(__file__).resolve().parents[1]
QLORA = ROOT / "configs" / "qlora.yaml"
NUM_WINDOWS = 6  # speed is logged as often as the reference run logs, but so many times at least
# From this share of the later speed on, a window counts as one at full speed.
FULL_SPEED = 0.8
PEERS = {"trl": ("trl",), "liger": ("trl", "liger_kernel"), "unsloth": ("unsloth", "trl")}
ERROR = re.compile(r"^\s*(\w[\w.]*(Error|Exception|Exit|Interrupt)\b|error:)")
SHAPES = ("tinyllama", "gemma3-4b", "tiny")

LINES = (
    Line("ours-2k", "ours", 750),
    Line("ours-2k-dropout", "ours", 750, dropout=0.05),
    Line("ours-16k", "ours", 200, rows=8),
    Line("ours-16k-dropout", "ours", 200, rows=8, dropout=0.05),
    Line("ours-plain", "ours", 40, kernels="plain"),
    Line("bare-2k", "bare", 200),
    Line("bare-16k", "bare", 60, rows=8),
    # The hyper-parameters of the notebooks that this project is for, with TRL's own defaults.
    Line("trl-reference", "trl", 8, rows=1, accumulate=8, checkpointing=True),
    Line("trl-8-rows", "trl", 30, rows=8),
    Line("liger-64-rows", "liger", 16, rows=64),
    Line("unsloth-8-rows", "unsloth", 30, rows=8),
    Line("unsloth-64-rows", "unsloth", 16, rows=64),
)
ON_SEVERAL = ("ours", "trl", "liger")
SIDES = tuple(dict.fromkeys(line.side for line in LINES))


def main(arguments: Sequence[str] | None = None) -> int:
    if arguments is None and sys.argv[1:2] == ["--work"]:  # a process of ours
        return work(*sys.argv[2:])
    parser = build_parser()
    options = parser.parse_args(arguments)
    lines = list(on_several(chosen(options.only), options.devices))
    if not lines:
        names = ", ".join((*SIDES, *(line.name for line in LINES)))
        parser.error(f"--only {options.only}: wanted some of {names}")
    with TemporaryDirectory(prefix="bench_train-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return run(options, lines, folder)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0], help="of the random base")
    parser.add_argument("--base", type=Path, help="folder of a base, instead of a random one")
    parser.add_argument("--only", help=f"lines to run, by name, or by side: {', '.join(SIDES)}")
    parser.add_argument("--devices", type=int, default=1, help="cards to run lines on, beside one")
    parser.add_argument("--steps", type=int, help="at most so many optimizer steps a line")
    parser.add_argument("--products", type=int, default=8_000, help="products to train on")
    parser.add_argument("--timeout", type=float, default=150, help="seconds a line may take")
    parser.add_argument("--folder", type=Path, help="keeps base and data; default: a temporary one")
    parser.add_argument("--unsloth-site", type=Path, help="folder of Unsloth and the TRL it wants")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    return parser


def chosen(only: str | None) -> list[Line]:
    """Returns the lines that names or sides ask for, all without any; none if one is unknown."""
    asked = set(only.split(",")) if only else set(SIDES)
    if not asked <= {*SIDES, *(line.name for line in LINES)}:
        return []
    return [line for line in LINES if {line.name, line.side} & asked]


def on_several(lines: Sequence[Line], devices: int) -> Iterator[Line]:
    """Yields each line, and those that can be on several cards once more."""
    for line in lines:
        yield line
        if devices > 1 and line.side in ON_SEVERAL and line.kernels == "auto":
            yield line.on(devices)


def run(options: argparse.Namespace, lines: Sequence[Line], folder: Path) -> int:
    """Makes the task, runs one line after the other, and prints and writes what is found."""
    task: dict[str, Any] = {"folder": str(folder), "shape": options.shape}
    task |= {"base": str(options.base.absolute()) if options.base else None}
    name = options.base.absolute().name if options.base else options.shape
    task |= {"products": str(folder / f"{name}-{options.products}.jsonl")}
    task |= {"examples": str(folder / "examples.json"), "num_products": options.products}
    first = lines[0] if lines[0].is_ours else LINES[0]
    begun = in_process("begin", {**task, "options": fit_options(task, first, 1)}, folder, None)
    if "error" in begun:
        print(f"{begun['output']}\nerror: {begun['error']}", file=sys.stderr)
        return 1
    task |= begun
    report = {"facts": facts(options, task), "lines": []}
    print(heading(report["facts"]), flush=True)
    for line in lines:
        steps = max(2, min(line.steps, options.steps or line.steps))
        found = measure(line, steps, task, options)
        report["lines"].append(completed(line, steps, found, report["lines"], task))
        print(row_of(report["lines"][-1]), flush=True)
        report["overhead"] = overheads(report["lines"])
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in report["lines"]:
        if row.get("note"):
            print(f"{row['name']:<18}{row['note']}")
    for name, share in report["overhead"].items():
        print(f"The trainer adds {share:.1%} to a step of {name}.")
    return 0


# One line, in a process of its own


def measure(
    line: Line, steps: int, task: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Returns what was found, or `error` and `output`."""
    folder = Path(task["folder"])
    site = options.unsloth_site if line.side == "unsloth" else None
    if line.side == "ours":
        return through_fit(line, steps, task, options.timeout)
    if line.side == "bare":
        details = {**task, "options": fit_options(task, line, steps), "steps": steps}
        return in_process("bare", details, folder, options.timeout)
    if missing := [name for name in PEERS[line.side] if not is_installed(name, site)]:
        return {"error": f"not installed: {', '.join(missing)}", "output": ""}
    if not task["limit"]:
        return {"error": "needs a GPU", "output": ""}
    details = {**task, **line._asdict(), "steps": steps, "liger": line.side == "liger"}
    details["side"] = "unsloth" if line.side == "unsloth" else "trl"
    return in_process("peer", details, folder, options.timeout, site)


def is_installed(name: str, site: Path | None) -> bool:
    is_beside = site is not None and (site / name).is_dir()
    return is_beside or importlib.util.find_spec(name) is not None


def fit_options(task: Mapping[str, Any], line: Line, steps: int) -> list[str]:
    """Returns the options of our program for a line; whoever prepares its data needs them too."""
    folder = Path(task["folder"])
    log_every = yaml.safe_load(QLORA.read_text(encoding="utf-8"))["trainer"]["log_every_n_steps"]
    options = {
        "--config": QLORA,
        "--model.backbone": task["base"],
        "--model.lora.dropout": line.dropout,
        "--model.kernels": line.kernels,
        "--data.train_file": task["products"],
        "--data.corpora": folder / "corpora",
        "--data.prepare_workers": 0,
        "--data.validation_fraction": 0.02,  # of a few hundred products there have to be some
        "--data.test_fraction": 0.02,
        "--data.rows_per_step": line.rows * line.devices,
        "--data.batch_size": line.rows,
        "--trainer.default_root_dir": folder / "runs" / line.name,
        "--trainer.devices": line.devices,
        "--trainer.max_steps": steps,
        "--trainer.max_epochs": 1000,
        "--trainer.log_every_n_steps": max(1, min(log_every, steps // NUM_WINDOWS)),
        "--trainer.limit_val_batches": 0,
        "--trainer.enable_progress_bar": "false",
        "--checkpoint.every_n_steps": 10 * steps,
    }
    return [f"{name}={value}" for name, value in options.items() if value is not None]


def through_fit(
    line: Line, steps: int, task: Mapping[str, Any], timeout: float | None
) -> dict[str, Any]:
    """Runs `fit` and reads its log."""
    run_folder = Path(task["folder"], "runs", line.name)
    shutil.rmtree(run_folder, ignore_errors=True)
    started = time.time()
    command = [sys.executable, "-m", "amazon_desc", "fit", *fit_options(task, line, steps)]
    card = 0 if line.devices == 1 else None
    failure, output = call(command, Path(task["folder"]), timeout, card=card)
    if failure:
        return {"error": failure, "output": output}
    from amazon_desc.run.logger import read_scalars

    kernels = re.search(r"^Kernels: .*$", output, re.MULTILINE)
    curves = read_scalars(run_folder / "tensorboard")
    windows = [(point.wall_time, point.value) for point in curves["train/tokens_per_second"]]
    found = outcome(windows, started)
    tokens = line.rows * line.devices * task["row_tokens"]
    found["ms_per_step"] = tokens / found["tokens_per_second"] * 1e3
    peaks = [point.value for point in curves.get("train/peak_memory_gib", [])]
    return {**found, "peak_gib": max(peaks, default=None), "note": kernels and kernels[0]}


def outcome(windows: Sequence[tuple[float, float]], started: float) -> dict[str, Any]:
    """Returns the median speed of the later half, and when the first window at that speed began.

    windows = [(107, 10), (108, 90), (109, 100), (110, 102)], started = 100

        tokens_per_second = 101     ready_seconds = 107 - 100 = 7

    Args:
        windows: when each one ended, in seconds, and its speed
    """
    speeds = [speed for _, speed in windows]
    speed = median(speeds[len(speeds) // 2 :])
    first = next(i for i, found in enumerate(speeds) if found >= FULL_SPEED * speed)
    ready, _ = windows[max(0, first - 1)]
    return {"tokens_per_second": speed, "ready_seconds": ready - started}


def in_process(
    what: str,
    task: dict[str, Any],
    folder: Path,
    timeout: float | None,
    site: Path | None = None,
) -> dict[str, Any]:
    """Does a part of bench_train_work.py; returns its numbers, or `error` and `output`."""
    given, result = folder / f"{what}.task.json", folder / f"{what}.result.json"
    result.unlink(missing_ok=True)
    given.write_text(json.dumps({**task, "started": time.time()}), encoding="utf-8")
    devices = task.get("devices", 1)
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    together = several if devices > 1 else []
    command = [sys.executable, *together, __file__, "--work", what, str(given), str(result)]
    failure, output = call(command, folder, timeout, site, card=0 if devices == 1 else None)
    if failure:
        return {"error": failure, "output": output}
    return json.loads(result.read_text(encoding="utf-8"))


def work(what: str, given: str, result: str) -> int:
    import bench_train_work

    does = {"begin": bench_train_work.begin, "bare": bench_train_work.bare}
    does["peer"] = bench_train_work.peer
    found = does[what](json.loads(Path(given).read_text(encoding="utf-8")))
    if os.environ.get("RANK", "0") == "0":
        Path(result).write_text(json.dumps(found), encoding="utf-8")
    return 0


def call(
    command: list[str],
    folder: Path,
    timeout: float | None,
    site: Path | None = None,
    *,
    card: int | None = 0,
) -> tuple[str | None, str]:
    """Runs a command in `folder`; returns what went wrong, or None, and the end of its output.

    Args:
        card: the one that it sees, of those seen here; None: all. TRL refuses to be a single
            process that sees several
    """
    search_path = [site, Path(__file__).parent, ROOT, *map(os.path.abspath, filter(None, sys.path))]
    settings = {
        "PYTHONPATH": os.pathsep.join(str(path) for path in search_path if path is not None),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if card is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        settings["CUDA_VISIBLE_DEVICES"] = seen.split(",")[card] if seen else str(card)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        failure = None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code, failure = 1, f"took longer than {timeout:g} s"
        finally:
            with suppress(OSError):  # all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        output = log.read()
    if code:
        failure = failure or last_error(output) or f"ended with code {code}"
    return failure, output[-6000:]


def last_error(output: str) -> str | None:
    """Returns the last line that names an error, or just the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return ([*lines, *errors] or [None])[-1]


if __name__ == "__main__":
    sys.exit(main())
