"""What a checkpoint costs is measured on a checkpoint of the size of the reference run's."""

import json
from pathlib import Path

import pytest

from tests.conftest import load_script

bench = load_script("bench_checkpoint")


def test_weights_and_moments_have_the_reference_runs_size():
    checkpoint = bench.checkpoint_of(rank=16)
    (states,) = checkpoint["optimizer_states"]
    tensors = [
        *checkpoint["state_dict"].values(),
        *(tensor for moments in states["state"].values() for tensor in moments.values()),
    ]
    assert len(tensors) == 3 * 22 * 7 * 2
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert num_bytes == 151_388_160


def test_every_way_is_timed_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written = tmp_path / "result.json"
    folder = tmp_path / "there"
    folder.mkdir()
    options = ["--rank", "1", "--rounds", "2", "--tokens_per_second", "2048"]
    assert bench.main(["--folder", str(folder), "--json", str(written), *options]) == 0
    result = json.loads(written.read_text())
    names = ["torch.save", "on the disk", "ours", "in the background"]
    assert list(result["seconds"]) == names
    assert all(0 < seconds < 60 for seconds in result["seconds"].values())
    assert result["checking"] == result["seconds"]["ours"] - result["seconds"]["torch.save"]
    assert result["share"] == result["checking"] / 2000
    assert "of 2000 s of training" in capsys.readouterr().out
    assert list(folder.iterdir()) == []
