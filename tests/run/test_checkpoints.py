"""Checkpoints are whole or not there, prove their bytes, and load without pickle."""

import errno
import io
import os
import pickle
import random
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from amazon_desc.run import checkpoints
from amazon_desc.run.checkpoints import (
    SealedCheckpointIO,
    flaw_of,
    newest_intact,
    read_checkpoint,
    remove_oldest,
    serialized,
    write_sealed,
)
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.errors import CheckpointError, NotFiniteError, StorageError, UserError


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    return {
        "identity": {"backbone": "tiny"},
        "state_dict": {"lora_A": torch.arange(600.0).reshape(2, 300)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(7.0)}}}],
        "global_step": 7,
    }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Written


def test_a_checkpoint_loads_without_pickle_and_without_us(
    checkpoint: dict[str, Any], tmp_path: Path
):
    path = tmp_path / "checkpoints" / "step=00000007.ckpt"
    files = SealedCheckpointIO()
    files.save_checkpoint(checkpoint, path)
    files.finish()
    assert names(path.parent) == ["step=00000007.ckpt"]
    for loaded in (
        torch.load(path, weights_only=True),
        read_checkpoint(path),
        SealedCheckpointIO().load_checkpoint(path),
    ):
        assert set(loaded) == set(checkpoint)
        assert torch.equal(loaded["state_dict"]["lora_A"], checkpoint["state_dict"]["lora_A"])
        assert (loaded["identity"], loaded["global_step"]) == ({"backbone": "tiny"}, 7)


def test_the_checksum_is_the_comment_of_a_proper_zip_file(
    checkpoint: dict[str, Any], tmp_path: Path
):
    write_sealed(serialized(checkpoint), tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")
        assert len(archive.comment) == 71


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_checkpoint(
    failure: BaseException,
    checkpoint: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    path = tmp_path / "step=00000007.ckpt"
    write_sealed(serialized(checkpoint), path)
    old = path.read_bytes()

    def fail(_: object) -> None:
        raise failure

    monkeypatch.setattr(checkpoints, "forget_cached", fail)
    raised = StorageError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(raised, match="No space left" if raised is StorageError else ""):
        write_sealed(serialized({**checkpoint, "global_step": 8}), path)
    assert path.read_bytes() == old
    assert names(tmp_path) == ["step=00000007.ckpt"]


def test_file_and_folder_are_flushed_and_read_back_before_the_name_is_given(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []
    fsync, replace, verify = os.fsync, Path.replace, checkpoints.gives_back

    def note_fsync(descriptor: int) -> None:
        calls.append(
            "folder flushed" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "flushed"
        )
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("renamed")
        return replace(self, target)

    def note_verify(path: Path, parts: list[memoryview]) -> bool:
        calls.append("verified")
        return verify(path, parts)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(checkpoints, "gives_back", note_verify)
    write_sealed(serialized(checkpoint), tmp_path / "a.ckpt")
    assert calls == ["flushed", "verified", "flushed", "renamed", "folder flushed"]


def test_a_file_system_that_takes_no_advice_is_written_to(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    write_sealed(serialized(checkpoint), tmp_path / "a.ckpt")
    assert flaw_of(tmp_path / "a.ckpt") is None


def test_a_disk_that_gives_back_other_bytes_is_noticed_before_the_old_file_goes(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.ckpt"
    write_sealed(serialized(checkpoint), path)
    old = path.read_bytes()

    def flip(file: io.BufferedWriter) -> None:
        file.seek(100)
        file.write(b"\xff")
        file.flush()

    monkeypatch.setattr(checkpoints, "forget_cached", flip)
    with pytest.raises(StorageError, match="does not give back the checkpoint"):
        write_sealed(serialized(checkpoint), path)
    assert path.read_bytes() == old
    assert names(tmp_path) == ["a.ckpt"]


def test_training_may_change_what_is_still_being_written(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files, path = SealedCheckpointIO(), tmp_path / "a.ckpt"
    may_write = threading.Event()
    write_sealed = checkpoints.write_sealed

    def late(*arguments: Any) -> None:
        assert may_write.wait(10)
        write_sealed(*arguments)

    monkeypatch.setattr(checkpoints, "write_sealed", late)
    (name, weight), *_ = checkpoint["state_dict"].items()
    before = weight.clone()
    files.save_checkpoint(checkpoint, path)
    weight += 1
    assert not path.exists()
    may_write.set()
    files.finish()
    assert torch.equal(read_checkpoint(path)["state_dict"][name], before)


def test_files_are_written_and_removed_one_after_the_other(
    checkpoint: dict[str, Any], tmp_path: Path
):
    files, run = SealedCheckpointIO(), RunFolder(tmp_path)
    for step in range(1, 6):
        files.save_checkpoint(checkpoint, run.checkpoint(step))
        files.submit(checkpoints.remove_oldest, run, 2, run.checkpoint(step))
    files.finish()
    assert [path.name for path in run.checkpoint_files()] == [
        *("step=00000005.ckpt", "step=00000004.ckpt"),
    ]


def test_a_checkpoint_that_could_not_be_written_is_said_at_the_next_one_or_at_the_end(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "forget_cached", full)
    files = SealedCheckpointIO()
    files.save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(StorageError, match="No space left"):
        files.save_checkpoint(checkpoint, tmp_path / "b.ckpt")
    files.save_checkpoint(checkpoint, tmp_path / "c.ckpt")
    files.wait()
    with pytest.raises(StorageError, match="No space left"):
        files.finish()
    files.finish()
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_reaches_no_checkpoint(
    value: float, checkpoint: dict[str, Any], tmp_path: Path
):
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] = torch.tensor([0.0, value])
    with pytest.raises(NotFiniteError, match=r"optimizer_states\.0\.state\.0\.exp_avg .* step 7"):
        SealedCheckpointIO().save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    assert names(tmp_path) == []


def test_what_callbacks_keep_is_not_judged(checkpoint: dict[str, Any], tmp_path: Path):
    """EarlyStopping and ModelCheckpoint begin with an infinite score."""
    checkpoint["callbacks"] = {"EarlyStopping": {"best_score": torch.tensor(float("inf"))}}
    files = SealedCheckpointIO()
    files.save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    files.finish()
    loaded = read_checkpoint(tmp_path / "a.ckpt")
    assert loaded["callbacks"]["EarlyStopping"]["best_score"] == float("inf")


# Damaged


def test_every_bit_flip_is_found(checkpoint: dict[str, Any], tmp_path: Path):
    path = tmp_path / "a.ckpt"
    write_sealed(serialized(checkpoint), path)
    whole = path.read_bytes()
    chance = random.Random(5)
    ends = [*range(80), *range(len(whole) - 80, len(whole))]
    places = [*ends, *(chance.randrange(len(whole)) for _ in range(200))]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        assert flaw_of(path), place
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert flaw_of(path) is None


def test_every_cut_is_found(checkpoint: dict[str, Any], tmp_path: Path):
    path = tmp_path / "a.ckpt"
    write_sealed(serialized(checkpoint), path)
    whole = path.read_bytes()
    chance = random.Random(6)
    lengths = [0, 1, 70, 71, 72, 73, 74, len(whole) - 73, len(whole) - 1]
    for length in [*lengths, *(chance.randrange(len(whole)) for _ in range(200))]:
        path.write_bytes(whole[:length])
        assert flaw_of(path), length
    path.write_bytes(whole + b"\0")
    assert flaw_of(path)


class Code:
    """What only a pickle could bring back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("canary",))


def test_a_file_that_needs_code_is_refused_and_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write_sealed(serialized({"identity": Code()}), tmp_path / "code.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Code()))
    with pytest.raises(CheckpointError, match="it holds more than numbers and plain values"):
        read_checkpoint(tmp_path / "code.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint of ours"):
        read_checkpoint(tmp_path / "pickle.ckpt")
    assert names(tmp_path) == ["code.ckpt", "pickle.ckpt"]


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], torch.zeros(2)])
def test_a_foreign_checkpoint_is_refused(content: Any, tmp_path: Path):
    write_sealed(serialized(content), tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"foreign\.ckpt: it was not written by amazon_desc"):
        read_checkpoint(tmp_path / "foreign.ckpt")


@pytest.mark.parametrize("name", ["none.ckpt", "https://example.org/a.ckpt"])
def test_a_missing_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    wanted = r"--ckpt_path .*\.ckpt: no such file\. Name a file of the run's checkpoints folder"
    with pytest.raises(UserError, match=wanted):
        read_checkpoint(Path(name))


# Chosen


def fill(run: RunFolder, checkpoint: dict[str, Any], *steps: int) -> None:
    for step in steps:
        write_sealed(serialized({**checkpoint, "global_step": step}), run.checkpoint(step))


def damage(run: RunFolder, step: int) -> None:
    data = run.checkpoint(step).read_bytes()
    run.checkpoint(step).write_bytes(data[:-1])


def refuse(text: str) -> None:
    raise AssertionError(text)


def test_the_highest_step_is_chosen_whatever_the_times_say(
    run: RunFolder, checkpoint: dict[str, Any]
):
    fill(run, checkpoint, 900, 10000, 2000)
    for step, time in ((900, 3000), (10000, 1000), (2000, 2000)):
        os.utime(run.checkpoint(step), (time, time))
    assert newest_intact(run, set_aside=True, say=refuse) == run.checkpoint(10000)
    assert len(names(run.checkpoints)) == 3


def test_damaged_ones_are_set_aside_and_the_newest_intact_one_is_chosen(
    run: RunFolder, checkpoint: dict[str, Any]
):
    fill(run, checkpoint, 2, 4, 6)
    damage(run, 6)
    damage(run, 4)
    broken = run.checkpoint(6).read_bytes()
    said: list[str] = []
    assert newest_intact(run, set_aside=True, say=said.append) == run.checkpoint(2)
    assert [text.split(" is damaged")[0] for text in said] == [
        "Checkpoint step=00000006.ckpt",
        "Checkpoint step=00000004.ckpt",
    ]
    assert names(run.checkpoints) == [
        "step=00000002.ckpt",
        "step=00000004.ckpt.damaged",
        "step=00000006.ckpt.damaged",
    ]
    assert (run.checkpoints / "step=00000006.ckpt.damaged").read_bytes() == broken


def test_who_only_reads_sets_nothing_aside(run: RunFolder, checkpoint: dict[str, Any]):
    fill(run, checkpoint, 2, 4)
    damage(run, 4)
    said: list[str] = []
    assert newest_intact(run, set_aside=False, say=said.append) == run.checkpoint(2)
    assert len(said) == 1
    assert names(run.checkpoints) == ["step=00000002.ckpt", "step=00000004.ckpt"]


def test_without_an_intact_one_it_is_refused_however_often_it_is_tried(
    run: RunFolder, checkpoint: dict[str, Any]
):
    fill(run, checkpoint, 2, 4)
    damage(run, 2)
    damage(run, 4)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"step=00000004\.ckpt .*step=00000002\.ckpt"):
            newest_intact(run, set_aside=True, say=refuse)
    assert CheckpointError.exit_code == 4
    assert names(run.checkpoints) == ["step=00000002.ckpt", "step=00000004.ckpt"]


def test_a_run_that_has_saved_nothing_yet_begins_at_its_beginning(run: RunFolder):
    assert newest_intact(run, set_aside=True, say=refuse) is None
    run.checkpoints.mkdir()
    (run.checkpoints / ".tmp-99-step=00000008.ckpt").write_bytes(b"half")
    assert newest_intact(run, set_aside=True, say=refuse) is None


# Deleted


def test_the_newest_stay_and_what_was_set_aside_is_never_deleted(
    run: RunFolder, checkpoint: dict[str, Any]
):
    fill(run, checkpoint, 2, 4, 6, 8)
    (run.checkpoints / "step=00000005.ckpt.damaged").touch()
    remove_oldest(run, 2, newest=run.checkpoint(8))
    expected = ["step=00000005.ckpt.damaged", "step=00000006.ckpt", "step=00000008.ckpt"]
    assert names(run.checkpoints) == expected


def test_the_one_that_was_just_saved_stays_among_higher_steps(
    run: RunFolder, checkpoint: dict[str, Any]
):
    fill(run, checkpoint, 2, 6, 8)
    remove_oldest(run, 2, newest=run.checkpoint(2))
    assert len(names(run.checkpoints)) == 3


def test_removing_a_checkpoint_that_is_gone_is_no_error(tmp_path: Path):
    (tmp_path / "a.ckpt").touch()
    SealedCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    SealedCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    assert names(tmp_path) == []
