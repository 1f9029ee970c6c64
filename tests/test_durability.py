"""A power cut leaves each file of a run whole or not there: flushed, named, its folder flushed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.evaluation.summary import write_metrics
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.checkpoints import SealedCheckpointIO
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.predicting import output as output_module
from amazon_desc.run.predicting.lines import GrowingLines
from amazon_desc.run.predicting.output import Output
from amazon_desc.run.predicting.provenance import Way
from amazon_desc.support.files import replacing_file, replacing_folder
from tests.conftest import exit_code
from tests.durability import Disk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path / "run")
    disk.root.mkdir()
    disk.watch(monkeypatch)
    return disk


# What the stand-in sees


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_and_name(root: Path, *left_out: str, is_folder: bool) -> None:
    """Writes a file, or a folder with a file in a folder, and leaves some of the flushes out."""
    source = root / ".tmp-new"
    file = source / "inner" / "file" if is_folder else source
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("old")
    if "the file" not in left_out:
        flush(file)
    if "the last bytes" in left_out:
        file.write_text("newer")
    if is_folder:
        for name, folder in (("the inner folder", file.parent), ("the folder", source)):
            if name not in left_out:
                flush(folder)
    source.replace(root / "kept")
    if "the name" not in left_out:
        flush(root)


@pytest.mark.parametrize(
    ("left_out", "faults"),
    [
        ([], []),
        (["the file"], ["kept{} was not flushed before the rename"]),
        (["the last bytes"], ["kept{} was not flushed before the rename"]),
        (["the inner folder"], ["kept/inner was not flushed before the rename"]),
        (["the folder"], ["kept was not flushed before the rename"]),
        (["the name"], ["the folder of kept was not flushed after the rename"]),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_left_out_is_seen(
    left_out: list[str], faults: list[str], is_folder: bool, disk: Disk
):
    write_and_name(disk.root, *left_out, is_folder=is_folder)
    is_seen = is_folder or "folder" not in "".join(left_out)
    inside = "/inner/file" if is_folder else ""
    assert disk.all_faults() == ([fault.format(inside) for fault in faults] if is_seen else [])
    assert disk.placed == [disk.root / "kept"]
    assert disk.unplaced() == []
    (disk.root / "direct").write_text("x")
    assert disk.unplaced() == ["direct"]


def test_a_name_that_a_later_one_hides_is_seen(disk: Disk):
    write_and_name(disk.root, "the name", is_folder=False)
    write_and_name(disk.root, is_folder=False)
    assert disk.all_faults() == ["the folder of kept was not flushed after the rename"]


# How each kind of file is written


def a_file(root: Path) -> str:
    with replacing_file(root / "file") as temporary:
        temporary.write_text("text")
    return "file"


def a_folder(root: Path) -> str:
    for _ in range(2):  # the second replaces the first
        with replacing_folder(root / "folder") as temporary:
            (temporary / "inner" / "empty").mkdir(parents=True)
            (temporary / "inner" / "a").write_text("a")
            (temporary / "b").write_text("b")
    return "folder"


def a_checkpoint(root: Path) -> str:
    files = SealedCheckpointIO()
    files.save_checkpoint({"state_dict": {"a": torch.ones(9)}}, root / "checkpoints" / "a.ckpt")
    files.finish()
    return "checkpoints/a.ckpt"


def metrics(root: Path) -> str:
    write_metrics(root / "metrics.json", "validate", {"base": {"loss": 2.0}})
    return "metrics.json"


def one_at_a_time(before: Way | None) -> Way:
    return Way("plain", 1, 1)


def begin(output: Output, *titles: str) -> GrowingLines | None:
    """Begins to write for titles, in a process of its own."""
    with output.alone() as folder:
        file = folder.parent.parent.parent / "titles.txt"
        file.write_text("".join(title + "\n" for title in titles))
        table = TitleTable.read(file, "title", "none", folder / "table", str)
        return output.begin(output.read_record(), {}, table, one_at_a_time, folder / "offsets")


def predictions(root: Path, name: str = "titles.jsonl") -> str:
    output = Output.of(RunFolder(root), "", str(root / "predictions" / name))
    lines = begin(output, "Blue Mug")
    assert lines is not None
    lines.add([Prediction("Blue Mug", Description("A mug.", "stop", 3))])
    lines.close()
    output.finish()
    return f"predictions/{name}"


def predictions_as_csv(root: Path) -> str:
    return predictions(root, "titles.csv")


def predictions_as_parquet(root: Path) -> str:
    return predictions(root, "titles.parquet")


@pytest.mark.parametrize(
    "write",
    [
        a_file,
        a_folder,
        a_checkpoint,
        metrics,
        predictions,
        predictions_as_csv,
        predictions_as_parquet,
    ],
)
def test_it_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(
    write: Callable[[Path], str], disk: Disk
):
    name = write(disk.root)
    assert disk.root / name in disk.placed
    assert disk.all_faults() == []
    assert disk.unplaced() == []


def test_what_is_cut_off_predictions_is_gone_before_it_is_noted_that_it_is(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
):
    """Else lines of batches of another size could come back, and be taken for whole batches."""
    output = Output(disk.root / predictions(disk.root))
    output.path.rename(output.partial)
    with output.partial.open("ab") as file:
        file.write(b'{"row": 2, "title": "torn')
    noted: list[bool] = []
    note = output_module.write_text

    def noting(path: Path, text: str) -> None:
        noted.append(disk.has(output.partial))
        note(path, text)

    monkeypatch.setattr(output_module, "write_text", noting)
    lines = begin(output, "Blue Mug", "Red Mug")
    assert lines is not None
    assert lines.num_lines == 1
    assert noted == [True]


# A whole run

SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "40", "--data.row_tokens", "256", "--data.num_scored", "2"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0", "--trainer.max_steps", "2"),
    *("--trainer.val_check_interval", "1"),
    *("--model.decoding.max_new_tokens", "2"),
    *("--trainer.logger", "false", "--checkpoint.every_n_steps", "1"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """What the disk saw of fit and predict."""
    disk = Disk(tmp_path_factory.mktemp("durable") / "runs")
    titles = disk.root.with_name("titles.txt")
    titles.write_text("Red Mug\n")
    options = [*SMALL, "--trainer.default_root_dir", str(disk.root / "a")]
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        assert exit_code(["fit", *options]) == 0
        assert exit_code(["predict", *options, "--data.titles", str(titles)]) == 0
    return disk


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("a/checkpoints/step=00000001.ckpt", "a/checkpoints/step=00000002.ckpt", "a/adapter"),
        *("a/metrics.json", "a/run.json", "a/config.yaml", "a/predictions/titles.txt.jsonl"),
        *("a/predictions/titles.txt.jsonl.settings.json", "corpora/*"),
    ],
)
def test_of_a_whole_run_it_is_too(name: str, ended: Disk):
    assert any(path.match(name) for path in ended.placed)
    folder = name.removesuffix("/*")
    assert [fault for fault in ended.all_faults() if folder in fault] == []


@pytest.mark.slow
def test_no_other_file_of_a_run_is_written_without_it(ended: Disk):
    assert ended.all_faults() == []
    assert ended.unplaced() == []
