"""Rows of a micro-batch that are left open are as many as fit, and the steps stay the same."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import amazon_desc.run.options.micro_batch
from amazon_desc.cli import main
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.cost.memory import GIB
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.micro_batch import (
    Room,
    choose_rows,
    device_of,
    dtype_of,
    free_machine_memory,
    largest_divisor,
    lora_of,
    path_obstacle,
    set_batch_size,
    step_of_options,
)
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.training.module import DescriptionModule

ROOT = Path(__file__).resolve().parents[2]


# The choice


@pytest.mark.parametrize(
    ("number", "most", "expected"),
    [(12, 5, 4), (12, 12, 12), (12, 1, 1), (12, 0, 1), (7, 6, 1), (64, 33, 32), (1, 9, 1)],
)
def test_the_largest_divisor_that_fits_is_taken(number: int, most: int, expected: int):
    assert largest_divisor(number, lambda rows: rows <= most) == expected


def gib_a_row(rows: int) -> int:
    return 2 * GIB + rows * GIB


ROOM = Room(free=10 * GIB, share=0.9, most_tokens=None)


def test_what_is_chosen_is_said_with_what_it_needs():
    assert choose_rows(12, 256, gib_a_row, ROOM) == (
        6,
        "Micro-batches: 6 of the 12 rows of a step (8.0 GiB needed, 10.0 GiB free).",
    )


def test_where_not_even_a_row_fits_one_is_taken_and_the_way_out_is_said():
    assert choose_rows(12, 256, gib_a_row, ROOM._replace(free=2 * GIB)) == (
        1,
        "Micro-batches: 1 of the 12 rows of a step (3.0 GiB needed, 2.0 GiB free; if memory runs "
        "out, lower --data.row_tokens).",
    )


def test_without_a_card_a_micro_batch_has_so_many_tokens_at_most():
    room = Room(free=1000 * GIB, share=0.5, most_tokens=8192)
    assert choose_rows(64, 2048, gib_a_row, room).num_rows == 4
    assert choose_rows(64, 16_384, gib_a_row, room).num_rows == 1


def test_a_run_that_goes_on_keeps_its_rows_while_they_fit():
    assert choose_rows(12, 256, gib_a_row, ROOM, before=2) == (
        2,
        "Micro-batches: 2 of the 12 rows of a step (as before).",
    )


@pytest.mark.parametrize("before", [12, 5])
def test_a_run_that_cannot_keep_its_rows_says_so(before: int):
    """12 do not fit, 5 are no divisor."""
    assert choose_rows(12, 256, gib_a_row, ROOM, before) == (
        6,
        f"Micro-batches: 6 of the 12 rows of a step (8.0 GiB needed, 10.0 GiB free; before it had "
        f"{before}, so the last bits may differ).",
    )


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


def test_lora_where_the_fused_path_knows_none_is_counted_as_plain():
    from transformers import GPT2Config, LlamaConfig

    assert path_obstacle(LlamaConfig(), LoraSettings()) is None
    other = LoraSettings(target_modules=["q_proj", "lm_head"])
    assert path_obstacle(LlamaConfig(), other) == "they have no LoRA on lm_head"
    assert path_obstacle(LlamaConfig(), LoraSettings(use_rslora=True)) is None
    assert path_obstacle(LlamaConfig(), LoraSettings(use_dora=True)) == "they have no DoRA"
    assert (
        path_obstacle(GPT2Config(), LoraSettings()) == "they have no layers of gpt2 with gelu_new"
    )


def test_an_adapter_brings_its_rank_and_kind(tmp_path: Path):
    (tmp_path / ADAPTER_WEIGHTS).touch()
    config = {"peft_type": "LORA", "r": 64, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = lora_of(DescriptionModule(adapter=str(tmp_path)))
    assert found == LoraSettings(r=64, target_modules=["q_proj"])
    config |= {"lora_alpha": 8, "use_dora": True, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert lora_of(DescriptionModule(adapter=str(tmp_path))) == LoraSettings(
        r=64, alpha=8, target_modules=["q_proj"], use_rslora=True, use_dora=True
    )


def step(**changes: Any) -> Any:
    model, data = DescriptionModule(), DescriptionData(row_tokens=2048)
    found = step_of_options(model, data, torch.float32)
    return found._replace(**changes)


def test_more_rows_need_more_and_scores_less_than_training():
    tiny = step()
    assert (tiny.is_fused, tiny.number_bytes, tiny.quantization) == (False, 4, "nf4")
    needed = [tiny.bytes_to_train(rows) for rows in (1, 2, 4)]
    assert needed == sorted(needed)
    assert needed[2] - needed[1] == pytest.approx(2 * (needed[1] - needed[0]), rel=0.01)
    assert 0 < tiny.bytes_to_score(2) < needed[1]
    dora = step(lora=LoraSettings(use_dora=True))
    assert dora.bytes_to_train(2) > 1.2 * needed[1]
    assert dora.bytes_to_score(2) > tiny.bytes_to_score(2)
    assert step(is_fused=True, number_bytes=2).bytes_to_train(4) < needed[2]


def test_the_data_serves_what_was_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        amazon_desc.run.options.micro_batch, "free_machine_memory", lambda: 1000 * GIB
    )
    data = DescriptionData(batch_size="auto", row_tokens=64, max_seq_length=64)
    assert data.batch_size == 1
    trainer = SimpleNamespace(accelerator="cpu", devices=1, accumulate_grad_batches=256)
    chosen = set_batch_size(DescriptionModule(), data, trainer, "32-true", True, None)
    assert chosen.num_rows == data.batch_size == 128


def test_this_machine_has_memory():
    assert GIB / 8 < free_machine_memory() < 1 << 50


# Whole runs

OPTIONS = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.row_tokens", "256", "--data.num_scored", "4"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.1", "--model.lora.r", "4"),
    *("--model.max_new_tokens", "4", "--trainer.accumulate_grad_batches", "4"),
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
    """Has the machine just enough memory for micro-batches of so many rows."""
    needed = step(row_tokens=256, lora=LoraSettings(r=4, dropout=0)).bytes_to_train(num_rows)
    patch.setattr(amazon_desc.run.options.micro_batch, "free_machine_memory", lambda: 2 * needed)


@pytest.fixture(scope="module")
def single(call: Call) -> RunFolder:
    """Optimizer steps of 4 micro-batches of a row."""
    return call("fit", "single", "--data.batch_size", "1")


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    found = load_file(run.adapter / ADAPTER_WEIGHTS)
    assert len(found) == 56
    return found


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


@pytest.mark.parametrize(
    ("later", "rows", "said"), [(4, 2, "as before"), (1, 1, "before it had 2")]
)
def test_a_fit_that_goes_on_keeps_its_rows_while_they_fit(
    call: Call,
    single: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    later: int,
    rows: int,
    said: str,
):
    """It was killed behind its second step, which leaves no end in run.json."""
    name = f"goes_on_{rows}"
    room_for(monkeypatch, 2)
    run = call("fit", name, *AUTO)
    whole = weights(run)
    record = run.read_record()
    del record["finished"]
    run.record.write_text(json.dumps(record))
    run.checkpoint(4).unlink()
    assert run.checkpoint_files() == [run.checkpoint(2)]
    room_for(monkeypatch, later)
    capsys.readouterr()
    call("fit", name, *AUTO)
    out = capsys.readouterr().out
    assert f"Micro-batches: {rows} of the 4 rows of a step" in out
    assert said in out
    assert f"Going on from {run.checkpoint(2)}" in out
    assert run.read_record()["batch_size"] == rows
    for key, found in weights(run).items():
        if rows == 2:
            assert torch.equal(found, whole[key])
        torch.testing.assert_close(found, weights(single)[key], rtol=1e-4, atol=1e-6)
