"""Checkpoints are whole or not there, load without pickle, and bring the random states back."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amazon_desc.errors import UserError
from amazon_desc.run.checkpoints import (
    DurableCheckpointIO,
    random_states,
    read_checkpoint,
    restore_random_states,
)
from amazon_desc.run.folder import RunFolder


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    return {
        "identity": {"backbone": "tiny"},
        "state_dict": {"lora_A": torch.arange(6.0).reshape(2, 3)},
        "random_states": random_states(),
        "global_step": 7,
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_loads_without_pickle(checkpoint: dict[str, Any], tmp_path: Path):
    path = tmp_path / "checkpoints" / "step=00000007.ckpt"
    DurableCheckpointIO().save_checkpoint(checkpoint, path)
    assert names(path.parent) == ["step=00000007.ckpt"]
    for loaded in (
        torch.load(path, weights_only=True),
        read_checkpoint(path),
        DurableCheckpointIO().load_checkpoint(path),
    ):
        assert set(loaded) == {"identity", "state_dict", "random_states", "global_step"}
        assert loaded["state_dict"]["lora_A"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
        assert (loaded["identity"], loaded["global_step"]) == ({"backbone": "tiny"}, 7)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_checkpoint(
    failure: BaseException,
    checkpoint: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    path = tmp_path / "step=00000007.ckpt"
    io = DurableCheckpointIO()
    io.save_checkpoint(checkpoint, path)
    old = path.read_bytes()

    def save(_: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(type(failure)):
        io.save_checkpoint({**checkpoint, "global_step": 8}, path)
    assert path.read_bytes() == old
    assert names(tmp_path) == ["step=00000007.ckpt"]


def test_the_leftover_of_a_killed_writer_is_ignored(checkpoint: dict[str, Any], tmp_path: Path):
    run = RunFolder(tmp_path)
    DurableCheckpointIO().save_checkpoint(checkpoint, run.checkpoints / "step=00000007.ckpt")
    (run.checkpoints / ".tmp-99-step=00000008.ckpt").write_bytes(b"half")
    newest = run.newest_checkpoint()
    assert newest == run.checkpoints / "step=00000007.ckpt"
    assert read_checkpoint(newest)["global_step"] == 7


def test_removing_a_checkpoint_that_is_gone_is_no_error(tmp_path: Path):
    (tmp_path / "a.ckpt").touch()
    DurableCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    DurableCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    assert names(tmp_path) == []


class Code:
    """What only a pickle could bring back."""


def test_a_missing_file_is_refused(tmp_path: Path):
    wanted = r"--ckpt_path .*none\.ckpt: no such file\. Name a file of the run's checkpoints folder"
    with pytest.raises(UserError, match=wanted):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_file_that_is_cut_is_refused(kept: float, checkpoint: dict[str, Any], tmp_path: Path):
    path = tmp_path / "cut.ckpt"
    DurableCheckpointIO().save_checkpoint(checkpoint, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if isinstance(kept, int) else kept * len(whole))])
    with pytest.raises(UserError, match=r"cut\.ckpt: it cannot be read .*damaged.*Name an older"):
        read_checkpoint(path)


@pytest.mark.parametrize("noise", [b"text", b"\x80\x02}q\x00.", b"PK\x03\x04", bytes(5000)])
def test_noise_is_refused(noise: bytes, tmp_path: Path):
    path = tmp_path / "noise.ckpt"
    path.write_bytes(noise)
    with pytest.raises(UserError, match=r"noise\.ckpt: (it cannot be read|not written by)"):
        read_checkpoint(path)


def test_a_file_that_needs_code_is_refused_and_runs_none(tmp_path: Path):
    torch.save({"identity": Code()}, tmp_path / "code.ckpt")
    with pytest.raises(UserError, match="it is damaged, or no checkpoint of ours"):
        read_checkpoint(tmp_path / "code.ckpt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], torch.zeros(2)])
def test_a_foreign_checkpoint_is_refused(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"foreign\.ckpt: not written by amazon_desc"):
        read_checkpoint(tmp_path / "foreign.ckpt")


def draw() -> tuple[float, list[float], list[float], list[float]]:
    return (
        random.random(),
        [random.gauss(0, 1)],
        np.random.standard_normal(3).tolist(),
        torch.rand(3).tolist(),
    )


def test_random_states_come_back_from_a_file(checkpoint: dict[str, Any], tmp_path: Path):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    draw()  # leaves a second normal number waiting in python's and numpy's generators
    path = tmp_path / "step=00000001.ckpt"
    DurableCheckpointIO().save_checkpoint({**checkpoint, "random_states": random_states()}, path)
    expected = draw()
    assert draw() != expected
    restore_random_states(read_checkpoint(path)["random_states"])
    assert draw() == expected
