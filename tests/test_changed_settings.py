"""A run is resumed under other settings: refused where they decide what it ends with.

One fit is stopped in the middle of its steps, another is left to finish. Both are called again with
other options. What decides the weights is refused with old and new value and the way out, and no
file is touched; with what does not, the run ends as the one that nobody touched, to the last bit.
"""

import gzip
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import amazon_desc.cli
import amazon_desc.model.backbone
from amazon_desc.run.checkpoints import read_checkpoint, serialized, write_sealed
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.support.resources import SAMPLE_PRODUCTS
from amazon_desc.training.module import DescriptionModule
from tests.conftest import commands_in, exit_code, load_script, slow_case
from tests.shallow_base import shallow_base

bench = load_script("bench_resume")

# Optimizer steps of 2 micro-batches of 2 rows; 2 epochs.
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "40", "--data.row_tokens", "256", "--data.num_scored", "4"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.1", "--data.batch_size", "2"),
    *("--data.generation_batch_size", "2"),
    *("--model.decoding.max_new_tokens", "4"),
    *("--model.lora.r", "4"),
    *("--model.lora.dropout", "0.1", "--trainer.max_epochs", "2"),
    *("--data.rows_per_step", "4", "--trainer.val_check_interval", "4"),
    *("--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"),
]
NUM_STOPPED = 3  # optimizer steps

Call = Callable[..., int]
Files = dict[Path, tuple[int, bytes]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs, titles, a file of products, a base, and that with one other weight."""
    place = tmp_path_factory.mktemp("changed")
    (place / "titles.txt").write_text("Red Mug\nTeal Lamp\nOak Desk\nWool Hat\nTin Box\n")
    shutil.copy(SAMPLE_PRODUCTS, place / "products.json.gz")
    base = shallow_base(place / "base")
    shutil.copytree(base, place / "moved_base")
    shutil.copytree(base, place / "other_base")
    weights = load_file(place / "other_base/model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, place / "other_base/model.safetensors", metadata={"format": "pt"})
    return place


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    files = ["--data.train_file", str(place / "products.json.gz")]
    return commands_in(place, [*SMALL, *files, "--model.backbone", str(place / "base")])


def stop_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Has SIGTERM come in the micro-batch of that number, from 1: its step is still made."""
    num_calls = 0
    training_step = DescriptionModule.training_step

    def stopped(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, batch, batch_idx)

    patch.setattr(DescriptionModule, "training_step", stopped)


@pytest.fixture(scope="module")
def finished(call: Call, place: Path) -> RunFolder:
    """A run that nobody touched."""
    assert call("fit", "finished") == 0
    assert call("predict", "finished") == 0
    return RunFolder(place / "finished")


@pytest.fixture(scope="module")
def untouched(finished: RunFolder) -> dict[str, str]:
    """What that run ended with."""
    return bench.outcome(finished.path)


@pytest.fixture(scope="module")
def stopped(call: Call, place: Path) -> RunFolder:
    """A run that was stopped in the middle."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2 * NUM_STOPPED)
        assert call("fit", "stopped") == 143
    run = RunFolder(place / "stopped")
    assert run.checkpoint_files()[0] == run.checkpoint(NUM_STOPPED)
    return run


def files_of(folder: Path) -> Files:
    found = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}
    assert len(found) > 3
    return found


def scores_of(folder: Path, command: str) -> dict[str, dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())[command]


# Refused: what decides

DECIDING = [
    ("--seed_everything 7", "--seed_everything: 1234, now 7"),
    ("--trainer.max_epochs 3", "--trainer.max_epochs: 2, now 3"),
    ("--trainer.max_steps 20", "--trainer.max_steps: -1, now 20"),
    ("--trainer.val_check_interval 3", "--trainer.val_check_interval: 4, now 3"),
    ("--trainer.gradient_clip_val 0.5", "--trainer.gradient_clip_val: 1.0, now 0.5"),
    ("--trainer.precision bf16-mixed", ", now 'bf16-mixed'"),
    ("--model.lora.alpha 64", "--model.lora.alpha: 32, now 64"),
    ("--model.lora.dropout 0", "--model.lora.dropout: 0.1, now 0.0"),
    ("--model.lora.use_rslora true", "--model.lora.use_rslora: False, now True"),
    ("--model.lora.use_dora true", "--model.lora.use_dora: False, now True"),
    ("--model.optimizer.lr 0.1", "--model.optimizer.init_args.lr: 0.004, now 0.1"),
    ("--model.optimizer torch.optim.SGD", "class_path: 'torch.optim.AdamW', now 'torch.optim.SGD'"),
    ("--model.schedule linear", "--model.schedule: 'cosine', now 'linear'"),
    ("--model.warmup_fraction 0.5", "--model.warmup_fraction: 0.03, now 0.5"),
    ("--model.warmup_steps 5", "--model.warmup_steps: None, now 5"),
    ("--model.final_lr_fraction 0.5", "--model.final_lr_fraction: 0.1, now 0.5"),
    ("--data.row_tokens 512", "--data.row_tokens: 256, now 512"),
    ("--data.max_seq_length 128", "--data.max_seq_length: 256, now 128"),
    ("--data.num_products 30", "--data.num_products: 40, now 30"),
    ("--data.validation_fraction 0.2", "--data.validation_fraction: 0.1, now 0.2"),
    ("--data.loss_on all", "--data.loss_on: 'completion', now 'all'"),
    ("--data.cleaning.tags false", "--data.cleaning.tags: True, now False"),
    ("--data.rows_per_step 8", "--data.rows_per_step: 4, now 8"),
]

# What the weights belong to as well: whoever uses them is asked for it.
IDENTITY = [
    ("--model.quantization none", "nf4", "none"),
    ("--data.prompt.template {title}:", "Write a description", "{title}:"),
    ("--model.lora.r 8", "--model.lora.r: 4", ", now 8"),
    ("--model.backbone PLACE/other_base", "/base (sha256 ", "/other_base (sha256 "),
]


@pytest.fixture
def refusal(
    call: Call, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Returns a function that has a command refused, touching nothing, and returns what it says."""

    def load_backbone(*_: Any) -> None:
        raise AssertionError("a base is loaded")

    def refusal(command: str, run: RunFolder, options: str) -> str:
        before = files_of(run.path)
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(amazon_desc.model.backbone, "load_backbone", load_backbone)
            given = options.replace("PLACE", str(place)).split(" ")
            assert call(command, str(run.path.relative_to(place)), *given) == 2
        assert files_of(run.path) == before
        err = capfd.readouterr().err
        assert "Traceback" not in err
        return err

    return refusal


# Where these are changed, the trained weights do not fit.
SHAPES = ("--model.backbone", "--model.lora.r", "--model.lora.alpha", "--model.lora.use_")


def assert_the_way_out_is_named(said: str, run: RunFolder, options: str = "") -> None:
    assert "Or start anew with --trainer.default_root_dir NEW" in said
    further = f"--trainer.default_root_dir NEW; with --model.adapter {run.adapter} as well"
    assert (further in said) == (not options.startswith(SHAPES))


# Each is given with none that it replaces, or that hides it.
ALONE = ("--trainer.precision", "--model.optimizer ", "--model.warmup_steps")


def apart() -> list[list[tuple[str, str]]]:
    """Returns what decides in groups, each to be changed at once: with the same way out."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for options, change in DECIDING:
        group = options.split(".")[0]
        if options.startswith(SHAPES):
            group = "shapes"
        elif options.startswith(ALONE):
            group = options
        groups.setdefault(group, []).append((options, change))
    return list(groups.values())


@pytest.mark.parametrize("cases", apart(), ids=lambda cases: cases[0][0])
def test_what_decides_is_refused_with_both_values_and_the_way_out(
    cases: list[tuple[str, str]], stopped: RunFolder, refusal: Callable[..., str]
):
    """Each of them is shown, and nothing else."""
    said = refusal("fit", stopped, " ".join(options for options, _ in cases))
    assert f"the checkpoint {stopped.checkpoint(NUM_STOPPED)} was trained with other" in said
    lines = [line for line in said.splitlines() if ", now " in line]
    assert len(lines) == len(cases)
    for _, change in cases:
        assert sum(change in line for line in lines) == 1, change
    assert_the_way_out_is_named(said, stopped, cases[0][0])


def test_all_that_has_changed_is_shown_at_once(stopped: RunFolder, refusal: Callable[..., str]):
    said = refusal(
        "fit", stopped, "--seed_everything 7 --data.row_tokens 512 --trainer.max_steps 9"
    )
    assert [line.split(":")[0] for line in said.splitlines() if ", now " in line] == [
        *("  --seed_everything", "  --trainer.max_steps", "  --data.row_tokens"),
    ]


def test_a_data_file_of_other_content_is_refused(
    stopped: RunFolder, place: Path, refusal: Callable[..., str]
):
    other = place / "other.json.gz"
    other.write_bytes(gzip.compress(gzip.decompress(SAMPLE_PRODUCTS.read_bytes()) + b"\n"))
    said = refusal("fit", stopped, f"--data.train_file {other}")
    products, digest = re.escape(str(place / "products.json.gz")), r"\(sha256 (\w{12})\)"
    change = re.search(f"--data.train_file: {products} {digest}, now {other} {digest}\n", said)
    assert change
    assert change[1] != change[2]
    assert_the_way_out_is_named(said, stopped)


@pytest.mark.parametrize(("options", "old", "new"), IDENTITY, ids=[case[0] for case in IDENTITY])
def test_what_the_weights_belong_to_is_refused_with_both_values_and_the_way_out(
    options: str, old: str, new: str, stopped: RunFolder, refusal: Callable[..., str]
):
    said = refusal("fit", stopped, options)
    assert options.split(" ")[0] in said
    assert 0 < said.find(old) < said.find(new)
    assert_the_way_out_is_named(said, stopped, options)


@pytest.mark.slow
def test_another_precision_that_the_hardware_chooses_is_taken_and_said(
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """A run that was started on a card without bf16 comes to a card that has it."""
    name = copied(stopped)
    monkeypatch.setattr(amazon_desc.cli, "best_precision", lambda accelerator: "bf16-mixed")
    assert call("fit", name) == 0
    said = capfd.readouterr().out
    assert "now in bf16-mixed instead of 32-true, as the device has it" in said


@pytest.mark.slow
def test_another_kind_of_device_is_taken_and_said(
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    capfd: pytest.CaptureFixture[str],
):
    """A run that was started on a card comes to a machine that has none."""
    name = copied(stopped)
    path = RunFolder(place / name).checkpoint_files()[0]
    checkpoint = read_checkpoint(path)
    assert checkpoint["random_states"]["device"] == "cpu"
    checkpoint["random_states"] |= {"device": "cuda", "cuda": [torch.zeros(16).byte()]}
    write_sealed(serialized(checkpoint), path)
    assert call("fit", name) == 0
    assert "now on cpu instead of cuda: the last bits will differ" in capfd.readouterr().out


def test_a_checkpoint_named_from_another_folder_is_refused_too(
    stopped: RunFolder, call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    checkpoint = str(stopped.checkpoint(NUM_STOPPED))
    given = ("--ckpt_path", checkpoint, "--model.optimizer.lr", "0.1")
    assert call("fit", "from_there", *given) == 2
    assert "--model.optimizer.init_args.lr: 0.004, now 0.1" in capfd.readouterr().err
    assert not (place / "from_there").exists()


# A run that was begun before there was such an option had what is the default now

NEWER = ["--model.schedule", "--model.warmup_steps", "--model.lora.use_rslora"]
NEWER += ["--model.lora.use_dora"]
ROWS_PER_STEP = "--data.rows_per_step"
PRODUCT = "--data.batch_size x --trainer.accumulate_grad_batches"  # its name of before


def as_before(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a run as it was written before there were these options."""
    assert {*NEWER, ROWS_PER_STEP} <= set(settings)
    kept = {option: value for option, value in settings.items() if option not in NEWER}
    return {PRODUCT: kept.pop(ROWS_PER_STEP), **kept}


@pytest.fixture
def older(stopped: RunFolder, copied: Callable[..., str], place: Path) -> RunFolder:
    """The stopped run, as it was written before there were these options."""
    run = RunFolder(place / copied(stopped))
    for path in run.checkpoint_files():
        checkpoint = read_checkpoint(path)
        checkpoint["settings"] = as_before(checkpoint["settings"])
        write_sealed(serialized(checkpoint), path)
    return run


@pytest.mark.slow
def test_a_run_from_before_there_was_an_option_goes_on_and_ends_the_same(
    older: RunFolder, call: Call, place: Path, untouched: dict[str, str]
):
    name = str(older.path.relative_to(place))
    assert call("fit", name) == 0
    assert call("predict", name) == 0
    assert bench.outcome(older.path) == untouched


@pytest.mark.parametrize(
    ("options", "change"),
    [case for case in DECIDING if case[0].split(" ")[0] in [*NEWER, ROWS_PER_STEP]],
)
def test_a_run_from_before_there_was_an_option_is_not_gone_on_with_under_it(
    options: str, change: str, older: RunFolder, refusal: Callable[..., str]
):
    said = refusal("fit", older, options)
    (line,) = [line for line in said.splitlines() if ", now " in line]
    assert change in line


def test_a_finished_run_from_before_is_known_as_finished(
    finished: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    refusal: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
):
    run = RunFolder(place / copied(finished))
    record = run.read_record()
    run.record.write_text(json.dumps({**record, "settings": as_before(record["settings"])}))
    assert call("fit", str(run.path.relative_to(place))) == 0
    assert "This run is finished" in capfd.readouterr().out
    assert "  --data.rows_per_step: 4, now 8\n" in refusal("fit", run, "--data.rows_per_step 8")


@pytest.mark.parametrize(
    ("data", "trainer", "words"),
    [
        (
            {"batch_size": 2},
            {"accumulate_grad_batches": 2},
            ("--trainer.accumulate_grad_batches 2: wanted 1", "Set --data.rows_per_step 4,"),
        ),
        (
            {"batch_size": 4},
            {"accumulate_grad_batches": 1},
            ("--data.batch_size 4: wanted a divisor", "or --data.rows_per_step to 4."),
        ),
    ],
    ids=["accumulated", "at once"],
)
def test_the_config_of_a_run_from_before_is_refused_by_fit_alone_with_what_to_set(
    data: dict[str, int],
    trainer: dict[str, int],
    words: tuple[str, str],
    finished: RunFolder,
    copied: Callable[..., str],
    place: Path,
    capfd: pytest.CaptureFixture[str],
):
    """With what it says, the run is taken; who scores or writes makes no optimizer steps."""
    run = RunFolder(place / copied(finished))
    config = yaml.safe_load(run.config.read_text())
    assert config["trainer"]["accumulate_grad_batches"] == 1, "what it follows from decides"
    assert (config["data"].pop("rows_per_step"), config["data"].pop("batch_size")) == (4, 2)
    config["trainer"] |= {**trainer, "default_root_dir": str(run.path)}
    config["data"] |= {**data, "titles": str(place / "titles.txt")}
    (place / "before.yaml").write_text(yaml.safe_dump(config))
    given = ["--config", str(place / "before.yaml")]
    assert exit_code(["fit", *given]) == 2
    said = capfd.readouterr().err
    assert all(word in said for word in words)
    rows = ["--trainer.accumulate_grad_batches", "1", "--data.rows_per_step", "4"]
    assert exit_code(["fit", *given, *rows]) == 0
    assert "This run is finished" in capfd.readouterr().out
    assert exit_code(["validate", *given]) == 0
    (run.predictions / "titles.txt.jsonl").unlink()
    assert exit_code(["predict", *given]) == 0


def test_the_config_of_a_run_from_before_decoding_was_a_group_still_writes(
    finished: RunFolder,
    copied: Callable[..., str],
    place: Path,
    capfd: pytest.CaptureFixture[str],
):
    """As it was; who types the option, or trains with it, is told its name of now."""
    run = RunFolder(place / copied(finished))
    config = yaml.safe_load(run.config.read_text())
    assert config["model"].pop("decoding")["max_new_tokens"] == 4
    config["model"]["max_new_tokens"] = 4
    config["trainer"]["default_root_dir"] = str(run.path)
    config["data"]["titles"] = str(place / "titles.txt")
    (place / "decoding before.yaml").write_text(yaml.safe_dump(config))
    given = ["--config", str(place / "decoding before.yaml")]
    written = run.predictions / "titles.txt.jsonl"
    expected = written.read_bytes()
    written.unlink()
    assert exit_code(["predict", *given]) == 0
    assert written.read_bytes() == expected
    capfd.readouterr()
    assert exit_code(["predict", *given, "--model.decoding.max_new_tokens", "128"]) == 2
    assert "--model.decoding.max_new_tokens: 4, now 128" in capfd.readouterr().err
    wanted = "--model.max_new_tokens 4: wanted its name of now, --model.decoding.max_new_tokens."
    assert exit_code(["predict", *given, "--model.max_new_tokens", "4"]) == 2
    assert wanted in capfd.readouterr().err
    assert exit_code(["fit", *given]) == 2
    assert wanted in capfd.readouterr().err
    new = ["--model.max_new_tokens", "null", "--model.decoding.max_new_tokens", "4"]
    assert exit_code(["fit", *given, *new]) == 0
    assert "This run is finished" in capfd.readouterr().out


# Taken: how, where and how fast

OPERATIONAL = {
    "loader processes": "--data.num_workers 2",
    "checkpoints": "--checkpoint.every_n_steps 1 --checkpoint.keep 5",
    "the same base elsewhere": "--model.backbone PLACE/moved_base",
    "the rest": "--data.verify always --data.prepare_workers 0 --data.max_bad_records 7 "
    "--trainer.num_sanity_val_steps 2 --trainer.enable_model_summary true "
    "--trainer.enable_progress_bar true --trainer.inference_mode false",
}


@pytest.fixture
def copied(place: Path, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Returns a function that copies a run folder, and returns the copy's name."""

    def copied(run: RunFolder, folder: str = "copies") -> str:
        name = f"{folder}/{re.sub(r'[^a-zA-Z0-9]+', '_', request.node.name)}"
        shutil.copytree(run.path, place / name)
        return name

    return copied


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.slow] * (name != "loader processes"))
        for name, options in OPERATIONAL.items()
    ],
)
def test_what_does_not_decide_is_taken_and_ends_the_same(
    options: str,
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    untouched: dict[str, str],
    capfd: pytest.CaptureFixture[str],
):
    name, given = copied(stopped), options.replace("PLACE", str(place)).split(" ")
    assert call("fit", name, *given) == 0
    assert f"Resuming from {place / name}/checkpoints/step=" in capfd.readouterr().out
    assert call("predict", name, *given) == 0
    assert bench.outcome(place / name) == untouched


@pytest.mark.slow
def test_curves_can_become_coarser_and_the_run_ends_the_same(
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    untouched: dict[str, str],
):
    name = copied(stopped)
    assert call("fit", name, "--trainer.log_every_n_steps", "3") == 0
    assert call("predict", name) == 0
    found = bench.files_outcome(place / name)
    assert len(found) > 8
    assert found == {part: untouched[part] for part in found}


@pytest.mark.slow
def test_texts_can_be_written_in_other_batches(
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    untouched: dict[str, str],
):
    """Only the means of the scores may be added up in another order."""
    name, option = copied(stopped), ("--data.generation_batch_size", "3")
    assert call("fit", name, *option) == 0
    assert call("predict", name, *option) == 0
    found = bench.outcome(place / name)
    assert {part for part in found if found[part] != untouched[part]} <= {"metrics.json"}
    expected = scores_of(place / "finished", "validate")
    scores = scores_of(place / name, "validate")
    for weights in ("base", "tuned"):
        assert scores[weights] == pytest.approx(expected[weights], rel=1e-12)


@pytest.mark.slow
def test_a_run_folder_that_was_moved_goes_on_and_prepares_its_data_again(
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    untouched: dict[str, str],
):
    name = copied(stopped, "another/disk")
    assert call("fit", name) == 0
    assert call("predict", name) == 0
    assert bench.outcome(place / name) == untouched
    assert len(list((place / "another/disk/corpora").glob("*/rows.arrow"))) == 1


@pytest.mark.slow
def test_a_data_file_that_was_moved_is_the_same_file(
    stopped: RunFolder,
    call: Call,
    copied: Callable[..., str],
    place: Path,
    untouched: dict[str, str],
):
    name, products, moved = copied(stopped), place / "products.json.gz", place / "renamed.json.gz"
    products.rename(moved)
    try:
        assert call("fit", name, "--data.train_file", str(moved)) == 0
        assert call("predict", name, "--data.train_file", str(moved)) == 0
    finally:
        moved.rename(products)
    found = bench.outcome(place / name)
    assert {part for part in found if found[part] != untouched[part]} == {"metrics.json"}
    scores = (place / name / "metrics.json").read_text("utf-8")
    assert scores.count("renamed.json.gz") == 1, "the name that it was read under"
    as_before = scores.replace("renamed.json.gz", "products.json.gz")
    assert bench.sha256(as_before.encode()) == untouched["metrics.json"]


# Taken: micro-batches of another size, as long as the optimizer step has the same rows

Steps = dict[int, list[tuple[int, ...]]]

# 3 epochs, so that the last step has a row less; without dropout, whose masks differ by size.
ROWS = ["--model.lora.dropout", "0", "--trainer.max_epochs", "3"]


def note_rows(patch: pytest.MonkeyPatch, steps: Steps) -> None:
    """Notes the token ids of the rows of each optimizer step, in the order of training."""
    training_step = DescriptionModule.training_step

    def noting(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        rows = steps.setdefault(self.trainer.global_step, [])
        rows += map(tuple, batch.input_ids.tolist())
        return training_step(self, batch, batch_idx)

    patch.setattr(DescriptionModule, "training_step", noting)


def sized(batch_size: int) -> list[str]:
    return [*ROWS, "--data.batch_size", str(batch_size)]


@pytest.mark.slow
def test_micro_batches_of_another_size_see_the_same_rows_in_the_same_steps(call: Call, place: Path):
    """2 rows x 2 for 3 steps, 4 x 1 up to step 7, then 1 x 4, beside 2 x 2 all the way."""
    expected: Steps = {}
    with pytest.MonkeyPatch.context() as patch:
        note_rows(patch, expected)
        assert call("fit", "one_size", *sized(2)) == 0
    found: Steps = {}
    for size, num_micro_batches, code in ((2, 6, 143), (4, 4, 143), (1, 0, 0)):
        with pytest.MonkeyPatch.context() as patch:
            note_rows(patch, found)
            stop_at(patch, num_micro_batches)
            assert call("fit", "sizes", *sized(size)) == code
    assert [len(rows) for rows in expected.values()] == [4] * 12 + [3]
    assert list(found) == list(range(13))
    assert found == expected

    names = ("one_size", "sizes")
    files = [RunFolder(place / name).checkpoint_files()[0] for name in names]
    one, several = (torch.load(file, weights_only=True) for file in files)
    for part in ("global_step", "DescriptionData", "lr_schedulers"):
        assert one[part] == several[part], part
    weights = one["state_dict"]
    assert len(weights) == len(several["state_dict"]) > 10
    for name, weight in several["state_dict"].items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-5)
    losses = [scores_of(place / name, "validate")["tuned"]["loss"] for name in names]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# A finished run


@pytest.mark.parametrize("options", ["--trainer.max_epochs 3", "--trainer.max_steps 20"])
def test_more_training_of_a_finished_run_is_refused_with_the_way_out(
    options: str, finished: RunFolder, refusal: Callable[..., str]
):
    said = refusal("fit", finished, options)
    assert f"the finished {finished.path} was trained with other settings" in said
    assert_the_way_out_is_named(said, finished)


@pytest.mark.slow
def test_the_way_out_as_it_is_said_trains_the_finished_weights_further(
    finished: RunFolder,
    call: Call,
    place: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    said = refusal("fit", finished, "--trainer.max_epochs 3")
    way = re.search(r"(--trainer\.default_root_dir) NEW; with (--model\.adapter) (\S+) as", said)
    assert way
    started_with: dict[str, torch.Tensor] = {}
    training_step = DescriptionModule.training_step

    def noting(self: DescriptionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if not started_with:
            started_with.update({n: t.clone() for n, t in self.state_dict().items()})
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(DescriptionModule, "training_step", noting)
    before = files_of(finished.path)
    new = [way[1], str(place / "further"), way[2], way[3]]
    assert call("fit", "unused", "--trainer.max_epochs", "3", *new) == 0
    assert not (place / "unused").exists()
    assert files_of(finished.path) == before
    saved = load_file(finished.adapter / ADAPTER_WEIGHTS)
    assert len(saved) == len(started_with) > 10
    for name, tensor in saved.items():
        stem, suffix = name.rsplit(".", 1)
        assert torch.equal(started_with[f"network.{stem}.default.{suffix}"], tensor)
    further = torch.load(RunFolder(place / "further").checkpoint_files()[0], weights_only=True)
    assert further["global_step"] == 13


def test_the_way_out_takes_a_new_dropout_and_says_that_rank_and_scale_are_the_adapters(
    finished: RunFolder, call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    given = ["--model.adapter", str(finished.adapter), "--model.lora.dropout", "0"]
    given += ["--model.lora.alpha", "64", "--model.lora.r", "8", "--model.lora.use_dora", "true"]
    given += ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    assert call("fit", "changed_dropout", *given) == 0
    said = capfd.readouterr().out
    assert f"--model.lora.r is 4, as the adapter {finished.adapter} has it, not 8." in said
    assert f"--model.lora.alpha is 32, as the adapter {finished.adapter} has it, not 64." in said
    assert f"--model.lora.use_dora is False, as the adapter {finished.adapter} has it" in said
    config = json.loads((place / "changed_dropout/adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 32, 0.0)


@pytest.mark.parametrize(
    "options",
    [
        *("--seed_everything 7", "--model.quantization none", "--data.prompt.template {title}:"),
        *("--model.lora.r 8", "--model.backbone PLACE/other_base"),
    ],
)
def test_a_finished_run_is_not_taken_for_one_of_other_settings(
    options: str, finished: RunFolder, refusal: Callable[..., str]
):
    said = refusal("fit", finished, options)
    (line,) = [line for line in said.splitlines() if ", now " in line]
    assert options.split(" ")[0] in line
    assert_the_way_out_is_named(said, finished, options)


@pytest.mark.slow
def test_a_finished_run_takes_what_does_not_decide(
    finished: RunFolder, call: Call, place: Path, capfd: pytest.CaptureFixture[str]
):
    before = files_of(finished.path)
    for options in [
        *OPERATIONAL.values(),
        "--data.batch_size 1",
    ]:
        assert call("fit", "finished", *options.replace("PLACE", str(place)).split(" ")) == 0
        assert "This run is finished" in capfd.readouterr().out
    assert files_of(finished.path) == before


# Scores and descriptions of trained weights

TRAINING = (
    *("--seed_everything", "7", "--model.optimizer.lr", "0.1", "--trainer.max_epochs", "7"),
    *("--trainer.max_steps", "3", "--trainer.gradient_clip_val", "0.1", "--data.num_workers", "2"),
    *("--model.lora.dropout", "0", "--checkpoint.keep", "9", "--trainer.val_check_interval", "3"),
)
LONGER_ROWS = ("--data.row_tokens", "512")


@pytest.mark.slow
def test_other_training_options_do_not_matter_to_scores(
    finished: RunFolder, call: Call, copied: Callable[..., str], place: Path
):
    name = copied(finished)
    (place / name / "metrics.json").unlink()
    record = (place / name / "run.json").read_bytes()
    assert call("validate", name, *TRAINING, *LONGER_ROWS) == 0
    expected, found = scores_of(finished.path, "validate"), scores_of(place / name, "validate")
    assert set(found) == set(expected) > {"base", "tuned", "decoding"}
    for weights in ("base", "tuned"):
        assert found[weights] == pytest.approx(expected[weights], rel=1e-5)
    assert found["decoding"] == expected["decoding"]
    assert call("test", name, *TRAINING, *LONGER_ROWS) == 0
    assert set(scores_of(place / name, "test")) == set(expected)
    assert scores_of(place / name, "validate") == found
    assert (place / name / "run.json").read_bytes() == record


def test_other_training_options_do_not_matter_to_descriptions(
    finished: RunFolder, call: Call, copied: Callable[..., str], place: Path
):
    name = copied(finished)
    file = place / name / "predictions/titles.txt.jsonl"
    expected = file.read_bytes()
    assert expected.count(b"\n") == 5
    shutil.rmtree(file.parent)
    assert call("predict", name, *TRAINING, *LONGER_ROWS) == 0
    assert file.read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_run_that_is_not_finished_is_scored_with_other_training_options(
    command: str, stopped: RunFolder, call: Call, copied: Callable[..., str]
):
    assert call(command, copied(stopped), "--ckpt_path", "last", *TRAINING) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_checkpoint_is_scored_on_rows_of_another_length(
    command: str, stopped: RunFolder, call: Call, copied: Callable[..., str]
):
    assert call(command, copied(stopped), "--ckpt_path", "last", *LONGER_ROWS) == 0


@pytest.mark.parametrize("command", ["validate", slow_case("test"), slow_case("predict")])
@pytest.mark.parametrize(
    ("options", "old", "new"), [case for case in IDENTITY if "lora" not in case[0]]
)
def test_weights_are_not_used_with_another_base_quantisation_or_prompt(
    command: str,
    options: str,
    old: str,
    new: str,
    finished: RunFolder,
    refusal: Callable[..., str],
):
    for whose in ("", " --ckpt_path last"):
        said = refusal(command, finished, options + whose)
        assert options.split(" ")[0] in said
        assert 0 < said.find(old) < said.find(new)
