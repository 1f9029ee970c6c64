"""What bench_predict.py writes with, and for: a base or a run, and prompts.

In come options, out goes a Bench that all lines share. Nothing is written or measured here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_base import make_base
from sweep_decoding import held_out

from amazon_desc.cli import build
from amazon_desc.data.loading.prompts import Prompt, prompts_of
from amazon_desc.data.reading.records import read_title_records
from amazon_desc.describer import Describer
from amazon_desc.generation.decoding import DecodingSettings

ROOT = Path(__file__).resolve().parents[1]
PROMPT_TOKENS = (20, 50)  # of a random base's prompts: at least and at most
RANDOM_BASES = ("tiny", "tinyllama", "gemma3-4b")
# Untrained LoRA is zero and would merge to nothing.
LORA_STD = 0.02


@dataclass
class Bench:
    """What all lines write with, and for."""

    describer: Describer
    prompts: list[Prompt]
    settings: DecodingSettings

    @property
    def network(self) -> Any:
        return self.describer.model.network

    @property
    def device(self) -> torch.device:
        return self.describer.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.describer.model.compute_dtype

    @property
    def end_ids(self) -> list[int]:
        return self.describer.model.end_ids()

    @property
    def longest(self) -> int:
        return max(len(prompt.ids) for prompt in self.prompts)


def of_run(run: Path, titles: str | None, settings: DecodingSettings) -> Bench:
    describer = Describer.from_run(run)
    num = None if titles is None or not titles.isdigit() else int(titles)
    if titles is not None and num is None:
        return Bench(describer, prompts_of_file(describer, titles), settings)
    pairs = held_out(describer, "validation", num)
    return Bench(describer, list(prompts_of(pairs, describer.data.encoder, str, 0)), settings)


def of_base(base: str, folder: Path, titles: str, settings: DecodingSettings) -> Bench:
    """Returns a base in 4 bits with random LoRA, and random prompts or those of a file."""
    where = make_base(base, folder) if base in RANDOM_BASES else Path(base).absolute()
    options = {
        "--config": ROOT / "configs" / "qlora.yaml",
        "--model.backbone": "tiny" if base == "tiny" else where,
        "--trainer.default_root_dir": folder / "run",
        "--trainer.logger": "false",
    }
    cli = build([str(part) for pair in options.items() for part in pair], run=False)
    model, data = cli.model, cli.datamodule
    model.trainer = data.trainer = cli.trainer
    cli.trainer.datamodule = data
    model.to(cli.trainer.strategy.root_device)
    torch.manual_seed(0)
    model.configure_model()
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=LORA_STD)
    describer = Describer(model, data)
    if not titles.isdigit():
        return Bench(describer, prompts_of_file(describer, titles), settings)
    return Bench(describer, random_prompts(data.tokenizer, int(titles)), settings)


def prompts_of_file(describer: Describer, file: str) -> list[Prompt]:
    """Returns those of all titles of a file that predict would write for, also of repeated ones."""
    data = describer.data
    records = read_title_records(Path(file), data.settings.sources.title_column)
    titles = [record.title for record in records if not record.reason]
    pairs = [(title, "") for title in titles if data.clean_title(title)]
    return list(prompts_of(pairs, data.encoder, data.clean_title, 0))


def random_prompts(tokenizer: Any, num: int, seed: int = 0) -> list[Prompt]:
    rng, special = random.Random(seed), set(tokenizer.all_special_ids)
    ids = [number for number in sorted(tokenizer.get_vocab().values()) if number not in special]
    return [Prompt(row, rng.choices(ids, k=rng.randint(*PROMPT_TOKENS))) for row in range(num)]
