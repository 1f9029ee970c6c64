"""A run folder with everything that a report reads, made of numbers that a test can name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from amazon_desc.run.folder import RunFolder

BASE = {"loss": 3.77, "perplexity": 43.4, "rouge1": 0.11, "rougeL": 0.08, "bleu": 0.4}
TUNED = {"loss": 3.01, "perplexity": 20.3, "rouge1": 0.21, "rougeL": 0.16, "bleu": 2.6}
BASE |= {"loops": 0.4, "ended": 0.5, "copied": 0.0, "invented": 0.02, "length_ratio": 1.6}
TUNED |= {"loops": 0.0, "ended": 0.97, "copied": 0.01, "invented": 0.04, "length_ratio": 0.9}
FILES = [{"use": "train", "name": "trn.json.gz", "sha256": "ab" * 32}]
SETTINGS = {
    "--model.backbone": {"name": "/home/me/models/shop-base", "sha256": "cd" * 32},
    "--model.lora.r": 16,
    "--model.lora.alpha": 32,
    "--data.train_file": [{"name": "/home/me/data/trn.json.gz", "sha256": "ab" * 32}],
    "--data.row_tokens": 512,
    "--data.rows_per_step": 4,
    "--seed_everything": 1234,
}


DATA = {
    "num_records": 1_240,
    "remarks": ["trn.csv: fields are separated by ';' (--data.separator)"],
    "splits": {"train": 1_000, "validation": 180},
    "refused": {"empty_content": 50},
    "refused_examples": {"empty_content": ["trn.csv, line 7: 'Red Mug': ''"]},
    "bad": {"not valid UTF-8": 10},
    "faults": ["trn.csv, line 9: not valid UTF-8", "trn.csv, line 12: not valid UTF-8"],
}


def entry(
    base: Mapping[str, Any] = BASE, tuned: Mapping[str, Any] = TUNED, half: float = 0.06
) -> dict[str, Any]:
    """Returns an entry of metrics.json; each interval reaches so far to both sides."""

    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - half, "high": value + half}

    def change(score: str) -> dict[str, float]:
        found = tuned[score] - base[score]
        low, high = found - half / 2, found + half / 2
        return {
            "difference": found,
            "low": low,
            "high": high,
            "p_value": 0.4 if low < 0 < high else 0.0005,
        }

    sides = {"base": base, "tuned": tuned}
    return {
        **{side: dict(scores) for side, scores in sides.items()},
        "intervals": {
            side: {score: interval(value) for score, value in scores.items()}
            for side, scores in sides.items()
        },
        "compared": {score: change(score) for score in base},
        "measured_on": {
            **{"split": "validation", "num_titles": 361, "num_targets": 40123, "files": FILES},
            **{"num_resamples": 1000, "seed": 12345},
        },
        "signatures": {"bleu": "nrefs:1|case:mixed", "chrf": "nrefs:1|nw:0"},
        "decoding": {"max_new_tokens": 128, "temperature": 0.0},
    }


def line(number: int, title: str = "", **changed: Any) -> dict[str, Any]:
    """Returns a scored title; the tuned text of a higher number is more like the real one."""

    def side(text: str, rouge: float) -> dict[str, Any]:
        found = {"description": text, "finish_reason": "stop", "num_tokens": 12, "rougeL": rouge}
        return found | {"is_loop": False, "is_copied": False}

    found = {
        "title": title or f"Red Mug {number}",
        "reference": f"A real text of the red mug {number}.",
        "base": side(f"Mug mug mug {number}", 0.05),
        "tuned": side(f"A red mug with the number {number}.", number / 1000),
    }
    return found | changed


def make_run(
    folder: Path,
    metrics: Mapping[str, Any] | None = None,
    lines: list[Any] | None = None,
    num_points: int = 30,
    **settings: Any,
) -> RunFolder:
    """Makes a finished run; settings are named as in SETTINGS without their `--`."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    options = {"seed_everything": 1234, "trainer": {"default_root_dir": f"runs/{folder.name}"}}
    run.config.write_text(yaml.safe_dump(options))
    record = {
        "started": "2026-01-02T03:04:05+00:00",
        "settings": SETTINGS | {f"--{name}": value for name, value in settings.items()},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "finished": "2026-01-02T04:06:10+00:00",
        "num_steps": 300,
    }
    run.record.write_text(json.dumps(record))
    run.data_report.write_text(json.dumps(DATA))
    run.metrics.write_text(json.dumps({"validate": entry()} if metrics is None else metrics))
    lines = [line(number) for number in range(40)] if lines is None else lines
    scored = run.scored("validate")
    scored.parent.mkdir()
    scored.write_text("".join(json.dumps(each) + "\n" for each in lines))
    log(run.tensorboard, num_points)
    return run


def log(folder: Path, num_points: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        writer.add_histogram_raw(
            *("data/prompt_tokens", 3, 9, 10, 60, 400),
            bucket_limits=[4.0, 6.0, 9.0],
            bucket_counts=[2, 5, 3],
            global_step=0,
        )
        for step in range(9, 10 * num_points, 10):
            writer.add_scalar("train/loss", 4 - step / (10 * num_points), step)
            writer.add_scalar("train/tokens_per_second", 1000.0 + step, step)
        for step, loss in ((99, 3.5), (199, 3.2), (299, 3.3)):
            writer.add_scalar("validation/loss", loss, step)
