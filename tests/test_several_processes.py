"""Several processes train, validate and test as one: the same rows, masks, weights and scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from amazon_desc.run.checkpoints import read_checkpoint
from amazon_desc.run.folder import RunFolder
from tests import worlds

pytestmark = pytest.mark.slow

SIZES = (1, 2, 3)

# 6 rows a step in micro-batches of one, with dropout; the last step has fewer rows than 3 processes
OPTIONS = """
    --config configs/quickstart.yaml --data.num_products 44 --data.row_tokens 256
    --data.rows_per_step 6 --data.batch_size 1 --data.num_scored 5 --data.num_sampled 2
    --data.generation_batch_size 2 --data.validation_fraction 0.1 --data.test_fraction 0.1
    --trainer.max_epochs 1 --trainer.val_check_interval 3 --trainer.log_every_n_steps 1
    --trainer.enable_progress_bar false --checkpoint.every_n_steps 100 --model.lora.dropout 0.2
    --model.decoding.max_new_tokens 12 --model.optimizer.class_path torch.optim.SGD
    --model.optimizer.init_args.lr 0.3
""".split()  # noqa: SIM905


class World(NamedTuple):
    """A finished run of so many processes."""

    codes: list[int | None]
    run: RunFolder
    logs: Path

    @property
    def adapter(self) -> dict[str, torch.Tensor]:
        return load_file(self.run.adapter / "adapter_model.safetensors")

    def scored(self, command: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run.scored(command).read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[int, World]:
    folder = tmp_path_factory.mktemp("worlds")
    found = {}
    for size in SIZES:
        run, logs = RunFolder(folder / str(size)), folder / f"{size}-logs"
        given = [*OPTIONS, f"--trainer.default_root_dir={run.path}"]
        given.append(f"--data.corpora={folder / 'corpora'}")
        codes = worlds.run(["fit", *given], size, logs)
        codes += worlds.run(["test", *given], size, folder / f"{size}-test-logs")
        found[size] = World(codes, run, logs)
    return found


def test_all_processes_succeed(finished: dict[int, World]):
    for size, world in finished.items():
        assert world.codes == [0] * size * 2, (world.logs / "0.log").read_text()[-2000:]


def test_the_task_has_a_last_step_that_not_all_processes_have_rows_of(finished: dict[int, World]):
    (newest, *_) = finished[1].run.checkpoint_files()
    num_rows = read_checkpoint(newest)["DescriptionData"]["num_trained_rows"]
    assert (num_rows, num_rows % 6) == (19, 1)


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_weights_are_those_of_one_process(size: int, finished: dict[int, World]):
    one, several = finished[1].adapter, finished[size].adapter
    assert one.keys() == several.keys()
    assert max(float(weight.abs().max()) for name, weight in one.items() if "lora_B" in name) > 0.01
    for name, weight in one.items():
        torch.testing.assert_close(several[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_checkpoint_is_at_the_same_row_and_step(size: int, finished: dict[int, World]):
    names = [[file.name for file in finished[of].run.checkpoint_files()] for of in (1, size)]
    assert names[0] == names[1]
    one, several = (read_checkpoint(finished[of].run.checkpoint_files()[0]) for of in (1, size))
    assert one["DescriptionData"] == several["DescriptionData"]
    assert one["global_step"] == several["global_step"] == 4
    assert one["lr_schedulers"] == several["lr_schedulers"]


@pytest.mark.parametrize("command", ["validate", "test"])
@pytest.mark.parametrize("size", SIZES[1:])
def test_titles_are_scored_once_in_their_order(size: int, command: str, finished: dict[int, World]):
    one, several = finished[1].scored(command), finished[size].scored(command)
    assert len(one) == {"validate": 4, "test": 2}[command]
    for record, other in zip(one, several, strict=True):
        assert record["base"] == other["base"]
        assert record["title"] == other["title"]
        assert record["tuned"]["description"] == other["tuned"]["description"]
        loss = record["tuned"]["loss_sum"]
        assert other["tuned"]["loss_sum"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("size", SIZES[1:])
def test_scores_are_those_of_one_process(size: int, finished: dict[int, World]):
    metrics = [json.loads(finished[of].run.metrics.read_text()) for of in (1, size)]
    assert metrics[0].keys() == metrics[1].keys() >= {"validate", "test"}
    for command in ("validate", "test"):
        one, several = (found[command] for found in metrics)
        assert one["base"] == several["base"]
        assert several["tuned"] == pytest.approx(one["tuned"], rel=1e-5)
        assert one["measured_on"] == several["measured_on"]


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_first_process_alone_speaks(size: int, finished: dict[int, World]):
    logs = finished[size].logs
    assert "Everything is in" in (logs / "0.log").read_text()
    for rank in range(1, size):
        assert (logs / f"{rank}.log").read_text() == ""


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_cards_train_on_the_fused_path_as_one(tmp_path: Path):
    adapters = []
    for size in (1, 2):
        run, logs = tmp_path / str(size), tmp_path / f"{size}-logs"
        own = [f"--trainer.default_root_dir={run}", "--trainer.accelerator=gpu"]
        own += [f"--trainer.devices={size}", f"--data.corpora={tmp_path / 'corpora'}"]
        own += ["--trainer.max_steps=1"]  # from then on bfloat16 rounds other numbers
        codes = worlds.run(["fit", *OPTIONS, *own], size, logs)
        assert codes == [0] * size, (logs / "0.log").read_text()[-2000:]
        assert "Kernels: fused" in (logs / "0.log").read_text()
        adapters.append(load_file(run / "adapter" / "adapter_model.safetensors"))
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=0, atol=1e-5)
