"""Rows of a micro-batch that are left open are as many as fit, and the steps stay the same."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import amazon_desc.model.machine
import amazon_desc.run.options.micro_batch
from amazon_desc.cli import main
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.cost.memory import GIB
from amazon_desc.model.machine import Machine, dtype_of, free_machine_memory, machine_of
from amazon_desc.model.plan import Task, plan
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.micro_batch import (
    ChosenRows,
    choose_micro_batch,
    device_of,
    task_of_options,
)
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.training.module import DescriptionModule
from tests.conftest import gemma_config, tinyllama_config

ROOT = Path(__file__).resolve().parents[2]


# What options say


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bf16-mixed", torch.bfloat16),
        ("16-mixed", torch.float16),
        ("32-true", torch.float32),
        ("None", torch.float32),
    ],
)
def test_precision_decides_the_size_of_a_number(precision: str, dtype: torch.dtype):
    assert dtype_of(precision) == dtype


@pytest.mark.parametrize(
    ("accelerator", "devices", "has_card", "device"),
    [
        ("cpu", 1, True, "cpu"),
        ("auto", 1, False, "cpu"),
        ("auto", 1, True, "cuda:0"),
        ("gpu", [1], True, "cuda:1"),
    ],
)
def test_the_device_is_that_of_the_trainer(
    accelerator: str, devices: Any, has_card: bool, device: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    found = device_of(SimpleNamespace(accelerator=accelerator, devices=devices))
    assert found == torch.device(device)


def test_an_adapter_brings_its_rank_and_kind(tmp_path: Path):
    matrix = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({matrix: torch.zeros(64, 128)}, tmp_path / ADAPTER_WEIGHTS)
    config = {"peft_type": "LORA", "r": 64, "target_modules": ["q_proj"]}

    def found() -> LoraSettings:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        return task(adapter=str(tmp_path)).lora

    assert found() == LoraSettings(r=64, alpha=8, target_modules=["q_proj"])  # 8: PEFT's own
    config |= {"lora_alpha": 9, "use_dora": True, "use_rslora": True}
    assert found() == LoraSettings(
        r=64, alpha=9, target_modules=["q_proj"], use_rslora=True, use_dora=True
    )


def task(row_tokens: int = 2048, **options: Any) -> Task:
    model = DescriptionModule(**options)
    data = DescriptionData(row_tokens=row_tokens, max_seq_length=64)
    return task_of_options(model, data, torch.float32)


def test_the_options_say_what_is_trained():
    found = task(row_tokens=64, recompute="layers", kernels="plain")
    assert (found.quantization, found.number_bytes, found.row_tokens) == ("nf4", 4, 64)
    assert (found.recompute, found.kernels, found.obstacle) == ("layers", "plain", None)
    assert task(lora=LoraSettings(use_dora=True)).obstacle == "they have no DoRA"


def test_as_many_rows_as_fit_are_planned_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(amazon_desc.model.machine, "free_machine_memory", lambda: 1000 * GIB)
    assert chosen("auto", "fit", 256).num_rows == 128
    assert chosen("auto", "validate", 256).num_rows == 128


def chosen(asked: Any, command: str | None, rows_per_step: int) -> ChosenRows:
    data = DescriptionData(rows_per_step=rows_per_step, row_tokens=64, max_seq_length=64)
    trainer = SimpleNamespace(accelerator="cpu", devices=1)
    return choose_micro_batch(asked, command, DescriptionModule(), data, trainer, "32-true", None)


@pytest.mark.parametrize(
    ("asked", "command", "rows_per_step", "num_rows"),
    [
        (4, "fit", 8, 4),
        (4, "validate", 1, 4),  # no optimizer steps are made
        ("auto", "fit", 1, 1),
        ("auto", "test", 1, 1),
        ("auto", "predict", 8, 1),
        ("auto", None, 8, 1),
    ],
)
def test_what_leaves_no_choice_is_neither_planned_nor_said(
    asked: Any,
    command: str | None,
    rows_per_step: int,
    num_rows: int,
    monkeypatch: pytest.MonkeyPatch,
):
    """So the default, as many as fit of one row a step, costs nothing and says nothing."""

    def task_of_options(*arguments: Any) -> None:
        raise AssertionError("planned")

    monkeypatch.setattr(amazon_desc.run.options.micro_batch, "task_of_options", task_of_options)
    assert chosen(asked, command, rows_per_step) == ChosenRows(num_rows)


@pytest.mark.parametrize(
    ("config", "precision", "obstacle", "state_bytes"),
    [
        (gemma_config, "16-mixed", "hidden states of gemma3_text overflow float16, in which", 4),
        (gemma_config, "bf16-mixed", None, 2),
        (gemma_config, "32-true", None, 4),
        (tinyllama_config, "16-mixed", None, 2),
    ],
)
def test_a_base_that_overflows_float16_is_planned_with_what_float32_takes(
    config: Any, precision: str, obstacle: str | None, state_bytes: int, tmp_path: Path
):
    shape = config()
    shape.num_hidden_layers = 2
    if hasattr(shape, "layer_types"):
        shape.layer_types = shape.layer_types[:2]
    shape.save_pretrained(tmp_path)
    model, data = DescriptionModule(backbone=str(tmp_path)), DescriptionData()
    task = task_of_options(model, data, dtype_of(precision), needs_weights=False)
    assert str(task.obstacle)[: len(str(obstacle))] == str(obstacle)
    assert task.state_bytes == state_bytes


# What a machine has


class OldCard:
    """Answers as a T4 does, of which this process may take a part."""

    total, free, allocated, reserved = 15 * GIB, 11 * GIB, 2 * GIB, 3 * GIB

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], share: float):
        for name, value in {
            "get_device_capability": capability,
            "get_device_name": "Tesla T4",
            "mem_get_info": (self.free, self.total),
            "memory_allocated": self.allocated,
            "memory_reserved": self.reserved,
            "get_per_process_memory_fraction": share,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


def test_a_card_of_capability_7_5_takes_the_plain_path_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
):
    OldCard(monkeypatch, (7, 5), 1.0)
    found = machine_of(torch.device("cuda", 0), torch.float16)
    assert found.obstacle == "Tesla T4 is too old for them"
    given = Task(tinyllama_config(), LoraSettings(), "nf4", torch.float16, 2048, None)
    assert str(plan(given, found, 1)) == "Kernels: plain: Tesla T4 is too old for them."
    OldCard(monkeypatch, (8, 0), 1.0)
    assert "too old" not in str(machine_of(torch.device("cuda", 0), torch.float16).obstacle)


@pytest.mark.parametrize(("share", "gib"), [(1.0, 11 + 1), (0.4, 6 - 2)])
def test_what_torch_holds_is_free_and_what_it_may_not_take_is_not(
    share: float, gib: int, monkeypatch: pytest.MonkeyPatch
):
    OldCard(monkeypatch, (7, 5), share)
    assert machine_of(torch.device("cuda", 0), torch.float16).free == gib * GIB
    assert machine_of(torch.device("cuda", 0), torch.float16, loaded=7).free == gib * GIB + 7


def test_a_choice_comes_with_its_plan_and_its_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(amazon_desc.model.machine, "free_machine_memory", lambda: 1000 * GIB)
    found = chosen("auto", "fit", 256)
    assert found.plan is not None
    assert found.num_rows == found.plan.num_rows == 128
    assert str(found.reason).startswith("Micro-batches: 128 of the 256 rows of a step (")
    scored = chosen("auto", "validate", 256)
    assert (scored.num_rows, scored.plan) == (128, None)
    assert str(scored.reason).startswith("Micro-batches: 128 of the 256 rows of a step (")


def test_this_machine_has_memory():
    assert GIB / 8 < free_machine_memory() < 1 << 50


# Whole runs

OPTIONS = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.row_tokens", "256", "--data.num_scored", "4"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.1", "--model.lora.r", "4"),
    *("--model.decoding.max_new_tokens", "4", "--data.rows_per_step", "4"),
    *("--trainer.max_steps", "4", "--trainer.val_check_interval", "2"),
    *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.3"),
]
AUTO = ("--data.batch_size", "auto")

Call = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    folder = tmp_path_factory.mktemp("auto")

    def call(command: str, name: str, *options: str) -> RunFolder:
        place = os.getcwd()
        os.chdir(ROOT)
        try:
            main([command, *OPTIONS, "--trainer.default_root_dir", str(folder / name), *options])
        finally:
            os.chdir(place)
        return RunFolder(folder / name)

    return call


def room_for(patch: pytest.MonkeyPatch, num_rows: int) -> None:
    """Has the machine just enough memory for so many rows, with nothing recomputed."""
    given = task(row_tokens=256, lora=LoraSettings(r=4, dropout=0), recompute="none")
    needed = plan(given, Machine(0, obstacle="no card"), num_rows).memory.total
    patch.setattr(amazon_desc.model.machine, "free_machine_memory", lambda: 2 * needed)


@pytest.fixture(scope="module")
def single(call: Call) -> RunFolder:
    """Optimizer steps of 4 micro-batches of a row."""
    return call("fit", "single", "--data.batch_size", "1")


@pytest.fixture(scope="module")
def planned(call: Call) -> RunFolder:
    """Optimizer steps of 2 micro-batches of as many rows as there is room for."""
    with pytest.MonkeyPatch.context() as patch:
        room_for(patch, 2)
        return call("fit", "planned", *AUTO)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    found = load_file(run.adapter / ADAPTER_WEIGHTS)
    assert len(found) == 56
    return found


@pytest.mark.slow
def test_a_fit_with_chosen_rows_makes_the_same_steps(
    call: Call, single: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    room_for(monkeypatch, 2)
    run = call("fit", "auto", *AUTO)
    assert "Micro-batches: 2 of the 4 rows of a step" in capsys.readouterr().out
    records = [found.read_record() for found in (single, run)]
    assert [record["batch_size"] for record in records] == [1, 2]
    assert [record["num_steps"] for record in records] == [4, 4]
    assert records[0]["settings"] == records[1]["settings"]
    for name, expected in weights(single).items():
        torch.testing.assert_close(weights(run)[name], expected, rtol=1e-4, atol=1e-6)
    losses = [
        json.loads(found.metrics.read_text())["validate"]["tuned"]["loss"]
        for found in (single, run)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "batch_size: auto" in run.config.read_text()
    with pytest.MonkeyPatch.context() as patch:
        room_for(patch, 4)
        call("validate", "auto", *AUTO)
    assert "Micro-batches: 4 of the 4 rows" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("later", "rows", "said"), [(4, 2, "as before"), (1, 1, "before it had 2")]
)
def test_a_fit_that_goes_on_keeps_its_rows_while_they_fit(
    call: Call,
    single: RunFolder,
    planned: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    later: int,
    rows: int,
    said: str,
):
    """It was killed after its second step, which leaves no end in run.json."""
    run = RunFolder(planned.path.parent / f"goes_on_{rows}")
    shutil.copytree(planned.path, run.path)
    whole = weights(run)
    record = run.read_record()
    del record["finished"]
    run.record.write_text(json.dumps(record))
    run.checkpoint(4).unlink()
    assert run.checkpoint_files() == [run.checkpoint(2)]
    room_for(monkeypatch, later)
    capsys.readouterr()
    call("fit", run.path.name, *AUTO)
    out = capsys.readouterr().out
    assert f"Micro-batches: {rows} of the 4 rows of a step" in out
    assert said in out
    assert f"Resuming from {run.checkpoint(2)}" in out
    assert run.read_record()["batch_size"] == rows
    for key, found in weights(run).items():
        if rows == 2:
            assert torch.equal(found, whole[key])
        torch.testing.assert_close(found, weights(single)[key], rtol=1e-4, atol=1e-6)
