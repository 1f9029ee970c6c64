"""The quickstart on a CUDA device, in the precision and on the path of the card and of a T4."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

import amazon_desc.training.module
from amazon_desc import Describer
from amazon_desc.cli import main
from amazon_desc.model.backbone import load_backbone
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.logger import read_scalars
from amazon_desc.support.hub import find_backbone
from amazon_desc.training.module import DescriptionModule
from tests.conftest import load_script

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("precision", "kernels"),
    [("bf16-mixed", "fused"), ("16-mixed", "fused"), ("16-mixed", "plain")],
)
def test_it_learns_and_writes_on_the_card(
    precision: str, kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = RunFolder(tmp_path / "run")
    options = [
        *("--config", "configs/quickstart.yaml", "--trainer.accelerator", "gpu"),
        *("--trainer.default_root_dir", str(run.path), "--trainer.precision", precision),
        *("--trainer.max_steps", "100", "--data.num_scored", "20"),
        *("--model.kernels", kernels),
    ]
    main(["fit", *options])
    scores = json.loads(run.metrics.read_text())["validate"]
    assert scores["tuned"]["loss"] < 0.8 * scores["base"]["loss"]
    before = run.metrics.read_text()
    main(["validate", *options])
    assert json.loads(run.metrics.read_text()) == json.loads(before)
    titles = tmp_path / "titles.txt"
    titles.write_text("Teal Mug\nOak Lamp\n")
    main(["predict", *options, "--data.titles", str(titles)])
    assert len((run.predictions / "titles.txt.jsonl").read_text().splitlines()) == 2
    describer = Describer.from_run(run.path, accelerator="gpu")
    for has_lora in (True, False):
        *parts, whole = describer.stream("Teal Mug", has_lora=has_lora)
        assert parts
        assert [whole] == describer.write([("Teal Mug", "")], describer.decoding, has_lora=has_lora)


def test_the_four_bit_base_lies_on_the_card() -> None:
    model = load_backbone(find_backbone("tiny"), "nf4", torch.bfloat16, torch.device("cuda", 0))
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_a_run_that_is_stopped_and_gone_on_with_ends_with_the_same_bits(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, accumulation, a scaler in float16, and a validation in between."""
    monkeypatch.chdir(ROOT)
    titles = tmp_path / "titles.txt"
    titles.write_text("Teal Mug\nOak Lamp\n")
    bench = load_script("bench_resume")

    def call(command: str, name: str) -> int:
        options = [
            *("--config", "configs/quickstart.yaml", "--trainer.accelerator", "gpu"),
            *("--trainer.default_root_dir", str(tmp_path / name), "--trainer.max_steps", "40"),
            *("--trainer.precision", precision, "--data.rows_per_step", "8"),
            *("--trainer.val_check_interval", "15", "--model.lora.dropout", "0.1"),
            *("--data.num_scored", "20", "--data.num_products", "2000"),
            *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
            *(("--data.titles", str(titles)) if command == "predict" else ()),
        ]
        try:
            main([command, *options])
        except SystemExit as exit_:
            return int(exit_.code or 0)
        return 0

    for name in ("untouched", "repeated"):
        assert call("fit", name) == 0
        assert call("predict", name) == 0
    for number in (17, 31):
        with monkeypatch.context() as patch:
            stopping = stop_at(number, DescriptionModule.training_step)
            patch.setattr(DescriptionModule, "training_step", stopping)
            assert call("fit", "stopped") == 143
    assert call("fit", "stopped") == 0
    assert call("predict", "stopped") == 0
    untouched = bench.outcome(tmp_path / "untouched")
    assert bench.outcome(tmp_path / "repeated") == untouched
    assert bench.outcome(tmp_path / "stopped") == untouched


def test_over_200_steps_the_fused_loss_is_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, whose masks differ; a last smaller batch and validations in between.

    At the quickstart's own learning rate the loss falls by steps, and rounding decides when.
    """
    from amazon_desc.model.kernels import step

    monkeypatch.chdir(ROOT)
    captured, graphs = [], step.Graphs

    def counted(*arguments: Any) -> Any:
        captured.append(arguments)
        return graphs(*arguments)

    monkeypatch.setattr(step, "Graphs", counted)
    losses = {}
    for kernels in ("plain", "fused"):
        run = RunFolder(tmp_path / kernels)
        options = [
            *("--config", "configs/quickstart.yaml", "--trainer.accelerator", "gpu"),
            *("--trainer.default_root_dir", str(run.path), "--trainer.precision", "bf16-mixed"),
            *("--trainer.max_steps", "200", "--trainer.val_check_interval", "80"),
            *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
            *("--model.kernels", kernels, "--model.lora.dropout", "0"),
            *("--model.optimizer.init_args.lr", "1e-3"),
            *("--data.num_scored", "20", "--data.row_tokens", "1024", "--trainer.max_epochs", "2"),
        ]
        main(["fit", *options])
        losses[kernels] = [of.value for of in read_scalars(run.tensorboard)["train/loss"]]
    plain, fused = (torch.tensor(losses[name]) for name in ("plain", "fused"))
    assert len(plain) == len(fused) == 200
    assert float(plain[-20:].mean()) < 0.9 * float(plain[:20].mean())
    apart = fused.view(10, 20).mean(1) / plain.view(10, 20).mean(1) - 1
    assert float(apart.abs().max()) < 0.005, apart
    assert len(captured) == 3  # anew behind each validation in between, which took their memory


@pytest.mark.parametrize(("free_gib", "rows"), [(None, 4), (0.15, 1)])
def test_rows_of_a_micro_batch_are_as_many_as_fit_and_the_steps_the_same(
    free_gib: float | None, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 rows of 512 tokens a step; little memory also has layers made again."""
    monkeypatch.chdir(ROOT)
    if free_gib is not None:
        total = torch.cuda.mem_get_info()[1]
        few = lambda *_: (int(free_gib * 2**30), total)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "mem_get_info", few)
    losses = {}
    for name, options in {
        "auto": ["--data.batch_size", "auto"],
        "four": ["--data.batch_size", "4", "--model.recompute", "none"],
    }.items():
        run = RunFolder(tmp_path / name)
        options += ["--trainer.default_root_dir", str(run.path), "--trainer.max_steps", "20"]
        options += ["--trainer.accelerator", "gpu", "--trainer.log_every_n_steps", "1"]
        options += ["--model.lora.dropout", "0", "--data.num_scored", "4"]
        main(["fit", "--config", "configs/quickstart.yaml", *options])
        losses[name] = [of.value for of in read_scalars(run.tensorboard)["train/loss"]]
    assert json.loads((tmp_path / "auto/run.json").read_text())["batch_size"] == rows
    assert len(losses["auto"]) == 20
    assert losses["auto"] == pytest.approx(losses["four"], rel=0.005)


def stop_at(number: int, step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Has SIGTERM come during the micro-batch of that number, from 1."""
    num_calls = 0

    def stopping(*arguments: object) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    return stopping


OPTIONS = [
    *("--config", "configs/quickstart.yaml", "--trainer.accelerator", "gpu"),
    *("--trainer.max_steps", "30", "--trainer.enable_progress_bar", "false"),
    *("--data.num_scored", "20", "--data.num_products", "2000"),
]


@pytest.mark.parametrize("log_every", [1, 1000])
@pytest.mark.parametrize(
    ("what", "precision"),
    [
        *(("loss", "bf16-mixed"), ("loss", "16-mixed"), ("loss", "32-true")),
        *(("gradient", "bf16-mixed"), ("gradient", "32-true")),
    ],
)
def test_what_is_not_finite_never_reaches_a_weight_and_its_own_step_is_named(
    what: str,
    precision: str,
    log_every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where no step waits for the card, others are begun before the host knows of the bad one.

    The checkpoint that is due at step 9 waits for it at the latest.
    """
    monkeypatch.chdir(ROOT)
    steps: list[int] = []
    weights: list[torch.Tensor] = []
    loss, step = amazon_desc.training.module.target_loss, DescriptionModule.training_step

    def spoilt(*arguments: object) -> tuple[torch.Tensor, int]:
        loss_sum, num_targets = loss(*arguments)  # pyright: ignore[reportArgumentType]
        if len(steps) != 7:
            return loss_sum, num_targets
        if what == "loss":
            return loss_sum * float("nan"), num_targets
        loss_sum.register_hook(lambda gradient: gradient * float("nan"))
        return loss_sum, num_targets

    def noting(self: DescriptionModule, *arguments: object) -> torch.Tensor:
        steps.append(self.data.num_trained_rows)
        weights.append(torch.cat([p.detach().flatten() for p in trained(self)]))
        return step(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(amazon_desc.training.module, "target_loss", spoilt)
    monkeypatch.setattr(DescriptionModule, "training_step", noting)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                *("fit", *OPTIONS, "--trainer.default_root_dir", str(run.path)),
                *("--trainer.precision", precision, "--checkpoint.every_n_steps", "3"),
                *("--trainer.log_every_n_steps", str(log_every), "--model.kernels", "plain"),
            ]
        )
    assert exit_.value.code == 5
    err = capfd.readouterr().err
    assert f"the {what} of optimizer step 7 is NaN or infinite" in err
    assert err.count("(begins") == steps[1] - steps[0] == 4
    assert 7 <= len(steps) <= 9
    assert not torch.equal(weights[5], weights[6])
    for later in weights[7:]:
        assert torch.equal(later, weights[6])
    newest = run.checkpoint_files()[0]
    assert newest.name == "step=00000006.ckpt"
    saved = torch.load(newest, weights_only=True, map_location="cuda")["state_dict"]
    assert torch.equal(torch.cat([tensor.flatten() for tensor in saved.values()]), weights[6])


def trained(module: DescriptionModule) -> list[torch.Tensor]:
    return [p for p in module.network.parameters() if p.requires_grad]


def test_an_ordinary_step_does_not_wait_for_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the first steps torch refuses what would wait, where nothing is logged or saved."""
    monkeypatch.chdir(ROOT)
    strict: list[int] = []
    advance = _TrainingEpochLoop.advance

    def watched(self: _TrainingEpochLoop, fetcher: object) -> None:
        step = self.trainer.global_step
        if step >= 10 and not self.trainer._logger_connector.should_update_logs:
            strict.append(step)
            torch.cuda.set_sync_debug_mode("error")
        try:
            advance(self, fetcher)  # pyright: ignore[reportArgumentType]
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    options = [*OPTIONS, "--trainer.precision", "bf16-mixed", "--model.kernels", "fused"]
    main(["fit", *options, "--trainer.default_root_dir", str(tmp_path / "run")])
    assert strict == [*range(10, 19), *range(20, 29)]


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_as_asked_in_every_precision(
    precision: str, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning itself refuses to clip for a fused optimizer in mixed precision."""
    monkeypatch.chdir(ROOT)
    largest: list[float] = []
    clip = DescriptionModule.configure_gradient_clipping

    def noting(self: DescriptionModule, *arguments: Any, **named: Any) -> None:
        clip(self, *arguments, **named)
        gradients = [p.grad.flatten() for p in trained(self) if p.grad is not None]
        together = torch.cat(gradients)
        largest.append(float(together.norm() if algorithm == "norm" else together.abs().max()))

    monkeypatch.setattr(DescriptionModule, "configure_gradient_clipping", noting)
    options = [*OPTIONS, "--trainer.precision", precision, "--trainer.gradient_clip_val", "1e-3"]
    options += ["--trainer.gradient_clip_algorithm", algorithm, "--trainer.max_steps", "5"]
    main(["fit", *options, "--trainer.default_root_dir", str(tmp_path / "run")])
    assert largest == pytest.approx([1e-3] * 5, rel=1e-2)
