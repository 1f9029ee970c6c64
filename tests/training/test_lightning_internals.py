"""What is used of Lightning without being documented by it is there, and does what is said of it.

Everything here runs in real fits of the real Lightning: a version that takes a name away, or means
something else by it, fails here.
"""

import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoop
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from amazon_desc.training.lightning_internals import (
    OptionsOnlyCLI,
    SparingBar,
    count_micro_batches_anew,
    is_step_done,
    is_step_logged,
    is_stopping,
    is_validated,
    leave_signals_alone,
    leaves_unscaling_to,
    numbers_to_log,
    validate,
)


class Line(L.LightningModule):
    """Learns one number, and notes what it was trained on and when it was validated."""

    def __init__(self, fused: bool | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.fused = fused
        self.sums: list[float] = []
        self.validated: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.sums.append(float(batch.sum()))
        loss = (self.weight * batch).sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.trainer.global_step)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1, fused=self.fused)


class Noting(Callback):
    """Asks at the end of each micro-batch, as a callback that saves or logs does."""

    def __init__(self, question: Any) -> None:
        self.question = question
        self.answers: list[Any] = []

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.answers.append(self.question(trainer))


class Kept(Logger):
    """Keeps the losses that reach it, by optimizer step from 1."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.losses: dict[int, float] = {}

    def log_hyperparams(self, *arguments: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "loss" in metrics:
            assert step is not None
            self.losses[step + 1] = metrics["loss"]


def rows(num: int, batch_size: int = 1) -> DataLoader[Any]:
    numbers = torch.arange(1, num + 1, dtype=torch.float32)
    return DataLoader(TensorDataset(numbers), batch_size, collate_fn=torch_of)


def torch_of(rows: list[tuple[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([row[0] for row in rows])


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> L.Trainer:
    """Steps of 2 micro-batches, a validation every 3 steps."""
    given: dict[str, Any] = {
        **{"accumulate_grad_batches": 2, "val_check_interval": 6, "max_epochs": 1},
        **{"check_val_every_n_epoch": None, "accelerator": "cpu", "logger": False},
        **{"enable_progress_bar": False, "enable_model_summary": False},
        **{"num_sanity_val_steps": 0, "enable_checkpointing": False},
    }
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**given, **options})


def answers(folder: Path, question: Any, num_micro_batches: int, **options: Any) -> list[Any]:
    noting = Noting(question)
    trainer(folder, noting, **options).fit(Line(), rows(num_micro_batches), rows(2))
    return noting.answers


# Of a micro-batch


def test_a_step_is_done_with_its_last_micro_batch_and_with_that_of_the_run(tmp_path: Path):
    assert answers(tmp_path, is_step_done, 5) == [False, True, False, True, True]
    assert answers(tmp_path, is_step_done, 3, accumulate_grad_batches=1) == [True] * 3


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), (0, [])]
)
def test_a_step_is_logged_exactly_where_its_numbers_reach_the_logger(
    every: int, steps: list[int], tmp_path: Path
):
    def question(trainer: L.Trainer) -> tuple[bool, int, list[str]]:
        return is_step_logged(trainer), trainer.global_step, list(numbers_to_log(trainer))

    logger = Kept()
    found = answers(tmp_path, question, 12, logger=logger, log_every_n_steps=every)
    assert [step for is_logged, step, _ in found if is_logged] == steps
    assert all(names == ["loss"] for _, _, names in found)
    assert list(logger.losses) == steps


def test_a_run_that_is_told_to_stop_does_so_with_the_step_that_says_it_is_stopping(tmp_path: Path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
            trainer.should_stop |= trainer.global_step == 2

    for least, steps in ((None, [2]), (4, [4])):
        noting = Noting(lambda t: (is_step_done(t) and is_stopping(t), t.global_step))
        fit = trainer(tmp_path, Stop(), noting, min_steps=least, min_epochs=0)
        fit.fit(Line(), rows(12), rows(2))
        assert [step for is_last, step in noting.answers if is_last] == steps
        assert fit.global_step == steps[-1]


def test_the_last_step_is_logged_too_if_the_trainer_is_told_to_stop(tmp_path: Path):
    class Stop(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
            trainer.should_stop = trainer.is_last_batch

    noting, logger = Noting(lambda t: (is_step_logged(t), t.global_step)), Kept()
    fit = trainer(tmp_path, Stop(), noting, logger=logger, log_every_n_steps=4)
    fit.fit(Line(), rows(11), rows(2))
    assert [step for is_logged, step in noting.answers if is_logged] == [4, 6]
    assert list(logger.losses) == [4, 6]


def test_what_is_about_to_be_logged_is_what_is_logged(tmp_path: Path):
    logger = Kept()
    found = answers(tmp_path, numbers_to_log, 4, logger=logger, log_every_n_steps=1)
    logged = [float(numbers["loss"]) for numbers in found[1::2]]
    assert logger.losses == {1: logged[0], 2: logged[1]}


@pytest.mark.parametrize(("num", "validated"), [(14, [3, 6]), (12, [3, 6])])
def test_a_validation_is_foreseen_where_it_follows(num: int, validated: list[int], tmp_path: Path):
    noting, model = Noting(lambda t: (is_validated(t), t.global_step)), Line()
    trainer(tmp_path, noting).fit(model, rows(num), rows(2))
    assert [step for is_, step in noting.answers if is_] == validated
    assert model.validated == [step for step in validated for _ in range(2)]


# Of a whole fit


def test_a_validation_in_the_middle_of_a_fit_leaves_the_training_as_it_is(tmp_path: Path):
    class First(Callback):
        def on_train_start(self, trainer: L.Trainer, *arguments: Any) -> None:
            validate(trainer)
            assert trainer.training

    plain, validated = Line(), Line()
    trainer(tmp_path).fit(plain, rows(8), rows(2))
    trainer(tmp_path, First()).fit(validated, rows(8), rows(2))
    assert plain.validated == [3, 3]
    assert validated.validated == [0, 0, 3, 3]
    assert validated.sums == plain.sums
    assert torch.equal(validated.weight, plain.weight)


@pytest.mark.parametrize("is_left_alone", [True, False])
def test_sigterm_is_left_to_whoever_had_it(is_left_alone: bool, tmp_path: Path):
    """Lightning's handler would have all processes talk to each other in the middle of anything."""
    noting = Noting(lambda _: signal.getsignal(signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    fit = trainer(tmp_path, noting)
    assert callable(type(fit.fit_loop.epoch_loop)._broadcast_sigterm_tensor)
    if is_left_alone:
        leave_signals_alone(fit)
    fit.fit(Line(), rows(2), rows(2))
    assert [found == handler for found in noting.answers] == [is_left_alone] * 2
    assert signal.getsignal(signal.SIGTERM) == handler


def loops(**counts: int) -> dict[str, Any]:
    """Returns the part of a checkpoint that counts micro-batches, with the same counts twice."""
    progress = {"total": {**counts}, "current": {**counts}, "is_last_batch": False}
    return {"loops": {"fit_loop": {"epoch_loop.batch_progress": progress, "other": {"ready": 77}}}}


def counted(num_rows: int, batch_size: int, **counts: int) -> dict[str, Any]:
    checkpoint = loops(**counts)
    count_micro_batches_anew(checkpoint, num_rows, batch_size)
    return checkpoint["loops"]["fit_loop"]


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "num", "completed"),
    [
        (6, 2, 3, 2),  # the worked example
        (6, 3, 2, 1),
        (6, 6, 1, 0),
        (6, 1, 6, 5),
        (2000, 8, 250, 249),
        (7, 2, 4, 3),  # the last one of a run, which is smaller
        (7, 4, 2, 1),
        (1, 4, 1, 0),
    ],
)
def test_the_rows_trained_on_are_counted_in_micro_batches_of_this_run(
    num_rows: int, batch_size: int, num: int, completed: int
):
    fit_loop = counted(num_rows, batch_size, ready=3, started=3, processed=3, completed=2)
    expected = {"ready": num, "started": num, "processed": num, "completed": completed}
    progress = fit_loop["epoch_loop.batch_progress"]
    assert (progress["total"], progress["current"]) == (expected, expected)
    assert progress["is_last_batch"] is False
    assert fit_loop["other"] == {"ready": 77}


def test_micro_batches_of_the_same_size_keep_their_counts():
    counts = {"ready": 5, "started": 5, "processed": 5, "completed": 4}
    assert counted(10, 2, **counts)["epoch_loop.batch_progress"]["total"] == counts


def test_lightning_counts_on_in_micro_batches_of_the_new_size(tmp_path: Path):
    """12 rows in steps of 4: one step of micro-batches of 2, then two of micro-batches of 4."""
    saved = tmp_path / "saved.ckpt"

    class Save(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
            if trainer.global_step == 1 and is_step_done(trainer):
                trainer.save_checkpoint(saved)

    class Anew(Line):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            count_micro_batches_anew(checkpoint, 4, 4)

    trainer(tmp_path, Save()).fit(Line(), rows(12, 2))
    noting = Noting(lambda t: (t.global_step, t.fit_loop.epoch_loop.batch_idx, t.is_last_batch))
    whole, rest = rows(12, 4), Anew()
    rest.train_dataloader = lambda: FromSecond(whole)  # type: ignore[method-assign]
    trainer(tmp_path, noting, accumulate_grad_batches=1).fit(rest, ckpt_path=saved)
    assert noting.answers == [(2, 1, False), (3, 2, True)]
    assert rest.sums == [26.0, 42.0]


class FromSecond:
    """The micro-batches from the second on; its length is that of all, as RowOrder's is."""

    def __init__(self, whole: DataLoader[Any]) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole)

    def __iter__(self) -> Any:
        return iter(list(self.whole)[1:])


@pytest.mark.parametrize("fused", [False, True])
def test_lightning_leaves_the_scale_of_float16_to_optimizers_that_know_it(
    fused: bool, tmp_path: Path
):
    """The gradient of a row of 1 is 1, and 8 as long as the loss is scaled by 8."""
    found: list[tuple[bool, float]] = []

    class Scaled(Line):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            assert self.weight.grad is not None
            found.append((leaves_unscaling_to(optimizer), float(self.weight.grad)))

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))
    fit = trainer(tmp_path, accumulate_grad_batches=1, plugins=[plugin])
    fit.fit(Scaled(fused), rows(1))
    assert found == [(fused, 8.0 if fused else 1.0)]


# Classes


class Options(Line):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.width = width


@pytest.mark.parametrize(("kind", "width"), [(LightningCLI, 77), (OptionsOnlyCLI, 5)])
@pytest.mark.filterwarnings("ignore")  # of Lightning's own use of jsonargparse
def test_a_checkpoint_says_nothing_about_options(
    kind: type[LightningCLI], width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Lightning's own takes the checkpoint's, even over what was typed."""
    path = tmp_path / "of_others.ckpt"
    torch.save({"hyper_parameters": {"width": 77}}, path)
    found: list[int] = []
    monkeypatch.setattr(kind, "_run_subcommand", lambda self, name: found.append(self.model.width))
    arguments = ["validate", "--model.width=5", f"--ckpt_path={path}", "--trainer.logger=false"]
    kind(Options, save_config_callback=None, args=[*arguments, "--trainer.accelerator=cpu"])
    assert found == [width]


@pytest.mark.filterwarnings("ignore")  # of Lightning's own use of jsonargparse
@pytest.mark.parametrize("given", ["1", "0.5"])
def test_a_whole_number_is_none_that_is_a_share(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However the annotations that mean the same are turned."""
    added = LightningArgumentParser.add_lightning_class_args

    def turned(parser: LightningArgumentParser, *arguments: Any, **named: Any) -> Any:
        names = added(parser, *arguments, **named)
        for action in parser._actions:
            if action.dest.startswith("trainer.limit_"):
                action._typehint = float | int | None  # pyright: ignore[reportAttributeAccessIssue]
        return names

    monkeypatch.setattr(LightningArgumentParser, "add_lightning_class_args", turned)
    monkeypatch.setattr(OptionsOnlyCLI, "_run_subcommand", lambda self, name: None)
    (tmp_path / "a.yaml").write_text(f"trainer: {{limit_test_batches: {given}, accelerator: cpu}}")
    typed = [f"--trainer.limit_predict_batches={given}", "--trainer.limit_val_batches=2"]
    arguments = ["validate", f"--config={tmp_path / 'a.yaml'}", *typed, "--trainer.logger=false"]
    trainer = OptionsOnlyCLI(Options, save_config_callback=None, args=arguments).trainer
    wanted = int(given) if given == "1" else float(given)
    for found in (trainer.limit_predict_batches, trainer.limit_test_batches):
        assert (found, type(found)) == (wanted, type(wanted))
    assert type(trainer.limit_val_batches) is int


def test_a_bar_is_drawn_only_where_it_is_due(tmp_path: Path):
    class Third(SparingBar):
        def is_due(self, current: int, total: int) -> bool:
            return current % 3 == 0

    bar, shown = Third(), []

    class Look(Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            shown.append(bar.train_progress_bar.n)

    fit = trainer(tmp_path, bar, Look(), enable_progress_bar=True)
    fit.fit(Line(), rows(7))
    assert shown == [0, 0, 3, 3, 3, 6, 6]


@pytest.mark.parametrize(("is_told", "num_asked"), [(False, 3), (True, 0)])
def test_processes_do_not_ask_each_other_for_a_signal_at_each_micro_batch(
    is_told: bool, num_asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Lightning's own asks through the card, and the host waits for the answer."""
    asked: list[int] = []
    monkeypatch.setattr(
        TrainingEpochLoop, "_broadcast_sigterm_tensor", lambda loop: asked.append(1)
    )
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    fit = trainer(tmp_path, accumulate_grad_batches=1)
    if is_told:
        leave_signals_alone(fit)
    try:
        fit.fit(Line(), rows(3, 1))
    finally:
        torch.distributed.destroy_process_group()
    assert len(asked) == num_asked
