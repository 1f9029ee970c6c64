"""Training speed on the CPU: `amazon_desc fit` beside TRL's SFTTrainer, in turn.

    pip install -e ".[bench]"  &&  python scripts/bench_cpu.py --json bench_cpu.json

Both train the quickstart: the same tiny 4-bit base, LoRA, examples, targets and number of optimizer
steps of about 2,048 tokens. Each run has its own process. Out: tokens per second (padding left out;
from the end of the warm-up steps to the last step), medians, and ratios to TRL's layouts.
Run it on an idle machine: whatever else computes counts against both, but not equally.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from lightning.pytorch.callbacks import Callback

from amazon_desc.data.corpus.packing import Row
from amazon_desc.data.corpus.workers import num_cores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amazon_desc.data.datamodule import DescriptionData

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
OURS = "amazon_desc"
# Memory is allotted and caches fill in these steps; they are not measured.
NUM_WARMUP_STEPS = 5
# The reported loss is the mean over so many steps at the end. TRL logs a mean over LOG_STEPS.
NUM_LOSS_STEPS, LOG_STEPS = 20, 10
CLIPPED_NORM = 1.0
SEED = 1234


class Layout(NamedTuple):
    """How TRL gets the examples of a step."""

    what: str
    is_packed: bool = True
    keeps_rows: bool = False
    """the rows of a batch are not laid end to end"""


# TRL's packing lays the rows of a batch end to end, whatever `padding_free` says: one sequence
# under one mask. Packed rows beside each other need a collator that is not TRL's.
LAYOUTS = {
    "TRL, end to end": Layout("4 packed rows of 512 as one sequence: TRL's own way"),
    "TRL, rows": Layout("4 packed rows of 512 beside each other", keeps_rows=True),
    "TRL, not packed": Layout("examples of similar length, padded", is_packed=False),
}


class Steps(NamedTuple):
    """What a run wrote down: one entry for each optimizer step, but for TRL's `losses`."""

    ends: list[float]
    """when the step ended, in seconds of any clock"""
    num_tokens: list[int]
    """tokens of the step that are no padding"""
    losses: list[float]
    """mean losses in nats a target token; all of them over equally many steps"""
    loss_steps: int
    """steps that each of `losses` is the mean of"""

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(self._asdict()), encoding="utf-8")


class Run(NamedTuple):
    """The outcome of one run."""

    side: str
    tokens_per_second: float
    last_loss: float
    seconds: float
    num_tokens: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    if options.trl_layout:  # the process of one TRL run
        train_with_trl(options.trl_layout, options.folder, options.steps, options.result)
        return 0
    if importlib.util.find_spec("trl") is None:
        print('error: TRL is not installed: pip install -e ".[bench]"', file=sys.stderr)
        return 2
    runs = []
    with TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            for side in (OURS, *LAYOUTS):
                run = measure(side, Path(folder, f"{turn} {side}"), options.steps, options.threads)
                print(f"run {turn + 1}  {row_of(run)}", flush=True)
                runs.append(run)
    summary = summarize(runs)
    print("\n" + table(summary))
    if options.json:
        written = report(runs, summary, options.steps, options.threads)
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=num_steps, default=60, help="optimizer steps of a run")
    parser.add_argument("--repeats", type=positive, default=3, help="runs of each side")
    parser.add_argument(
        "--threads",
        type=positive,
        default=num_cores(),
        help="threads of each run; all cores, if not given",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    for name in ("--trl-layout", "--folder", "--result"):
        parser.add_argument(
            name, type=str if name == "--trl-layout" else Path, help=argparse.SUPPRESS
        )
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, got {number}")
    return number


def num_steps(text: str) -> int:
    number, least = int(text), NUM_WARMUP_STEPS + NUM_LOSS_STEPS
    if number < least or number % LOG_STEPS:
        raise argparse.ArgumentTypeError(
            f"wanted a multiple of {LOG_STEPS} of at least {least}, got {number}"
        )
    return number


# The runs, each in its own process


def measure(side: str, folder: Path, steps: int, threads: int) -> Run:
    """Trains in a process of its own; its output is shown only if it fails."""
    folder.mkdir()
    result = folder / "steps.json"
    command = our_command if side == OURS else trl_command
    done = subprocess.run(
        command(side, folder, steps, result),
        env=environment(threads),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nerror: {side} ended with code {done.returncode}")
    return outcome(side, Steps(**json.loads(result.read_text(encoding="utf-8"))))


def environment(threads: int) -> dict[str, str]:
    search_path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def our_command(side: str, folder: Path, steps: int, result: Path) -> list[str]:
    """The command that users run, with a clock, and without validations or checkpoints."""
    options = {
        "--config": QUICKSTART,
        "--seed_everything": SEED,
        "--trainer.default_root_dir": folder / "run",
        "--data.corpora": corpora(folder),
        "--trainer.max_steps": steps,
        "--trainer.max_epochs": 1000,
        "--trainer.limit_val_batches": 0,
        "--checkpoint.every_n_steps": 10 * steps,
        "--trainer.callbacks+": f"{Path(__file__).stem}.LightningClock",
        "--trainer.callbacks.file": result,
    }
    return [
        *(sys.executable, "-m", "amazon_desc", "fit"),
        *(f"{name}={value}" for name, value in options.items()),
    ]


def trl_command(side: str, folder: Path, steps: int, result: Path) -> list[str]:
    options = {"--trl-layout": side, "--folder": folder, "--steps": steps, "--result": result}
    return [sys.executable, __file__, *(f"{name}={value}" for name, value in options.items())]


def corpora(folder: Path) -> Path:
    """The prepared examples are shared by all runs."""
    return folder.parent / "corpora"


class LightningClock(Callback):
    """Writes down when each of our steps ended, its tokens and its loss."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.steps = Steps([], [], [], loss_steps=1)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.ends.append(time.perf_counter())
        self.steps.num_tokens.append(batch.num_tokens)
        self.steps.losses.append(float(pl_module.step.mean_loss()))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.steps.write(self.file)


# TRL's side


def train_with_trl(side: str, folder: Path, steps: int, result: Path) -> None:
    """Trains the quickstart with SFTTrainer and writes down its steps."""
    from datasets import Dataset
    from transformers import TrainerCallback, set_seed
    from trl import SFTTrainer

    ends: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    settings = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    data = opened_data(settings["data"], corpora(folder))
    set_seed(SEED)  # LoRA is drawn before the trainer sets its own
    examples = Dataset.from_list(list(examples_of(data.opened.rows())))
    trainer = SFTTrainer(
        model=model_with_lora(settings["model"]),
        args=trl_options(LAYOUTS[side], settings, steps, folder, examples),
        train_dataset=examples,
        processing_class=data.tokenizer,
        callbacks=[Clock()],
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL makes LoRA on a quantised base bfloat16, ours is float32
            parameter.data = parameter.data.float()
    batches = trainer.args.gradient_accumulation_steps
    assert steps * batches <= len(trainer.train_dataset), "an epoch's last step may be smaller"
    collator = CountingCollator(trainer.data_collator, LAYOUTS[side].keeps_rows)
    trainer.data_collator = collator
    trainer.train()
    # The trainer may have fetched more batches than it trained on.
    tokens = [sum(collator.num_tokens[i * batches : (i + 1) * batches]) for i in range(steps)]
    Steps(ends, tokens, losses, LOG_STEPS).write(result)


def opened_data(settings: Mapping[str, Any], folder: Path) -> DescriptionData:
    from amazon_desc.data.datamodule import DescriptionData

    data = DescriptionData(**settings, corpora=str(folder))
    data.setup("fit")
    return data


def examples_of(rows: Iterable[Row]) -> Iterator[dict[str, list[int]]]:
    """Takes the examples out of packed rows, with 1 where a token is a target.

    input_ids = [1, 7, 8, 4, 2, 1, 5, 2], lengths = [5, 3], prompt_lengths = [3, 1]

        input_ids        [1, 7, 8, 4, 2]    [1, 5, 2]
        completion_mask  [0, 0, 0, 1, 1]    [0, 1, 1]
    """
    for row in rows:
        start = 0
        for length, prompt in zip(row["lengths"], row["prompt_lengths"], strict=True):
            yield {
                "input_ids": row["input_ids"][start : start + length],
                "completion_mask": [0] * prompt + [1] * (length - prompt),
            }
            start += length


def model_with_lora(settings: Mapping[str, Any]) -> PreTrainedModel:
    """Returns the base as ours is loaded, with LoRA as ours and PyTorch's own attention."""
    import torch

    from amazon_desc.model.adapter import LoraSettings, attach
    from amazon_desc.model.backbone import load_backbone
    from amazon_desc.support.hub import find_backbone

    base = find_backbone(settings["backbone"], None)
    model = load_backbone(base, "nf4", torch.float32, torch.device("cpu"))
    model.set_attn_implementation("sdpa")
    return attach(model, LoraSettings(**settings["lora"]))  # type: ignore[return-value]


def trl_options(
    layout: Layout, settings: Mapping[str, Any], steps: int, folder: Path, examples: Any
) -> Any:
    """Returns the options under which TRL does what the quickstart does."""
    from trl import SFTConfig

    from amazon_desc.training.module import DescriptionModule

    defaults = DescriptionModule()
    optimizer = settings["model"]["optimizer"]["init_args"]
    rows, row_tokens = settings["data"]["batch_size"], settings["data"]["row_tokens"]
    batch_size = rows
    if not layout.is_packed:
        batch_size = round(rows * row_tokens / mean(map(len, examples["input_ids"])))
    return SFTConfig(
        output_dir=str(folder / "trl"),
        seed=SEED,
        max_steps=steps,
        max_length=row_tokens,
        packing=layout.is_packed,
        packing_strategy="bfd",
        per_device_train_batch_size=batch_size,
        train_sampling_strategy="random" if layout.is_packed else "group_by_length",
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        learning_rate=optimizer["lr"],
        weight_decay=optimizer["weight_decay"],
        max_grad_norm=CLIPPED_NORM,
        warmup_steps=round(steps * defaults.warmup_fraction),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": defaults.final_lr_fraction},
        logging_steps=LOG_STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class CountingCollator:
    """TRL's collator; counts the tokens of each batch, and keeps packed rows apart if asked to."""

    def __init__(self, collator: Any, keeps_rows: bool) -> None:
        self.collator = collator
        self.keeps_rows = keeps_rows
        self.num_tokens: list[int] = []
        if keeps_rows:
            collator.padding_free, collator.return_position_ids = False, True

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        self.num_tokens.append(sum(len(example["input_ids"]) for example in examples))
        batch = self.collator(examples)
        if self.keeps_rows:
            # Positions restart at each example. With a mask of ones beside them the examples of a
            # row would attend to each other.
            del batch["attention_mask"]
        return batch


# The numbers


def outcome(side: str, steps: Steps) -> Run:
    """Returns the speed over the steps after the warm-up, and the mean loss of the last ones.

    With a warm-up of 2 steps:

        ends       = [7.0, 9.0, 10.0, 12.0]
        num_tokens = [100,  90,   80,  100]
        result     = (80 + 100) / (12.0 - 9.0) = 60 tokens a second
    """
    assert len(steps.ends) == len(steps.num_tokens) > NUM_WARMUP_STEPS
    seconds = steps.ends[-1] - steps.ends[NUM_WARMUP_STEPS - 1]
    num_tokens = sum(steps.num_tokens[NUM_WARMUP_STEPS:])
    last_loss = mean(steps.losses[-(NUM_LOSS_STEPS // steps.loss_steps) :])
    return Run(side, num_tokens / seconds, last_loss, seconds, num_tokens)


class Summary(NamedTuple):
    """Medians by side, TRL's fastest packed layout, and how many times as fast we are.

    `ratio_to_all` compares with all of TRL's layouts: padding can be faster than its packing.
    """

    medians: dict[str, float]
    losses: dict[str, float]
    best_trl: str
    ratio: float
    ratio_to_all: float


def summarize(runs: Sequence[Run]) -> Summary:
    sides = list(dict.fromkeys(run.side for run in runs))
    medians = {s: median(r.tokens_per_second for r in runs if r.side == s) for s in sides}
    losses = {s: median(r.last_loss for r in runs if r.side == s) for s in sides}
    theirs = [side for side in sides if side != OURS]
    packed = [side for side in theirs if LAYOUTS[side].is_packed]
    best = max(packed, key=medians.__getitem__)
    fastest = max(medians[side] for side in theirs)
    return Summary(medians, losses, best, medians[OURS] / medians[best], medians[OURS] / fastest)


def row_of(run: Run) -> str:
    return (
        f"{run.side:<24}{run.tokens_per_second:>10,.0f} tokens/s{run.last_loss:>8.3f} loss"
        f"{run.num_tokens:>10,} tokens in {run.seconds:.1f} s"
    )


def table(summary: Summary) -> str:
    lines = [f"{'median':<24}{'tokens/s':>10}{'last loss':>12}   TRL's layout"]
    for side, rate in summary.medians.items():
        layout = LAYOUTS[side].what if side in LAYOUTS else ""
        lines.append(f"{side:<24}{rate:>10,.0f}{summary.losses[side]:>12.3f}   {layout}".rstrip())
    lines.append(
        f"{OURS} is {summary.ratio:.2f} times as fast as {summary.best_trl!r}, TRL's best packed "
        f"layout, and {summary.ratio_to_all:.2f} times as fast as its fastest of all"
    )
    return "\n".join(lines)


def report(runs: Sequence[Run], summary: Summary, steps: int, threads: int) -> dict[str, Any]:
    """Returns all numbers, and what they depend on, as plain values."""
    packages = ("torch", "transformers", "peft", "bitsandbytes", "lightning", "trl", OURS)
    return {
        "steps": steps,
        "threads": threads,
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "versions": {package: version(package) for package in packages},
        "runs": [run._asdict() for run in runs],
        **summary._asdict(),
    }


if __name__ == "__main__":
    sys.exit(main())
