"""What lies on the network is fetched once and read; what cannot be is a sentence with a command.

The network is fsspec's memory, and a web server on this machine; the hub's data sets are a stand-in
of `datasets.load_dataset`, which makes what that makes: Arrow files in a cache.
"""

import errno
import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest

from amazon_desc.data.corpus.product_files import ProductFiles
from amazon_desc.data.reading.files import remote
from amazon_desc.data.reading.files.kinds import SUPPORTED
from amazon_desc.data.reading.files.places import Place, place_of
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.support.errors import DataError, StorageError

LINE = b'{"title": "Mug", "content": "Holds tea."}\n'
PRODUCT = Product("Mug", "Holds tea.")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "amazon_desc" / "downloads"


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server, and the folder that it serves."""
    (tmp_path / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Prints nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "web"
    server.shutdown()
    server.server_close()


def place(named: str, option: str = "--data.train_file") -> Place:
    return place_of(named, option, SUPPORTED)


def refusal(named: str) -> str:
    with pytest.raises(DataError) as error:
        place(named)
    assert "\n" not in str(error.value)
    return str(error.value)


def read(found: Place) -> list[Any]:
    return [record for path in found.files for record in read_products(path)]


def test_a_file_on_the_network_is_fetched_once_and_again_when_it_changed(
    memory: Any, cache: Path, capsys: pytest.CaptureFixture[str]
):
    memory.pipe("/shop/a.jsonl", LINE)
    first = place("memory://shop/a.jsonl")
    assert (first.name, read(first)) == ("a.jsonl", [PRODUCT])
    assert first.files[0].is_relative_to(cache)
    assert capsys.readouterr().out.startswith("Fetching memory://shop/a.jsonl (0.0 MB, kept in ")
    assert place("memory://shop/a.jsonl") == first
    assert capsys.readouterr().out == ""
    memory.pipe("/shop/a.jsonl", LINE + LINE)
    assert read(place("memory://shop/a.jsonl")) == [PRODUCT] * 2
    assert capsys.readouterr().out.startswith("Fetching")


def test_an_option_keeps_the_address_as_it_was_named(memory: Any):
    memory.pipe("/shop/a.jsonl", LINE)
    files = ProductFiles.named("memory://shop/a.jsonl", None, "title", "content", 0)
    assert files.train_files == ("memory://shop/a.jsonl",)
    assert [(path.name, use) for path, use in files.files] == [("a.jsonl", "train")]


def test_a_folder_on_the_network_is_a_folder(memory: Any):
    for name in ("part-10.csv", "part-9.csv", "_SUCCESS", "_log/a.csv", ".part-1.csv.crc"):
        memory.pipe(f"/out/{name}", b"title,content\n%s,x\n" % name.encode())
    found = place("memory://out")
    assert [record.title for record in read(found)] == ["part-9.csv", "part-10.csv"]
    assert found.name == "out"
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("memory://out: 2 files (.csv) are read in the order of")


def test_files_on_the_web_are_read(web: tuple[str, Path]):
    address, folder = web
    (folder / "my shop.jsonl").write_bytes(LINE)
    found = place(f"{address}/my%20shop.jsonl?download=1")
    assert (found.name, read(found)) == ("my shop.jsonl", [PRODUCT])
    (folder / "page.zip").write_bytes(b"<!DOCTYPE html><title>Google Drive - Virus scan warning")
    with pytest.raises(DataError, match="is a page of the web"):
        read(place(f"{address}/page.zip"))


def test_what_is_not_there_is_told_with_the_option(memory: Any, web: tuple[str, Path]):
    for address in ("memory://shop/none.csv", f"{web[0]}/none.csv"):
        assert refusal(address) == (
            f"--data.train_file {address}: no such file there. Check the address."
        )


@pytest.mark.parametrize(
    ("address", "driver", "command"),
    [
        ("s3://shop/a.csv", "s3fs", "`aws s3 cp s3://shop/a.csv .`"),
        ("gs://shop/a.csv", "gcsfs", "`gcloud storage cp gs://shop/a.csv .`"),
        ("abfs://shop/a.csv", "adlfs", "`azcopy copy abfs://shop/a.csv .`"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_another_way(
    monkeypatch: pytest.MonkeyPatch, address: str, driver: str, command: str
):
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError(f"Install {driver}")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    protocol = address.partition(":")[0]
    assert refusal(address) == (
        f"--data.train_file {address}: reading {protocol}:// needs {driver}: pip install {driver}, "
        f"or fetch it with {command} and name the file."
    )


def test_an_unknown_protocol_is_refused():
    assert "found gopher://. Name a file, or another address" in refusal("gopher://shop/a.csv")


def test_what_the_network_refuses_is_told_without_what_is_secret(monkeypatch: pytest.MonkeyPatch):
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("Forbidden\nby the bucket")

    monkeypatch.setattr("fsspec.core.url_to_fs", refused)
    message = refusal("https://me:canary@shop.example/a.csv?signature=canary")
    assert message == (
        "--data.train_file https://shop.example/a.csv could not be fetched: Forbidden by the "
        "bucket. Check the address, who may read it, and the network; or fetch it with `wget "
        "https://shop.example/a.csv` and name the file."
    )


def test_a_download_that_breaks_leaves_nothing(
    memory: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    memory.pipe("/shop/a.jsonl", LINE)
    for error, kind in (
        (ConnectionError("reset"), DataError),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def broken(_: Any, target: str, error: BaseException = error) -> None:
            Path(target).write_bytes(LINE[:9])
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(memory, "get_file", broken)
            with pytest.raises(kind):
                place("memory://shop/a.jsonl")
        assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert read(place("memory://shop/a.jsonl")) == [PRODUCT]


def test_a_name_that_leads_out_of_the_folder_is_refused(
    memory: Any, monkeypatch: pytest.MonkeyPatch
):
    memory.pipe("/out/a.csv", b"title,content\n")
    with monkeypatch.context() as patched:
        patched.setattr(memory, "find", lambda place: [f"{place}/../../a.csv"])
        message = refusal("memory://out")
    assert "'../../a.csv' lies outside of it" in message


def test_a_hub_file_names_the_command_that_fetches_it():
    """There is no network here: HF_HUB_OFFLINE is set."""
    message = refusal("hf://datasets/some/shop/a.csv")
    assert message.startswith("--data.train_file hf://datasets/some/shop/a.csv")
    assert "`hf download --repo-type dataset some/shop --local-dir .`" in message


# Data sets of the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Has `datasets` find some/shop; returns what is asked of it."""
    asked: list[tuple[str, str]] = []
    parts = {"train": ["Mug", "Cup"], "test": ["Pot"]}
    files = {}
    for part, titles in parts.items():
        files[part] = str(tmp_path / f"{part}.jsonl")
        rows = [json.dumps({"title": title, "content": "x"}) + "\n" for title in titles]
        Path(files[part]).write_text("".join(rows))
    real = datasets.load_dataset

    def load(name: str, split: str) -> Any:
        asked.append((name, split))
        if name != "some/shop":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist")
        cache = str(tmp_path / "hf")
        return real("json", data_files=files, split=split, cache_dir=cache)

    monkeypatch.setattr("datasets.load_dataset", load)
    return asked


def test_a_data_set_of_the_hub_is_read_by_its_name(hub: list[tuple[str, str]]):
    files = ProductFiles.named("some/shop", "some/shop", "title", "content", 0)
    found = [(r.title, use) for path, use in files.files for r in read_products(path)]
    assert found == [("Pot", "test"), ("Mug", "train"), ("Cup", "train")]
    assert files.remarks == [
        "some/shop is the data set of that name on the hub: its split test is read.",
        "some/shop is the data set of that name on the hub: its split train is read.",
    ]
    assert hub == [("some/shop", "test"), ("some/shop", "train")]


def test_a_path_is_no_data_set(
    hub: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/none", "none/none.csv", "none/none.jsonl.gz", "a/b/c", "none", "../none"):
        assert place(name).files == (Path(name),)
    assert hub == []


def test_a_data_set_that_is_not_there_is_a_sentence(
    hub: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert refusal("some/none") == (
        f"--data.train_file some/none: no such file (looked for {tmp_path / 'some/none'}), and no "
        "data set of that name could be fetched from the hub: Dataset 'some/none' doesn't exist. "
        "Check the name; where there is a network, `hf download --repo-type dataset some/none "
        "--local-dir none` fetches it: then name the folder."
    )


def test_an_address_is_told_from_a_path():
    assert remote.is_address("s3://shop/a.csv")
    assert remote.is_address("HF://datasets/a/b")
    for path in ("a.csv", "/a/b.csv", "C:\\a.csv", "a:b", "s3:/a", "://a", "1s3://a"):
        assert not remote.is_address(path)
