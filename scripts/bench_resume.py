"""Kills small runs again and again, and compares what they end with to a run that nobody touched.

In: how many trials, and which fault. Out: a line a fault (trials, failures, what was met) and, with
--json FILE, the same as JSON; exit code 1 if any trial failed. A trial is one run folder: it is
started, hit by the fault at a random moment, started again with the same command, and so on, until
it is left to finish. Then it predicts, and is hit as well. What counts as equal is equal in every
bit: adapter, weights, optimizer, schedule and random states of the last checkpoint, metrics.json,
the losses in TensorBoard, and the file of descriptions. The runs: LoRA dropout, accumulation, two
epochs, validations in between, none or two loader processes as chance has it at every start.

    python scripts/bench_resume.py --fault kill --trials 300
    python scripts/bench_resume.py --fault kill --trials 50 --devices 2

With --devices 2 a fit is two processes on the CPU and the one that starts them, and what is hit is
all of them or one, as chance has it; then all have to end by themselves.

kill      SIGKILL of all its processes at any moment
writing   SIGKILL in the middle of writing a checkpoint
signal    SIGTERM or SIGINT at any moment, which must end it with 143 or 130
damage    SIGKILL, and a bit flipped or the end cut off in the newest checkpoint
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from forked_commands import Run, fork_several, have_ended, import_once

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ("kill", "writing", "signal", "damage")
OPTIONS = [
    *("--config", str(ROOT / "configs/quickstart.yaml"), "--trainer.enable_progress_bar=false"),
    *("--data.num_products=160", "--data.row_tokens=256", "--data.num_scored=6"),
    *("--data.validation_fraction=0.1", "--data.test_fraction=0"),
    *("--data.rows_per_step=4", "--data.batch_size=2", "--trainer.val_check_interval=5"),
    *("--data.generation_batch_size=2", "--model.decoding.max_new_tokens=6", "--model.lora.r=4"),
    *("--model.lora.dropout=0.1", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"),
    *("--checkpoint.every_n_steps=2",),
]
OF_SEVERAL = ("--trainer.accelerator=cpu", "--data.batch_size=1", "--data.num_products=80")
TITLES = [f"{colour} {item}" for item in ("Mug", "Lamp", "Desk") for colour in ("Red", "Teal")]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: 137}
LEAVING_SECONDS = 60


def run_in(folder: Path, command: str, num_workers: int, devices: int = 1) -> Run:
    titles = [f"--data.titles={folder.parent / 'titles.txt'}"] * (command == "predict")
    several = [*OF_SEVERAL, f"--trainer.devices={devices}"] * (command == "fit" and devices > 1)
    where = [
        f"--trainer.default_root_dir={folder}",
        f"--data.corpora={folder.parent / 'corpora'}",
        f"--data.num_workers={num_workers}",
    ]
    return Run([command, *OPTIONS, *several, *where, *titles], folder.with_suffix(".log"))


class Trial(NamedTuple):
    """What happened to one run folder."""

    failures: list[str]
    met: Counter[str]


def outcome(folder: Path) -> dict[str, str]:
    """Returns a sha256 of everything that must not depend on how often a run was interrupted."""
    from amazon_desc.run.logger import read_scalars

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    parts = files_outcome(folder)
    curves = read_scalars(folder / "tensorboard")
    for name in ("train/loss", "validation/loss"):
        parts[name] = str([(point.step, point.value) for point in curves[name]])
    return parts


def files_outcome(folder: Path) -> dict[str, str]:
    """Returns a sha256 of all that but the curves."""
    import torch

    newest = max((folder / "checkpoints").glob("*.ckpt"))
    checkpoint = torch.load(newest, map_location="cpu", weights_only=True)
    parts = {
        "step": newest.name,
        **{
            key: sha256(bytes_of(checkpoint[key]))
            for key in ("state_dict", "optimizer_states", "lr_schedulers", "random_states")
        },
        "position": json.dumps(checkpoint["DescriptionData"]),
        "progress": json.dumps(progress_of(checkpoint), sort_keys=True),
        "best": json.dumps(checkpoint["callbacks"]["BestAdapter"]),
    }
    predictions = "predictions/titles.txt.jsonl"
    scored = "scored/validate.jsonl"
    for name in ("adapter/adapter_model.safetensors", "metrics.json", scored, predictions):
        parts[name] = sha256((folder / name).read_bytes())
    return parts


def progress_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns what Lightning counts of the training; a validation may well run twice."""
    loop = checkpoint["loops"]["fit_loop"]
    return {name: counts for name, counts in loop.items() if "val_loop" not in name}


def bytes_of(value: Any) -> bytes:
    """Returns bytes that are the same only for the same values in the same structure."""
    import torch

    if isinstance(value, torch.Tensor):
        parts = [str((value.dtype, value.shape)).encode(), value.contiguous().numpy().tobytes()]
    elif isinstance(value, dict):
        parts = [bytes_of(part) for item in value.items() for part in item]
    elif isinstance(value, (list, tuple)):
        parts = [bytes_of(part) for part in value]
    else:
        parts = [repr(value).encode()]
    head = f"{type(value).__name__} {[len(part) for part in parts]}".encode()
    return head + b"".join(parts)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return [str(f.relative_to(folder)) for f in folder.rglob(".*")]


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step=*.ckpt"))


def is_finished(folder: Path) -> bool:
    record = folder / "run.json"
    return record.is_file() and "finished" in json.loads(record.read_text())


def is_written(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".tmp-*"))


def damage(file: Path, chance: random.Random) -> str:
    """Flips one bit of a file, or cuts it, anywhere."""
    data = bytearray(file.read_bytes())
    if chance.random() < 0.5:
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        kind = "bit flips"
    else:
        del data[chance.randrange(len(data)) :]
        kind = "cuts"
    file.write_bytes(data)
    return kind


def hit(
    run: Run,
    fault: str,
    folder: Path,
    chance: random.Random,
    seconds: float,
    is_several: bool = False,
) -> Trial:
    """Lets a run go on for a while, and then the fault happens, unless it has finished."""
    failures, met = [], Counter[str]()
    if fault == "writing":
        end = time.monotonic() + 2 * seconds
        wanted = chance.randrange(3)  # the first, second or third write from here
        while time.monotonic() < end and wanted >= 0:
            while time.monotonic() < end and not is_written(folder):
                if (code := run.wait(0.001)) is not None:
                    return ended_by_itself(code)
            wanted -= 1
            if wanted >= 0:
                while time.monotonic() < end and is_written(folder):
                    time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.004))
    else:
        code = run.wait(chance.uniform(0.05, seconds))
        if code is not None:
            return ended_by_itself(code)
    number = chance.choice([signal.SIGTERM, signal.SIGINT]) if fault == "signal" else signal.SIGKILL
    processes = run.processes()
    alone = chance.choice([None, *processes]) if is_several else None
    try:
        met["in a write"] += is_written(folder)
        if alone is None:
            run.send(number)
        else:
            os.kill(alone, number)
            met["one of several"] += 1
    except ProcessLookupError:
        return Trial([], Counter(finished=1))
    code = run.wait(LEAVING_SECONDS)
    if code is None:
        run.send(signal.SIGKILL)
        failures.append(f"still running {LEAVING_SECONDS} s after {number!r}")
    elif code not in (CODES[number], 0, -number):
        failures.append(f"exit code {code} after {number!r}")
    if not have_ended(processes, LEAVING_SECONDS):
        failures.append(f"a process is left after {number!r}")
    met["signals" if fault == "signal" else "kills"] += 1
    if fault == "damage" and not is_finished(folder) and len(files := checkpoints(folder)) > 1:
        met[damage(files[-1], chance)] += 1
    return Trial(failures, met)


def ended_by_itself(code: int) -> Trial:
    return Trial([] if code == 0 else [f"exit code {code}"], Counter(finished=1))


def trial(
    number: int,
    fault: str,
    options: argparse.Namespace,
    place: Path,
    expected: dict[str, str],
    seconds: float,
) -> Trial:
    chance = random.Random(f"{fault} {number}")
    folder = place / f"{fault}{number}"
    failures, met = [], Counter[str]()
    for command, times, length in (("fit", options.kills, seconds), ("predict", 2, seconds / 3)):
        for _ in range(times):
            run = run_in(folder, command, chance.choice([0, 2]), options.devices)
            how = fault if command == "fit" or fault == "signal" else "kill"
            is_several = command == "fit" and options.devices > 1
            happened = hit(run, how, folder, chance, length, is_several)
            failures += happened.failures
            met += happened.met
        code = run_in(folder, command, chance.choice([0, 2]), options.devices).wait(120)
        if code != 0:
            failures.append(f"{command} at last: exit code {code}, see {folder}.log")
            return Trial(failures, met)
    found = outcome(folder)
    failures += [f"other {name}" for name in expected if found[name] != expected[name]]
    failures += [f"left over: {name}" for name in leftovers(folder)]
    if not failures:
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()
    return Trial(failures, met)


def trials(options: argparse.Namespace, place: Path) -> Iterator[tuple[str, Trial]]:
    (place / "titles.txt").write_text("\n".join(TITLES) + "\n")
    untouched = place / "untouched"
    started = time.monotonic()
    fit = (untouched, "fit", 0, options.devices)
    assert run_in(*fit).wait() == 0, untouched.with_suffix(".log")
    shutil.rmtree(untouched)  # it has prepared the data, which takes a while
    started = time.monotonic()
    assert run_in(*fit).wait() == 0
    seconds = time.monotonic() - started
    assert run_in(untouched, "predict", 0).wait() == 0
    expected = outcome(untouched)
    print(f"untouched: {seconds:.1f} s, {expected['step']}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [
            (fault, pool.submit(trial, n, fault, options, place, expected, seconds))
            for fault in options.fault
            for n in range(options.trials)
        ]
        for fault, job in jobs:
            yield fault, job.result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", action="append", choices=FAULTS, help="default: all")
    parser.add_argument("--trials", type=int, default=20, help="run folders a fault")
    parser.add_argument("--kills", type=int, default=4, help="times that each is hit")
    parser.add_argument("--devices", type=int, default=1, help="processes of a fit, on the CPU")
    parser.add_argument("--jobs", type=int, default=2, help="run folders at a time")
    parser.add_argument("--place", type=Path, help="where the run folders are; default: temporary")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args(arguments)
    options.fault = options.fault or list(FAULTS)
    import_once()
    if options.devices > 1:
        fork_several()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        for fault, done in trials(options, place):
            result = results.setdefault(fault, {"trials": 0, "failed": 0, "met": Counter()})
            result["trials"] += 1
            result["failed"] += bool(done.failures)
            result["met"] += done.met
            for failure in done.failures:
                print(f"{fault}: {failure}", flush=True)
    for fault, result in results.items():
        met = ", ".join(f"{number} {name}" for name, number in sorted(result["met"].items()))
        equal = result["trials"] - result["failed"]
        print(f"{fault}: {equal} of {result['trials']} equal in every bit ({met})")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["failed"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
