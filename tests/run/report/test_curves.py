"""Promises of run/report/curves.py: the logged numbers at their steps, whatever is damaged."""

from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from amazon_desc.run.report.curves import Curve, Log, read_log, thinned
from amazon_desc.run.report.figures import lowest
from tests.run.report.made_run import log


def write(folder: Path, tag: str, *values: float) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, value in enumerate(values):
            writer.add_scalar(tag, value, step)


def test_points_are_those_that_were_logged_and_steps_count_from_one(tmp_path: Path):
    log(tmp_path, num_points=3)
    found = read_log(tmp_path)
    assert found.curves["validation_loss"].steps == [100, 200, 300]
    assert found.curves["validation_loss"].values == pytest.approx([3.5, 3.2, 3.3])
    assert found.curves["tokens_per_second"] == Curve([10, 20, 30], [1009.0, 1019.0, 1029.0])
    assert found.lengths["prompt_tokens"] == ([4.0, 6.0, 9.0], [2.0, 5.0, 3.0], 10, 6.0, 9.0)
    assert (found.num_others, found.num_unread) == (0, 0)


def test_a_folder_is_a_series_of_the_same_tag(tmp_path: Path):
    write(tmp_path / "train", "loss/loss", 4.0, 2.0)
    write(tmp_path / "validation", "loss/loss", 3.0)
    write(tmp_path / "base", "scores/rouge1", 0.5)
    found = read_log(tmp_path)
    assert found.curves == {
        "train_loss": Curve([1, 2], [4.0, 2.0]),
        "validation_loss": Curve([1], [3.0]),
    }
    assert found.num_others == 1


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path):
    write(tmp_path, "train/loss", 4.0, float("nan"), float("inf"), 1.0)
    write(tmp_path, "train/gradient_norm", float("nan"))
    assert read_log(tmp_path).curves == {"train_loss": Curve([1, 4], [4.0, 1.0])}


def test_histograms_that_a_resumed_run_took_back_are_left_out(tmp_path: Path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_histogram("texts/prompt_tokens", np.array([1.0, 2.0]), 0)
        writer.add_scalar("other", 1.0, 0)
    with SummaryWriter(str(tmp_path), purge_step=0, filename_suffix=".2") as writer:
        writer.add_scalar("other", 1.0, 0)
    assert read_log(tmp_path).lengths == {}


@pytest.mark.parametrize("kept", [0, 7, 100, 1000])
def test_a_file_that_was_cut_gives_what_came_before(tmp_path: Path, kept: int):
    log(tmp_path, num_points=30)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:kept])
    found = read_log(tmp_path).curves.get("train_loss", Curve([], []))
    assert found.steps == [10 * (number + 1) for number in range(len(found.steps))]
    assert len(found.steps) < 30
    assert bool(found.steps) == (kept == 1000)


def test_a_record_that_is_no_event_gives_what_came_before(tmp_path: Path):
    from tensorboard.summary.writer.record_writer import RecordWriter

    write(tmp_path, "train/loss", 4.0, 3.0)
    (file,) = tmp_path.iterdir()
    with file.open("ab") as stream:
        RecordWriter(stream).write(b"\xff\xff\xff no event")
    found = read_log(tmp_path)
    assert found.curves["train_loss"] == Curve([1, 2], [4.0, 3.0])
    assert found.num_unread == 1


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path):
    assert read_log(tmp_path / "none") == Log()


def test_a_long_curve_is_drawn_with_means():
    curve = Curve([1, 2, 3, 4, 5], [1.0, 3.0, 5.0, 7.0, 9.0])
    assert thinned(curve, 3) == (Curve([2, 4, 5], [2.0, 6.0, 9.0]), 2)
    assert thinned(curve, 5) == (curve, 1)


def test_it_is_said_where_the_loss_was_lowest():
    assert lowest(Curve([100, 200], [3.0, 2.5])) == "Lowest validation loss: 2.500 at step 200"
    assert lowest(Curve([100, 200], [2.5, 3.0])) == (
        "Lowest validation loss: 2.500 at step 100, higher after it; the adapter is that of the "
        "lowest"
    )
