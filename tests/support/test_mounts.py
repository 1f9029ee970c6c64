"""Prepared data are on this machine's own disk where the run folder is on a mounted drive."""

import json
import shutil
from pathlib import Path

import pytest

from amazon_desc.cli import main
from amazon_desc.support import mounts
from amazon_desc.support.mounts import default_corpora, drive_of


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a drive at `my drive`, a share in it, and disks of its own."""
    table = tmp_path / "mounts"
    drive = f"{tmp_path}/my\\040drive"
    table.write_text(
        "overlay / overlay rw,relatime 0 0\n"
        f"drive {drive} fuse.drive rw,nosuid 0 0\n"
        f"/dev/sdb1 {drive}/disk ext4 rw 0 0\n"
        f"server:/home {tmp_path}/home nfs4 rw 0 0\n"
        f"C: {tmp_path}/c 9p rw 0 0\n"
        f"//server/share {tmp_path}/share cifs rw 0 0\n"
        f"nothing {tmp_path}/own fuse.drive rw 0 0\n"
        f"/dev/sdc1 {tmp_path}/own ext4 rw 0 0\n"
        f"rootless {tmp_path}/container fuse.fuse-overlayfs rw 0 0\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", table)
    monkeypatch.setattr(mounts, "SAID", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "drive"),
    [
        ("my drive", "fuse.drive"),
        ("my drive/runs/shop/not/yet", "fuse.drive"),
        ("share/runs", "cifs"),
        ("c/Users", "9p"),
        ("home/me/runs", None),  # cached by the kernel, and shared on purpose
        ("my drive/disk/runs", None),  # a disk that is mounted in it
        ("my driver", None),
        ("own/runs", None),  # the later of two mounts is on top
        ("container", None),
        (".", None),
    ],
)
def test_a_drive_is_told_from_a_disk_by_what_is_mounted(
    machine: Path, folder: str, drive: str | None
):
    assert drive_of(machine / folder) == drive
    assert drive_of(Path(folder)) == drive
    (machine / "link").symlink_to(machine / folder)
    assert drive_of(machine / "link") == drive


def test_on_a_disk_prepared_data_are_beside_the_run(
    machine: Path, capsys: pytest.CaptureFixture[str]
):
    assert default_corpora("runs/shop") == Path("runs/corpora")
    assert default_corpora(machine / "home/runs/shop") == machine / "home/runs/corpora"
    assert capsys.readouterr().out == ""


def test_on_a_drive_they_are_on_the_machine_which_is_said_once_in_a_line(
    machine: Path, capsys: pytest.CaptureFixture[str]
):
    own = machine / "cache/amazon_desc/corpora"
    assert [default_corpora(f"my drive/runs/{name}") for name in ("a", "b")] == [own, own]
    assert capsys.readouterr().out == (
        f"Prepared data go to {own}, on this machine's own disk: the run folder is on a mounted "
        "drive (fuse.drive), where reading them is slow. To keep them elsewhere, set "
        "--data.corpora FOLDER.\n"
    )
    assert not own.exists()


def test_what_an_earlier_version_has_put_beside_the_run_is_used_there(
    machine: Path, capsys: pytest.CaptureFixture[str]
):
    beside = machine / "my drive/runs/corpora"
    beside.mkdir(parents=True)
    assert default_corpora("my drive/runs/shop") == machine / "cache/amazon_desc/corpora"
    capsys.readouterr()
    (beside / "prepared").mkdir()
    assert default_corpora("my drive/runs/shop") == Path("my drive/runs/corpora")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cache", ["my drive/cache", "file"])
def test_where_the_machine_has_no_better_place_they_are_beside_the_run(
    machine: Path, monkeypatch: pytest.MonkeyPatch, cache: str
):
    (machine / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / cache))
    assert default_corpora("my drive/runs/shop") == Path("my drive/runs/corpora")


@pytest.mark.parametrize("named", [None, "", "relative/cache"])
def test_without_a_cache_folder_by_name_it_is_the_home_folders(
    machine: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
):
    monkeypatch.setenv("HOME", str(machine / "me"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if named is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert default_corpora("my drive/runs/shop") == machine / "me/.cache/amazon_desc/corpora"


def test_a_system_that_does_not_say_what_is_mounted_has_them_beside_the_run(
    machine: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mounts, "MOUNTS", machine / "none")
    assert default_corpora("my drive/runs/shop") == Path("my drive/runs/corpora")


def test_this_machine_can_be_asked():
    assert drive_of(Path("/proc")) is None
    assert list(mounts.mounts()) or not mounts.MOUNTS.exists()


SMALL = (
    *("fit", "--config", "quickstart.yaml", "--trainer.default_root_dir", "my drive/runs/shop"),
    *("--trainer.max_steps", "2", "--checkpoint.every_n_steps", "1", "--data.num_products", "60"),
    *("--data.num_scored", "2", "--data.num_sampled", "0", "--data.validation_fraction", "0.1"),
    *("--model.decoding.max_new_tokens", "4", "--trainer.enable_progress_bar", "false"),
)


@pytest.mark.slow
def test_a_run_on_a_drive_goes_on_on_another_machine(
    machine: Path, capsys: pytest.CaptureFixture[str]
):
    """It prepares there anew, and what it finds is the same: another one is refused."""
    run, prepared = machine / "my drive/runs/shop", machine / "cache/amazon_desc/corpora"
    main([*SMALL])
    (corpus,) = [path.name for path in prepared.iterdir() if path.is_dir()]
    weights = (run / "adapter/adapter_model.safetensors").read_bytes()
    assert sorted(path.name for path in run.parent.iterdir()) == ["shop"]

    shutil.rmtree(machine / "cache")
    (run / "checkpoints/step=00000002.ckpt").unlink()
    record = json.loads((run / "run.json").read_text())
    del record["finished"]
    (run / "run.json").write_text(json.dumps(record))
    shutil.rmtree(run / "adapter")
    capsys.readouterr()
    main([*SMALL])
    assert "Resuming from my drive/runs/shop/checkpoints/step=00000001" in capsys.readouterr().out
    assert [path.name for path in prepared.iterdir() if path.is_dir()] == [corpus]
    assert (run / "adapter/adapter_model.safetensors").read_bytes() == weights
