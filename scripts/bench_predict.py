"""Speed of writing texts: ours beside transformers' `generate` and vLLM, in turn, on this machine.

    python scripts/bench_predict.py --run runs/quickstart
    python scripts/bench_predict.py --base tinyllama --titles 8192 --vllm-python vllm/bin/python

All sides have the same base in 4 bits, LoRA, prompts as ids and number of new tokens, and write
greedily. Merged weights are made by the package, in the precision of the products. `generate` gets
the prompts sorted by length, but as predict called it once, in the line of 32 titles. Loading,
merging, compiling, capturing and a first batch are left out of the speed and shown apart; before
and after its turn a line has no memory. The best of the trials counts. Nothing is downloaded.

Peak memory is that of tensors on a card, the base among them; on a CPU that of the process, which
has the base. Busy: the share of the fused engine's slots that added a token. Same texts: the share
of texts that equal ours, which is 100 % in float32; in bf16 rounding decides many.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench_predict_table import (
    CARD_SIZES,
    CPU_SIZES,
    SIDES,
    Line,
    all_lines,
    chosen,
    compared,
    completed,
    conclusions,
    facts,
    heading,
    load,
    others,
    row_of,
)

if TYPE_CHECKING:
    from bench_predict_task import Bench

VLLM = Path(__file__).with_name("bench_predict_vllm.py")
CPU_TITLES, CARD_TITLES = 256, 8192


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
    import torch

    has_card = torch.cuda.is_available()
    sizes = options.batch_sizes or (CARD_SIZES if has_card else CPU_SIZES)
    every = all_lines(has_card, sizes, options.at_a_time, options.set)
    lines = chosen(every, options.only)
    if not lines:
        names = "; ".join((*SIDES, *(line.name for line in every)))
        parser.error(f"--only {options.only}: wanted some of {names}")
    if options.ends is None:
        options.ends = options.run is not None  # random weights end by chance
    with TemporaryDirectory(prefix="bench_predict-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return run(options, lines, folder)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="tiny", help="tiny, tinyllama, gemma3-4b, or a folder")
    parser.add_argument(
        "--run", type=Path, help="a finished run's base, adapter and prompt instead"
    )
    some = "how many, random or held out; or a file of them (default: 256, on a card 8192)"
    parser.add_argument("--titles", metavar="N|FILE", help=some)
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens of a text at most")
    ends = "whether texts may end before that (default: those of a run)"
    parser.add_argument("--ends", action=argparse.BooleanOptionalAction, help=ends)
    parser.add_argument("--batch-sizes", type=sizes_in, metavar="N,N", help="of generate")
    ours = "further texts at a time of ours"
    parser.add_argument("--at-a-time", type=sizes_in, default=[], metavar="N,N", help=ours)
    more = "a line more of ours, written with 'temperature=0.7 top_p=0.9'; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SETTINGS", help=more)
    batches = "all but the fused engine and vLLM write for so many batches only, not for all titles"
    parser.add_argument("--batches", type=int, metavar="N", help=batches)
    parser.add_argument("--trials", type=int, default=3, help="turns of each line; the best counts")
    only = f"lines by side or a part of their names, as 'plain; merged, static'. {', '.join(SIDES)}"
    parser.add_argument("--only", metavar="NAMES", help=only)
    parser.add_argument("--vllm-python", default=sys.executable, help="a Python that has vLLM")
    parser.add_argument("--folder", type=Path, help="keeps a random base; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    return parser


def sizes_in(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",")]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"wanted numbers of at least 1, found {text}")
    return sizes


def run(options: argparse.Namespace, lines: Sequence[Line], folder: Path) -> int:
    """Takes turns, and prints and writes what is found. 1: other texts were written than ours."""
    import torch

    began = time.perf_counter()
    bench = bench_of(options, folder)
    found = {
        "device": name_of(bench.device),
        "base": str(options.run or options.base),
        "titles": len(bench.prompts),
        "precision": str(bench.dtype).removeprefix("torch."),
        "loading the base": f"{time.perf_counter() - began:.1f} s",
    }
    report: dict[str, Any] = {"facts": facts(options, found), "lines": []}
    for name, value in report["facts"].items():
        print(f"{name}: {value}")
    trials: dict[str, list[dict[str, Any]]] = {line.name: [] for line in lines}
    texts: dict[str, Any] = {}
    errors: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for turn in range(options.trials):
        for line in lines:
            if line.name not in errors and not (turn and line.side == "vllm"):
                try:
                    of_line, texts[line.name] = turn_of(line, bench, options, folder)
                    trials[line.name] += of_line
                except NotWritten as error:
                    errors[line.name] = str(error)
                except Exception as error:  # a peer's fault is its line; ours is ours to mend
                    if line.is_ours:
                        raise
                    errors[line.name] = f"{type(error).__name__}: {error}".splitlines()[0]
                print(".", end="", file=sys.stderr, flush=True)
                report["lines"] = rows = compared(rows_of(lines, trials, errors), texts)
                report["facts"]["load at the end"] = load()
                if options.json:
                    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    is_float32 = bench.dtype == torch.float32
    print(f"\n{heading()}", *map(row_of, rows), *conclusions(rows, is_float32), sep="\n")
    print(f"load at the end: {load()}")
    return int(is_float32 and bool(others(rows)))


def rows_of(
    lines: Sequence[Line],
    trials: Mapping[str, Sequence[Mapping[str, Any]]],
    errors: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Returns what is found until now; a line that failed once has no numbers."""
    failed = [
        {**line._asdict(), "error": errors[line.name]} for line in lines if line.name in errors
    ]
    measured = [line for line in lines if trials[line.name] and line.name not in errors]
    return [completed(line, trials[line.name]) for line in measured] + failed


def bench_of(options: argparse.Namespace, folder: Path) -> Bench:
    import torch
    from bench_predict_task import of_base, of_run

    from amazon_desc.generation.decoding import GREEDY

    num = options.new_tokens
    settings = replace(GREEDY, max_new_tokens=num, min_new_tokens=0 if options.ends else num)
    default = str(CARD_TITLES if torch.cuda.is_available() else CPU_TITLES)
    titles = options.titles or default
    if options.run:
        return of_run(options.run, titles, settings)
    return of_base(options.base, folder, titles, settings)


def name_of(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def turn_of(
    line: Line, bench: Bench, options: argparse.Namespace, folder: Path
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Returns what writing took, each time, and the texts."""
    from bench_predict_work import measure

    if line.side == "vllm":
        return by_vllm(line, bench, options, folder)
    found, texts = measure(bench, line, options.batches)
    return [found], texts


# vLLM, in a process of its own


class NotWritten(Exception):
    """Why there are no texts of vLLM."""


def by_vllm(
    line: Line, bench: Bench, options: argparse.Namespace, folder: Path
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Returns all trials of one process, and its texts.

    Raises:
        NotWritten: it is not installed, or failed.
    """
    python = options.vllm_python
    asked = subprocess.run([python, "-c", "import vllm"], capture_output=True, check=False)
    if asked.returncode:
        raise NotWritten("not installed")
    from bench_predict_work import count_tokens, free_memory, save_merged

    from amazon_desc.generation.texts import text_of

    given, result = folder / "vllm.task.json", folder / "vllm.result.json"
    result.unlink(missing_ok=True)
    task = {
        "model": str(save_merged(bench, folder / "merged")),
        "dtype": str(bench.dtype).removeprefix("torch."),
        "prompts": [prompt.ids for prompt in bench.prompts],
        "longest": max(len(prompt.ids) for prompt in bench.prompts),
        "new_tokens": options.new_tokens,
        "ends": options.ends,
        "end_ids": bench.end_ids,
        "at_a_time": line.at_a_time,
        "num_warm_up": 64,
        "trials": options.trials,
        "started": time.time(),
    }
    given.write_text(json.dumps(task), encoding="utf-8")
    free_memory(bench.device)
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    command = [python, str(VLLM), str(given), str(result)]
    ended = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = [text for text in ended.stderr.splitlines() if text.strip()][-1:]
        raise NotWritten(f"ended with code {ended.returncode}: {' '.join(last)}")
    found = json.loads(result.read_text(encoding="utf-8"))
    end_ids = bench.end_ids if options.ends else []
    texts = [text_of(ids, end_ids) for ids in found["ids"]]
    numbers = {"num_titles": len(texts), "num_tokens": count_tokens(texts)}
    numbers["at_a_time"] = line.at_a_time
    return [{**numbers, **trial} for trial in found["trials"]], texts


if __name__ == "__main__":
    sys.exit(main())
