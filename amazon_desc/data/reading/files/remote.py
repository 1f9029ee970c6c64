"""What lies on the network -> files on the disk, fetched once.

In comes an address that fsspec knows (s3://, gs://, hf://, https://, ...) or the name of a data set
on the Hugging Face hub, out go files: the former in a folder of downloads, the latter where
`datasets` keeps them. What was fetched is fetched again only if the other side says that it has
changed. Where a driver or the network is missing, the refusal names the command that fetches it.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from amazon_desc.data.reading.files.packing import without_packing
from amazon_desc.support.errors import DataError, StorageError
from amazon_desc.support.files import free_space, refuse_unwritable, replacing_folder, storage
from amazon_desc.support.printing import say

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA_SET = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Of each protocol: what pip installs for it, and the command that fetches without it.
_DRIVERS = {
    "s3": ("s3fs", "aws s3 cp {} ."),
    "gs": ("gcsfs", "gcloud storage cp {} ."),
    "gcs": ("gcsfs", "gcloud storage cp {} ."),
    "abfs": ("adlfs", "azcopy copy {} ."),
    "az": ("adlfs", "azcopy copy {} ."),
    "http": ("aiohttp", "wget {}"),
    "https": ("aiohttp", "wget {}"),
}
# What an address is told by that is no sign of a change.
_NO_SIGN = {"name", "size", "type", "url", "mimetype", "partial", "StorageClass", "isdir", "islink"}


def is_address(named: str) -> bool:
    """Says whether it is the address of something on the network: s3://bucket/shop.csv"""
    return bool(_ADDRESS.match(named))


def is_data_set(named: str, supported: Sequence[str]) -> bool:
    """Says whether what is no path here may be a data set of the hub: owner/name"""
    is_file = without_packing(named).endswith(tuple(supported))
    return bool(_DATA_SET.fullmatch(named)) and not is_file and not Path(named).parent.exists()


def downloads() -> Path:
    """Returns the folder in which downloads are kept: amazon_desc/downloads in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "amazon_desc", "downloads")


def is_folder(address: str, option: str) -> bool:
    """Says whether an address is that of a folder; on the web nothing is.

    Raises:
        DataError: it cannot be reached, or there is nothing.
    """
    if address.lower().startswith(("http://", "https://")):
        return False
    files, place = _opened(address, option)
    with _reached(address, option):
        return files.info(place)["type"] == "directory"


def names_in(address: str, option: str) -> list[str]:
    """Returns the files of a folder, and of those in it, by their paths in it."""
    files, place = _opened(address, option)
    with _reached(address, option):
        names = [name.removeprefix(place.rstrip("/")).lstrip("/") for name in files.find(place)]
    if odd := [name for name in names if ".." in PurePosixPath(name).parts]:
        raise DataError(f"{option} {shown(address)}: {odd[0]!r} lies outside of it. Name a file.")
    return names


def fetched(names: Sequence[str], address: str, option: str) -> Path:
    """Returns a folder on the disk that holds these files of one on the network.

    Raises:
        DataError: what the network refused.
        StorageError: the disk refused them.
    """
    files, place = _opened(address, option)
    with _reached(address, option):
        facts = {name: files.info(f"{place.rstrip('/')}/{name}") for name in names}
    sources = {name: f"{place.rstrip('/')}/{name}" for name in names}
    return _kept(files, sources, facts, address, option)


def fetched_file(address: str, option: str) -> Path:
    """Returns a file on the disk with what is at an address.

    Raises:
        DataError: what the network refused.
        StorageError: the disk refused it.
    """
    files, place = _opened(address, option)
    with _reached(address, option):
        facts = files.info(place)
    name = _last_part(address)
    return _kept(files, {name: place}, {name: facts}, address, option) / name


def _kept(
    files: Any, sources: dict[str, str], facts: dict[str, Any], address: str, option: str
) -> Path:
    told = {name: {k: str(v) for k, v in of.items()} for name, of in facts.items()}
    digest = hashlib.sha256(json.dumps([address, told], sort_keys=True).encode()).hexdigest()
    folder = downloads() / digest[:16] / _last_part(address)
    can_tell = all(set(of) - _NO_SIGN for of in facts.values())
    if folder.is_dir() and can_tell:
        return folder
    with storage(downloads(), "set XDG_CACHE_HOME to another folder"):
        downloads().mkdir(parents=True, exist_ok=True)
    refuse_unwritable(downloads())
    num_bytes = sum(of.get("size") or 0 for of in facts.values())
    say(f"Fetching {shown(address)} ({num_bytes / 1e6:,.1f} MB, kept in {folder})")
    with replacing_folder(folder) as temporary:
        for name, source in sources.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with _reached(address, option):
                files.get_file(source, str(path))
    return folder


def _last_part(address: str) -> str:
    """s3://shop/my%20mugs.csv?x=1 -> my mugs.csv; s3://shop -> shop"""
    parts = urlsplit(address)
    name = PurePosixPath(unquote(parts.path)).name or parts.netloc.rpartition("@")[2]
    return name if name not in ("", "..") else "download"


def _opened(address: str, option: str) -> tuple[Any, str]:
    import fsspec

    with _reached(address, option):
        files, place = fsspec.core.url_to_fs(address)
        return files, str(place)


@contextmanager
def _reached(address: str, option: str) -> Iterator[None]:
    """Says what to do where the network, or what drives it, refuses something."""
    try:
        yield
    except Exception as error:  # each driver has errors of its own, and they share no root
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{downloads()} cannot be written: {error.strerror}{free_space(downloads())}. Make "
                f"room there, or set XDG_CACHE_HOME to another folder."
            ) from error
        raise DataError(f"{option} {shown(address)}{_refusal(address, error)}") from error


def _refusal(address: str, error: Exception) -> str:
    protocol = address.partition("://")[0].lower()
    driver, command = _DRIVERS.get(protocol, ("", ""))
    command = command.format(shown(address))
    by_hand = f"fetch it with `{command}`" if command else _fetch_hub(address)
    if isinstance(error, ImportError):
        driver = driver or "the package that fsspec names"
        return (
            f": reading {protocol}:// needs {driver}: pip install {driver}, or {by_hand} and name "
            f"the file."
        )
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        return (
            f": wanted an address such as s3://, gs://, hf:// or https://, found {protocol}://. "
            f"Name a file, or another address."
        )
    if isinstance(error, FileNotFoundError):
        return ": no such file there. Check the address."
    reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    return (
        f" could not be fetched: {reason}. Check the address, who may read it, and the network; or "
        f"{by_hand} and name the file."
    )


def _fetch_hub(address: str) -> str:
    found = re.match(r"hf://datasets/([^/]+/[^/@]+)", address)
    if not found:
        return "fetch it by hand"
    return f"fetch it with `hf download --repo-type dataset {found[1]} --local-dir .`"


def shown(address: str) -> str:
    """Returns an address without what may be secret in it: user, password and query."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def fetched_data_set(named: str, option: str, split: str) -> tuple[Path, ...]:
    """Returns the Arrow files of a split of a data set on the hub.

    Raises:
        DataError: it could not be fetched, with the command that fetches it elsewhere.
    """
    import datasets

    try:
        found = datasets.load_dataset(named, split=split)
        files = tuple(Path(file["filename"]) for file in found.cache_files)
    except Exception as error:  # the hub, the cache, and each format have errors of their own
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        folder = named.rpartition("/")[2]
        raise DataError(
            f"{option} {named}: no such file (looked for {Path(named).absolute()}), and no data "
            f"set of that name could be fetched from the hub: {reason}. Check the name; where "
            f"there is a network, `hf download --repo-type dataset {named} --local-dir {folder}` "
            f"fetches it: then name the folder."
        ) from error
    if not files:
        raise DataError(
            f"{option} {named}: wanted its records on the disk, found them in memory only. Save it "
            f"with save_to_disk of `datasets`, and name the folder."
        )
    return files
