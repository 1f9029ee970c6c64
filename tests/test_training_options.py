"""Small runs with other schedules, optimizers and LoRA: each keeps what every run keeps."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amazon_desc.model import adapter
from amazon_desc.model.backbone import keep_quantized_layout, load_backbone
from amazon_desc.run.checkpoints import read_checkpoint
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.logger import read_scalars
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.training.module import DescriptionModule
from tests.conftest import commands_in, load_script
from tests.shallow_base import shallow_base

pytestmark = pytest.mark.slow

bench = load_script("bench_resume")

SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "100", "--data.row_tokens", "256", "--data.num_scored", "2"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.1"),
    *("--data.rows_per_step", "2", "--data.batch_size", "2"),
    *("--model.decoding.max_new_tokens", "4", "--trainer.max_steps", "6", "--model.lora.r", "4"),
    *("--trainer.val_check_interval", "3", "--trainer.log_every_n_steps", "1"),
]
KINDS = {
    "dora": "--model.lora.use_dora true --model.lora.dropout 0.1",
    "rslora": "--model.lora.use_rslora true --model.schedule linear --model.warmup_steps 3",
    # of 4,096 numbers and more, the states have 8 bits
    "adamw8bit": "--model.optimizer bitsandbytes.optim.AdamW8bit "
    "--model.optimizer.init_args.lr 4e-3 --model.lora.r 32 --model.schedule constant",
}
TITLES = ["Teal Mug", "Oak Lamp, Large"]

Call = Callable[..., int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    (folder / "titles.txt").write_text("\n".join(TITLES))
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    base = shallow_base(place / "base")
    return commands_in(place, [*SMALL, "--model.backbone", str(base)])


@pytest.fixture(scope="module")
def finished(call: Call, place: Path) -> Callable[[str], RunFolder]:
    """Returns a function that returns the finished run of a kind, which is made once."""

    def finished(kind: str) -> RunFolder:
        run = RunFolder(place / kind)
        if not run.is_finished():
            assert call("fit", kind, *KINDS[kind].split(" ")) == 0
            assert call("predict", kind, *KINDS[kind].split(" ")) == 0
        return run

    return finished


def scores(run: RunFolder) -> dict[str, dict[str, float]]:
    return json.loads(run.metrics.read_text())["validate"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_run_that_was_stopped_ends_as_one_that_nobody_touched(
    kind: str,
    finished: Callable[[str], RunFolder],
    call: Call,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    wanted = bench.outcome(finished(kind).path)
    options, training_step = KINDS[kind].split(" "), DescriptionModule.training_step
    num_calls = 0

    def stopped(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(DescriptionModule, "training_step", stopped)
    name = f"stopped_{kind}"
    assert call("fit", name, *options) == 143
    assert call("fit", name, *options) == 0
    assert num_calls == 6
    assert call("predict", name, *options) == 0
    assert bench.outcome(place / name) == wanted


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_learns(kind: str, finished: Callable[[str], RunFolder]):
    found = scores(finished(kind))
    assert found["tuned"]["loss"] < 0.9 * found["base"]["loss"]


def test_the_rates_are_those_of_the_schedule(finished: Callable[[str], RunFolder]):
    """Peak 4e-3, 3 steps of warm-up, and down to a tenth of it, as a line, over 6 steps."""
    for kind, shares in (
        ("rslora", [1 / 3, 2 / 3, 1.0, 1.0, 0.7, 0.4]),
        ("adamw8bit", [1.0] * 6),
    ):
        points = read_scalars(finished(kind).tensorboard)["train/learning_rate"]
        rates = [point.value for point in points]
        assert rates == pytest.approx([4e-3 * share for share in shares])


def test_8_bit_adamw_keeps_its_states_in_8_bits(finished: Callable[[str], RunFolder]):
    checkpoint = read_checkpoint(finished("adamw8bit").checkpoint_files()[0])
    (optimizer,) = checkpoint["optimizer_states"]
    states = [
        state["__bnb_optimizer_quant_state__"]["state1"] for state in optimizer["state"].values()
    ]
    assert len(states) == 28
    large = [state for state in states if state.numel() >= 4096]
    assert len(large) > 20
    assert {state.dtype for state in large} == {torch.uint8}


@pytest.mark.parametrize(("kind", "num_matrices"), [("dora", 42), ("rslora", 28)])
def test_plain_peft_reads_the_adapter_and_gives_our_logits(
    kind: str, num_matrices: int, finished: Callable[[str], RunFolder], place: Path
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    run = finished(kind)
    assert len(load_file(run.adapter / ADAPTER_WEIGHTS)) == num_matrices
    base = find_backbone(str(place / "base"))
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    plain: Any = AutoModelForCausalLM.from_pretrained(
        base.folder, dtype=torch.float32, device_map="cpu", quantization_config=quantization
    )
    keep_quantized_layout(plain)
    theirs = PeftModel.from_pretrained(plain, str(run.adapter)).eval()
    ours = adapter.load(
        load_backbone(base, "nf4", torch.float32, torch.device("cpu")), run.adapter, dropout=0.1
    ).eval()
    ids = torch.arange(100, 120)[None]
    with torch.no_grad():
        found, wanted = ours(input_ids=ids).logits, theirs(input_ids=ids).logits
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        with ours.disable_adapter():
            assert not torch.allclose(ours(input_ids=ids).logits, wanted, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_a_fit_starts_from_its_adapter_with_the_adapters_settings(
    kind: str,
    finished: Callable[[str], RunFolder],
    call: Call,
    place: Path,
    capfd: pytest.CaptureFixture[str],
):
    run, name = finished(kind), f"further_{kind}"
    given = ["--model.adapter", str(run.adapter), "--model.optimizer.init_args.lr", "1e-9"]
    assert call("fit", name, *given, "--trainer.max_steps", "1") == 0
    option = f"--model.lora.use_{kind}"
    assert f"{option} is True, as the adapter {run.adapter} has it" in capfd.readouterr().out
    further = RunFolder(place / name)
    config = json.loads((further.adapter / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (kind == "dora", kind == "rslora")
    wanted = load_file(run.adapter / ADAPTER_WEIGHTS)
    found = load_file(further.adapter / ADAPTER_WEIGHTS)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert scores(further)["tuned"]["loss"] == pytest.approx(scores(run)["tuned"]["loss"], 1e-4)


def test_a_checkpoint_is_validated_with_the_lora_it_was_trained_with(
    finished: Callable[[str], RunFolder], call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    for kind in ("dora", "rslora"):
        run, name = finished(kind), f"validated_{kind}"
        checkpoint = ["--ckpt_path", str(run.checkpoint_files()[0])]
        assert call("validate", name, *checkpoint) == 2
        wanted = f"--model.lora.use_{kind} True, this run has False. Set --model.lora.use_{kind}"
        assert wanted in capfd.readouterr().err
        assert call("validate", name, *checkpoint, f"--model.lora.use_{kind}", "true") == 0
        found = scores(RunFolder(place / name))["tuned"]["loss"]
        assert found == pytest.approx(scores(run)["tuned"]["loss"], 1e-5)
