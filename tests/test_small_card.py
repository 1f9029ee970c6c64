"""Published shapes in float16 within the memory of a small card, on a card that has more.

A T4 has 15 GB and no bf16. Here torch may take a part of a larger card, on the path that a T4
takes; how fast its own kernels are does not show. `pytest -s` prints what was taken beside what was
counted.
"""

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from amazon_desc.cli import main
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.model.cost.memory import CONTEXT_BYTES, GIB
from amazon_desc.model.plan import Plan
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.logger import read_scalars
from amazon_desc.training.module import DescriptionModule
from tests.conftest import load_script

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("shape", "gib", "said"),
    [
        ("tinyllama", 6, "Kernels: plain, as asked for; layers recomputed."),
        ("gemma3-4b", 13, "Kernels: plain, as asked for; layers recomputed."),
    ],
)
def test_a_base_is_trained_scored_and_written_with_in_the_memory_of_a_small_card(
    shape: str,
    gib: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    random_base = load_script("random_base")
    base = random_base.make_base(shape, tmp_path)
    products, titles = tmp_path / "products.jsonl", tmp_path / "titles.txt"
    random_base.write_products(products, load_tokenizer(base), 300)
    titles.write_text("Teal Mug\nOak Lamp\n")
    run, plans = RunFolder(tmp_path / "run"), list[Plan | None]()
    begin = DescriptionModule.on_fit_start

    def noting(self: DescriptionModule) -> None:
        begin(self)
        plans.append(self.plan)

    monkeypatch.setattr(DescriptionModule, "on_fit_start", noting)
    options = [
        *("--config", "configs/qlora.yaml", "--model.backbone", str(base)),
        *("--data.train_file", str(products), "--trainer.default_root_dir", str(run.path)),
        *("--trainer.accelerator", "gpu", "--trainer.precision", "16-mixed"),
        *("--model.kernels", "plain", "--data.batch_size", "auto", "--data.rows_per_step", "2"),
        *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.05"),
        *("--data.num_scored", "8", "--model.decoding.max_new_tokens", "32"),
        *("--trainer.max_steps", "6", "--trainer.val_check_interval", "3"),
        *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
    ]
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((gib * GIB - CONTEXT_BYTES) / total)
    held: dict[str, float] = {}
    try:
        for command in ("fit", "validate", "predict"):
            torch.cuda.reset_peak_memory_stats()
            main([command, *options, *(["--data.titles", str(titles)] * (command == "predict"))])
            held[command] = torch.cuda.max_memory_reserved() / GIB
            gc.collect()
            torch.cuda.empty_cache()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    (plan,) = plans
    assert plan is not None
    curves = read_scalars(run.tensorboard)
    losses, peaks = (
        [point.value for point in curves[f"train/{name}"]] for name in ("loss", "peak_memory_gib")
    )
    shown = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{shape} in {gib} GiB: {plan.num_rows} of 2 rows at a time; {plan}")
        print(f"  tensors of steps, GiB: {peaks}, counted {plan.memory.allocated / GIB:.2f}")
        print(f"  held, GiB: {held}, counted for fit {plan.memory.total / GIB:.2f}")
        print(f"  losses: {losses}")
    assert said in shown
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert peaks[1] < plan.memory.total / GIB  # the first of them is from before a validation
    assert max(held.values()) < gib
    scores: Any = json.loads(run.metrics.read_text())["validate"]
    assert all(math.isfinite(scores[side]["loss"]) for side in ("base", "tuned"))
    assert len((run.predictions / "titles.txt.jsonl").read_text().splitlines()) == 2
