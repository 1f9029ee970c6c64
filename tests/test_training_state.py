"""What decides the weights is in the module: callbacks report, and any can be left out.

Small whole runs, each without one of our callbacks, end with the weights of the run that has all of
them, to the last bit; and so does a run that was stopped and resumed with hardly any of them. What
a checkpoint says of base and run is what it was trained on, and stays readable.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file, save_file

import amazon_desc.training.module
from amazon_desc.cli import DescriptionCLI
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model.adapter import LoraSettings
from amazon_desc.model.backbone import fingerprint
from amazon_desc.run.checkpoints import read_checkpoint, serialized, write_sealed
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.checks import find_weights
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.support.resources import TINY_BASE
from amazon_desc.training.module import DescriptionModule
from tests.conftest import exit_code, slow_case
from tests.shallow_base import shallow_base

# 6 optimizer steps of 2 micro-batches of 2 rows, with dropout; validated after 4, and at the end.
SMALL = [
    *("--config", "configs/quickstart.yaml", "--data.num_products", "40"),
    *("--data.row_tokens", "256", "--data.num_scored", "2", "--data.validation_fraction", "0.1"),
    *("--data.test_fraction", "0", "--data.batch_size", "2"),
    *("--model.decoding.max_new_tokens", "2"),
    *("--data.rows_per_step", "4", "--trainer.max_steps", "6"),
    *("--model.lora.r", "4", "--model.lora.dropout", "0.1", "--trainer.val_check_interval", "4"),
    *("--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "3"),
    *("--trainer.max_epochs", "9"),
]

Weights = dict[str, torch.Tensor]


class Ended(NamedTuple):
    """What a fit ended with."""

    run: RunFolder
    callbacks: list[str]
    weights: Weights

    def adapter(self) -> Weights:
        return load_file(self.run.adapter / ADAPTER_WEIGHTS)


Fit = Callable[..., Ended]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    folder = tmp_path_factory.mktemp("state")
    base = shallow_base(folder / "base")

    def fit(name: str, without: Callable[[str], bool], code: int = 0) -> Ended:
        """Trains without those of our callbacks; scores need an adapter, and are left out."""
        module, found = None, []

        def instantiate_trainer(self: DescriptionCLI, **named: Any) -> Any:
            nonlocal module
            trainer, module = make(self, **named), self.model
            ours = [c for c in trainer.callbacks if type(c).__module__.startswith("amazon_desc.")]
            found.extend(type(callback).__name__ for callback in ours)
            left: list[Callback] = [c for c in ours if without(type(c).__name__)]
            trainer.callbacks = [c for c in trainer.callbacks if c not in left]
            return trainer

        make = DescriptionCLI.instantiate_trainer
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DescriptionCLI, "instantiate_trainer", instantiate_trainer)
            patch.setattr(DescriptionCLI, "finish", lambda self, model: None)
            where = ["--trainer.default_root_dir", str(folder / name)]
            where += ["--model.backbone", str(base)]
            assert exit_code(["fit", *SMALL, *where]) == code
        assert module is not None
        weights = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        return Ended(RunFolder(folder / name), found, weights)

    return fit


@pytest.fixture(scope="module")
def whole(fit: Fit) -> Ended:
    """The fit that all our callbacks watched."""
    return fit("whole", lambda name: False)


def assert_equal(found: Weights, wanted: Weights) -> None:
    assert len(found) == len(wanted) == 28
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name


OURS = """
    ProgressLine StopOnSignal ChosenPath DataLengths Throughput TextSamples BestAdapter ScoreReport
    ResumeCheckpoint SaveRunConfig
""".split()  # noqa: SIM905


def test_the_list_below_names_every_callback_of_ours(whole: Ended):
    assert sorted(whole.callbacks) == sorted(OURS)
    assert any(bool(tensor.any()) for name, tensor in whole.weights.items() if "lora_B" in name)


# Those whose leaving out changed a weight once, or leaves something else out with them.
TELLING = ("ChosenPath", "StopOnSignal", "BestAdapter", "ResumeCheckpoint")


@pytest.mark.parametrize("name", [n if n in TELLING else slow_case(n) for n in OURS])
def test_without_a_callback_the_weights_are_the_same(name: str, fit: Fit, whole: Ended):
    ended = fit(f"without_{name}", lambda other: other == name)
    assert_equal(ended.weights, whole.weights)
    if name == "BestAdapter":
        assert not ended.run.adapter.exists()
    else:
        assert_equal(ended.adapter(), whole.adapter())
    saved = [path.name for path in ended.run.checkpoint_files()]
    wanted = (
        [] if name == "ResumeCheckpoint" else [path.name for path in whole.run.checkpoint_files()]
    )
    assert saved == wanted
    assert wanted or name == "ResumeCheckpoint"


def test_a_run_that_is_resumed_with_hardly_a_callback_ends_the_same(
    fit: Fit, whole: Ended, monkeypatch: pytest.MonkeyPatch
):
    """Stopped in the fourth step, right before its validation."""
    needed = ("StopOnSignal", "ResumeCheckpoint")
    training_step, num_calls = DescriptionModule.training_step, 0

    def stopping(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(DescriptionModule, "training_step", stopping)
    stopped = fit("resumed", lambda name: name not in needed, code=143)
    assert stopped.run.checkpoint_files()[0] == stopped.run.checkpoint(4)
    resumed = fit("resumed", lambda name: name not in needed)
    assert num_calls == 12
    assert_equal(resumed.weights, whole.weights)


def test_a_signal_ends_a_run_that_saves_nothing(fit: Fit, monkeypatch: pytest.MonkeyPatch):
    training_step = DescriptionModule.training_step

    def stopping(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        assert batch_idx <= 3, "the second step was its last"
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(DescriptionModule, "training_step", stopping)
    ended = fit("unsaved", lambda name: name == "ResumeCheckpoint", code=143)
    assert ended.run.checkpoint_files() == []


def test_the_path_is_chosen_without_any_callback_and_before_the_first_validation(
    fit: Fit, whole: Ended, monkeypatch: pytest.MonkeyPatch
):
    """It was a callback's business: without that, training was plain, and nobody said so."""
    happened: list[str] = []
    execute = amazon_desc.training.module.execute
    validation_step = DescriptionModule.validation_step

    def executed(*arguments: Any) -> Any:
        happened.append("chosen")
        return execute(*arguments)

    def validated(self: DescriptionModule, *arguments: Any) -> None:
        happened.append("validated")
        validation_step(self, *arguments)

    monkeypatch.setattr(amazon_desc.training.module, "execute", executed)
    monkeypatch.setattr(DescriptionModule, "validation_step", validated)
    ended = fit("alone", lambda name: True)
    assert happened[0] == "chosen"
    assert happened.count("chosen") == 1
    assert "validated" in happened
    assert_equal(ended.weights, whole.weights)


# What a checkpoint holds

# As every version since 0.1 writes it: what is missing here could not be resumed.
LAYOUT = {
    *("epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks"),
    *("optimizer_states", "lr_schedulers", "DescriptionData", "random_states", "identity"),
    *("settings", "precision"),
}


def keys(part: Collection[Any]) -> set[Any]:
    return set(part)


def test_a_checkpoint_has_the_layout_of_before(whole: Ended):
    """The state moved from callbacks into the module, and its places in the file stayed."""
    checkpoint = read_checkpoint(whole.run.checkpoint_files()[0])
    assert keys(checkpoint) == LAYOUT
    assert checkpoint["DescriptionData"].keys() == {"num_trained_rows", "corpus"}
    assert checkpoint["DescriptionData"]["num_trained_rows"] == 24
    assert keys(checkpoint["random_states"]) == {"python", "numpy", "torch", "cuda", "device"}
    assert checkpoint["callbacks"].keys() == {"ResumeCheckpoint", "BestAdapter"}
    saved = {"saved_step", "validation_due", "is_last", "logged"}
    assert checkpoint["callbacks"]["ResumeCheckpoint"].keys() == saved


def test_a_checkpoint_of_before_is_resumed(fit: Fit, whole: Ended, monkeypatch: pytest.MonkeyPatch):
    """Put together part by part, as it was written when callbacks held the state of training."""
    checkpoint = read_checkpoint(whole.run.checkpoint(4))
    data, saver = checkpoint["DescriptionData"], checkpoint["callbacks"]["ResumeCheckpoint"]
    settings = dict(checkpoint["settings"])
    product = "--data.batch_size x --trainer.accumulate_grad_batches"
    settings[product] = settings.pop("--data.rows_per_step")
    assert (data["num_trained_rows"], settings[product]) == (16, 4)
    before = {
        **{part: checkpoint[part] for part in LAYOUT},
        "settings": settings,
        "DescriptionData": {"num_trained_rows": 16, "corpus": data["corpus"]},
        "random_states": {n: s for n, s in checkpoint["random_states"].items() if n != "device"},
        "callbacks": {
            "BestAdapter": {"best_loss": None},
            "ResumeCheckpoint": {
                **{"saved_step": 4, "validation_due": True, "is_last": False},
                "logged": saver["logged"],
            },
        },
    }
    folder = whole.run.path.with_name("before")
    write_sealed(serialized(before), RunFolder(folder).checkpoint(4))
    steps: list[int] = []
    training_step = DescriptionModule.training_step

    def noting(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        steps.append(self.trainer.global_step)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(DescriptionModule, "training_step", noting)
    ended = fit("before", lambda name: False)
    assert steps == [4, 4, 5, 5]
    assert_equal(ended.weights, whole.weights)
    assert_equal(ended.adapter(), whole.adapter())


# What it says of the base


def test_files_of_the_base_that_are_replaced_in_a_fit_change_nothing_of_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The base was trained on as it was loaded; scores with another one are refused."""
    base, run = tmp_path / "base", RunFolder(tmp_path / "run")
    shutil.copytree(TINY_BASE, base)
    loaded, weights = fingerprint(base), load_file(base / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    training_step = DescriptionModule.training_step

    def replacing(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 1:
            save_file(weights, tmp_path / "other", metadata={"format": "pt"})
            (tmp_path / "other").replace(base / "model.safetensors")
        return training_step(self, batch, batch_idx)

    command = ["fit", *SMALL, "--trainer.default_root_dir", str(run.path)]
    command += ["--model.backbone", str(base)]
    with monkeypatch.context() as patch:
        patch.setattr(DescriptionModule, "training_step", replacing)
        assert exit_code(command) == 2
    found = fingerprint(base)
    assert found != loaded
    said = capfd.readouterr().err
    assert f"--model.backbone {base}: wanted the files that were there" in said
    assert f"found other weights (sha256 {found[:12]}, before {loaded[:12]}). Put those" in said
    files = run.checkpoint_files()
    assert len(files) == 2
    for path in files:
        assert read_checkpoint(path)["identity"]["base_sha256"] == loaded
    record = json.loads((run.adapter / "amazon_desc.json").read_text())
    assert record["base_sha256"] == loaded

    shutil.copy(TINY_BASE / "model.safetensors", base)
    assert exit_code(command) == 0
    assert run.is_finished()


# Which weights are used


def test_trained_weights_are_found_and_the_model_stays_as_it_was(whole: Ended):
    base = str(whole.run.path.with_name("base"))
    model, data = DescriptionModule(backbone=base, lora=LoraSettings(r=4)), DescriptionData()
    adapter, checkpoint = whole.run.adapter, whole.run.checkpoint_files()[0]
    found = find_weights(whole.run, None, model, data)
    assert found == (adapter / ADAPTER_WEIGHTS, str(adapter))
    assert find_weights(whole.run, checkpoint, model, data) == (checkpoint, None)
    assert model.adapter is None
