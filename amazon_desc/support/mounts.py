"""Where prepared data are kept by default: beside the run folder, or on this machine's own disk.

In comes the run folder, out goes the folder for what every run can make anew. Training reads it
through memory maps, a page here and there. On a Google Drive that is mounted, and its like, each
page is asked of a program or of another machine; there the data are made anew on this machine.
What the user has named is not known here.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from amazon_desc.support.printing import say

MOUNTS = Path("/proc/mounts")  # there is none but on Linux, where Colab is

# Not NFS and the file systems of clusters: their pages are cached, and machines share prepared
# data there on purpose. 9p is what WSL mounts Windows' disks with.
DRIVES = {"9p", "cifs", "smb3", "smbfs", "drvfs"}
FUSE = "fuse."  # Drive is fuse.drive
# A disk of this machine all the same.
OWN = {"fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.gocryptfs"}

SAID: set[Path] = set()


def default_corpora(run: str | Path | None) -> Path:
    """Returns the folder that keeps prepared data where none is named; says where it is unusual.

    runs/shop                         -> runs/corpora
    /content/drive/MyDrive/runs/shop  -> ~/.cache/amazon_desc/corpora

    What an earlier version has put beside the run folder is used there.
    """
    assert run is not None, "the run folder is the trainer's"
    beside = Path(run).parent / "corpora"
    drive = drive_of(beside)
    if drive is None or (beside.is_dir() and any(beside.iterdir())):
        return beside
    own = cache_folder() / "amazon_desc" / "corpora"
    if drive_of(own) is not None or not can_be_made(own):
        return beside
    if own not in SAID:
        SAID.add(own)
        say(
            f"Prepared data go to {own}, on this machine's own disk: the run folder is on a mounted"
            f" drive ({drive}), where reading them is slow. To keep them elsewhere, set "
            f"--data.corpora FOLDER."
        )
    return own


def drive_of(folder: Path) -> str | None:
    """Returns what a folder is mounted with, if that is a drive from elsewhere."""
    place, found = folder.resolve(), ""
    longest = -1
    for point, kind in mounts():
        if place.is_relative_to(point) and len(point.parts) >= longest:  # the later is on top
            longest, found = len(point.parts), kind
    is_drive = found in DRIVES or (found.startswith(FUSE) and found not in OWN)
    return found if is_drive else None


def mounts() -> Iterator[tuple[Path, str]]:
    """Yields where something is mounted, and its kind: (Path("/content/drive"), "fuse.drive")."""
    try:
        text = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in text.splitlines():
        _, point, kind, *_ = line.split(" ")
        for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
            point = point.replace(octal, character)
        yield Path(point), kind


def cache_folder() -> Path:
    """Returns the folder for what can be made anew, as the XDG base directories have it."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.cache"))


def can_be_made(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
