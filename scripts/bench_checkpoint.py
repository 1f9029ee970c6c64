"""Times saving a checkpoint of the reference run: with checksum and verification, and without.

In: sizes and where to write. Out: a table, medians of several rounds in turn, and, with --json
FILE, the same as JSON. The checkpoint holds random numbers in the shapes of TinyLlama v1.1's LoRA
and of Adam's two moments, 151 MB at rank 16. Each line does what the one above it does, and more:

torch.save   to a file, as trainers do
on the disk  and flushed to it
ours         beside its place, with a checksum, flushed, read back from the disk, and renamed;
             training waits for a copy only, and the rest goes on in the background

What the checking costs is what training waits for `ours` less `torch.save`, beside what 2,000
optimizer steps of 2,048 tokens take at --tokens_per_second: 41 s at 100,000.

    python scripts/bench_checkpoint.py --folder FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amazon_desc.run.checkpoints import SealedCheckpointIO

# TinyLlama v1.1: inputs and outputs of the linear layers of one block, and the number of blocks.
LINEARS = {
    "q_proj": (2048, 2048),
    "k_proj": (2048, 256),
    "v_proj": (2048, 256),
    "o_proj": (2048, 2048),
    "gate_proj": (2048, 5632),
    "up_proj": (2048, 5632),
    "down_proj": (5632, 2048),
}
NUM_BLOCKS = 22
STEPS, TOKENS_A_STEP = 2000, 2048


def checkpoint_of(rank: int) -> dict[str, Any]:
    """Returns weights and moments as a run of that rank has them; its small parts are left out."""
    weights = {}
    for block in range(NUM_BLOCKS):
        for name, (num_in, num_out) in LINEARS.items():
            weights[f"{block}.{name}.lora_A"] = torch.randn(rank, num_in)
            weights[f"{block}.{name}.lora_B"] = torch.randn(num_out, rank)
    moments = {
        number: {"exp_avg": torch.randn_like(weight), "exp_avg_sq": torch.rand_like(weight)}
        for number, weight in enumerate(weights.values())
    }
    return {"state_dict": weights, "optimizer_states": [{"state": moments}], "global_step": STEPS}


def save_plainly(checkpoint: dict[str, Any], path: Path) -> None:
    torch.save(checkpoint, path)


def save_on_the_disk(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def measure(folder: Path, rank: int, rounds: int) -> dict[str, float]:
    """Returns the medians of seconds; `in the background` is what ours still takes then."""
    path = folder / f"step={STEPS:08d}.ckpt"
    seconds: dict[str, list[float]] = {}

    def timed(name: str, save: Callable[..., None], *arguments: Any) -> None:
        started = time.perf_counter()
        save(*arguments)
        seconds.setdefault(name, []).append(time.perf_counter() - started)

    for _ in range(rounds):
        files, checkpoint = SealedCheckpointIO(), checkpoint_of(rank)
        for name, save in (
            ("torch.save", save_plainly),
            ("on the disk", save_on_the_disk),
            ("ours", files.save_checkpoint),
        ):
            os.sync()  # nothing is left to write from before
            timed(name, save, checkpoint, path)
            if name == "ours":
                timed("in the background", files.finish)
            path.unlink()
    return {name: statistics.median(times) for name, times in seconds.items()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--rank", type=int, default=16, help="rank of LoRA")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens_per_second", type=float, default=100_000)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds = measure(Path(folder), options.rank, options.rounds)
    training = STEPS * TOKENS_A_STEP / options.tokens_per_second
    checking = seconds["ours"] - seconds["torch.save"]
    for name, value in seconds.items():
        print(f"{name:17} {value:.3f} s")
    print(f"checking: {checking:.3f} s, {checking / training:.2%} of {training:.0f} s of training")
    if options.json:
        result = {"seconds": seconds, "checking": checking, "share": checking / training}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
