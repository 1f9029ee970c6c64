"""Promises of scripts/predict_cluster.py: each record once, with predict's text, whoever is killed.

Ray is one cluster of two engines on this machine, which all runs of this file share.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.model.writing_plan import WritingPlan
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import DataError, InUseError, UserError
from tests.conftest import SCRIPTS, exit_code, load_script
from tests.ray_workers import forked_workers
from tests.shallow_base import shallow_base

SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "2"),
    *("--data.validation_fraction", "0.1", "--model.lora.r", "4", "--trainer.accelerator", "cpu"),
    *("--model.decoding.max_new_tokens", "16", "--model.optimizer.init_args.lr", "0.03"),
]
COLUMNS = ["--id_column", "sku", "--title_column", "name", "--keep_columns", "price"]
DRAWN = ["--model.decoding.temperature", "0.9", "--model.decoding.num_candidates", "2"]
DRAWN += ["--model.decoding.max_new_tokens", "8"]
SECONDS = 300  # far more than anything here takes
OF_ENGINE = "ray::MapWorker(MapBatches(EngineOfTables"  # a long title may be cut

files = load_script("predict_cluster_files")
titles = load_script("predict_cluster_titles")
parts = load_script("predict_cluster_parts")


def shop(num: int) -> list[dict[str, Any]]:
    """Products, of which every fifth has a title that was there, and some have none."""
    found: list[dict[str, Any]] = []
    for number in range(num):
        title: Any = f"{('Red', 'Oak', 'Steel')[number % 3]} Mug {number}"
        if number % 5 == 4:
            title = f"  {found[number // 10 * 5]['name']}"
        if number % 20 == 7:
            title = ("", None, "<b> </b>")[number // 20 % 3]
        found.append({"sku": f"A{number}", "name": title, "price": number / 2 if number % 3 else 1})
    return found


def write_lines(path: Path, products: list[dict[str, Any]], *more: str) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [*map(json.dumps, products), *more]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


# Without a cluster


def test_files_are_read_in_the_order_of_predict_and_hidden_ones_are_not(tmp_path: Path):
    for name in ("p-10.jsonl", "p-2.jsonl", "sub/a.json.gz", "_SUCCESS", ".p.jsonl.crc", "n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files.found_titles(str(tmp_path))
    assert (found.form, found.names) == ("jsonl", ["p-2.jsonl", "p-10.jsonl", "sub/a.json.gz"])
    assert files.found_titles(f"{tmp_path}/p-*.jsonl").names == ["p-2.jsonl", "p-10.jsonl"]
    one = files.found_titles(f"file://{tmp_path}/p-2.jsonl")
    assert (one.names, one.addresses) == (["p-2.jsonl"], [f"file://{tmp_path}/p-2.jsonl"])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.parquet", "b.jsonl"], "found jsonl and parquet."),
        (["a.csv"], "found a.csv."),
        ([], "found nothing."),
    ],
)
def test_files_of_several_kinds_and_none_are_refused(tmp_path: Path, names: list[str], found: str):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="wanted files of one kind") as refused:
        files.found_titles(str(tmp_path))
    assert found in str(refused.value)


def test_an_address_that_nothing_drives_is_refused_with_what_to_install():
    with pytest.raises(UserError, match=r"--output nowhere://shop/x: wanted .* fsspec can reach"):
        files.Parts("nowhere://shop/x")


def test_an_object_store_has_a_part_under_its_name_only_when_it_is_whole(tmp_path: Path):
    store = fsspec.filesystem("memory")
    store.pipe_file("/shop/in/a.jsonl", b'{"name": "Mug"}\n')
    assert files.found_titles("memory://shop/in").addresses == ["memory:///shop/in/a.jsonl"]
    with files.on_disk("memory://shop/in/a.jsonl") as copy:
        assert copy.read_bytes() == b'{"name": "Mug"}\n'
    assert not copy.exists()
    output = files.Parts("memory://shop/out")
    assert (output.names(), output.read("_settings.json")) == ([], None)
    output.write_unfinished("1f", b"{}\n")
    assert output.whole() == []
    output.finish("1f", "part-000000000000.jsonl")
    output.write("_settings.json", b'{"a": 1}')
    assert output.whole() == ["part-000000000000.jsonl"]
    assert output.read_json("_settings.json") == {"a": 1}
    output.write("_settings.json", b"{")
    assert output.read_json("_settings.json") is None
    output.remove(files.UNFINISHED)
    output.remove(files.UNFINISHED)
    assert output.names() == ["_settings.json", "part-000000000000.jsonl"]


def test_places_of_equal_digests_of_the_docstrings():
    assert titles.first_twice(np.array([5, 0, 7, 0, 5], np.uint64)) == (0, 4)
    assert titles.first_twice(np.array([5, 0, 7, 0], np.uint64)) is None
    assert titles.first_alike(np.array([5, 7, 5, 5], np.uint64)).tolist() == [0, 1, 0, 0]
    kept = '{"sku":7,"code":"7","none":null,"truth":true}'
    ids = [titles.id_text(kept, name) for name in ("sku", "code", "none", "other", "truth")]
    assert ids == ["7", "7", "", "", "true"]


def reading_of(**given: Any) -> Any:
    from amazon_desc.data.cleaning.cleaner import CleaningSettings

    return titles.Reading(
        **{"title_column": "name", "keep": ["sku"], "cleaning": CleaningSettings()}
        | {"id_column": None, "needs_titles": False, "needs_types": False}
        | given
    )


def test_records_are_dealt_by_their_numbers_whatever_has_a_text_already(tmp_path: Path):
    products = [{"sku": n, "name": f" Mug {n}"} for n in range(10)]
    write_lines(tmp_path / "a.jsonl", products)
    row = {"address": str(tmp_path / "a.jsonl"), "first": 100, "drawn_as": b"", "number": 0}
    row |= {"name": "a.jsonl", "num_records": 10}
    row["sha256"] = titles.surveyed(titles.survey(row, reading_of())).sha256
    row["is_written"] = np.packbits([n in (2, 3) for n in range(10)]).tobytes()
    found = [titles.dealt(each) for each in titles.deal(row, reading_of(), 4)]
    numbers = [[each.row for each in part] for part in found]
    assert numbers == [[100, 101], [104, 105, 106, 107], [108, 109]]
    assert found[1][0] == (104, 104, " Mug 4", "", '{"sku":4}', "Mug 4")
    row["drawn_as"] = np.arange(7, 17).tobytes()
    assert [
        each.drawn_as for part in titles.deal(row, reading_of(), 99) for each in titles.dealt(part)
    ] == [*(7, 8, 11, 12, 13, 14, 15, 16)]


def test_a_file_that_is_replaced_while_it_is_dealt_is_refused(tmp_path: Path):
    for num, said in ((3, "was changed while it was written for. Put"), (0, "is empty")):
        row = {"address": str(tmp_path / "a.jsonl"), "first": 0, "drawn_as": b"", "num_records": 2}
        row |= {"is_written": bytes(1), "sha256": "that of others"}
        write_lines(tmp_path / "a.jsonl", [{"sku": n, "name": "Mug"} for n in range(num)])
        *found, last = titles.deal(row, reading_of(), 99)
        assert [len(titles.dealt(part)) for part in found] == [2][: min(num, 1)]
        assert said in last["problem"]


def test_a_survey_has_number_digest_types_and_ids_of_a_file(tmp_path: Path):
    write_lines(tmp_path / "a.jsonl", [{"sku": 7, "name": "Mug"}, {"sku": "7", "name": ""}], "{")
    row = {"number": 3, "name": "in/a.jsonl", "address": str(tmp_path / "a.jsonl")}
    asked = reading_of(id_column="sku", needs_titles=True, needs_types=True)
    found = titles.surveyed(titles.survey(row, asked))
    assert (found.num_records, found.types) == (3, {"sku": ["int", "text"]})
    assert found.ids[0] == found.ids[1] != 0 == found.ids[2]
    assert (found.titles != 0).tolist() == [True, False, False]
    assert titles.first_twice(found.ids) == (0, 1)
    problem = titles.survey(row, reading_of(id_column="code"))["problem"]
    assert problem.startswith("--titles in/a.jsonl: a.jsonl, line 1: wanted an id in the column co")
    assert "nom" in titles.survey(row, reading_of(title_column="nom"))["problem"]


RECORDS = [
    {"row": 3, "title": "Mug", "description": "A\nmug.", "finish_reason": "stop", "num_tokens": 3}
    | {"sku": 7},
    {"row": 5, "title": "", "description": "", "finish_reason": "skipped", "num_tokens": 0}
    | {"reason": "title is empty", "sku": None},
    {"row": 6, "title": "Cup", "description": "A", "finish_reason": "length", "num_tokens": 4},
]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_part_says_which_records_it_has_and_how_much(tmp_path: Path, form: str):
    types = parts.types_of({"sku": {"int", "null"}}, 1)
    data = parts.encoded(RECORDS, form, types)
    files.Parts(str(tmp_path)).write("part-2", data)
    found = parts.look_into({"name": "part-2"}, str(tmp_path), form)
    rows, counts = parts.read_contents(found)
    assert (rows.tolist(), found["problem"]) == ([2, 4, 5], "")
    assert counts == (2, 1, 7, {"title is empty": 1})
    assert parts.Counts() + counts + counts == (4, 2, 14, {"title is empty": 2})
    files.Parts(str(tmp_path)).write("part-2", data[:-9])
    assert (
        "part-2 is not as it was"
        in parts.look_into({"name": "part-2"}, str(tmp_path), form)["problem"]
    )


def test_parts_of_parquet_have_the_columns_of_predict_in_all_of_them():
    types = parts.types_of({"sku": {"int", "null"}, "price": {"int", "float"}, "tags": {"json"}}, 2)
    assert list(types) == [
        *("row", "title", "description", "finish_reason", "num_tokens", "reason", "candidates"),
        *("sku", "price", "tags"),
    ]
    schema = pq.read_schema(pa.BufferReader(parts.encoded(RECORDS[1:2], "parquet", types)))
    kinds = [str(schema.field(name).type) for name in ("row", "reason", "sku", "price", "tags")]
    assert kinds == ["int64", "string", "int64", "double", "string"]


def test_ray_client_is_refused_since_ray_data_does_not_run_through_it():
    with pytest.raises(UserError, match=r"--address ray://head:10001: .* --address HEAD:6379"):
        load_script("predict_cluster_ray").Cluster("ray://head:10001", None)


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[ray\]'"):
        load_script("predict_cluster_ray").Cluster(None, None)


# On a cluster


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cluster")
    folder, base = place / "run", ["--model.backbone", str(shallow_base(place / "base"))]
    assert exit_code(["fit", *SMALL, *base, "--trainer.default_root_dir", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_machines_that_would_write_other_texts_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = parts.Asked(str(run), "cpu", None, (), 8, 1)
    opened = asked.opened()
    assert parts.chosen_way(asked, opened) == ("plain", 100)
    assert replace(asked, way=("fused", 64)).plan(*opened).engine == "plain"  # both in float32
    sha256 = sha256_of(run / "adapter" / "adapter_model.safetensors")
    assert replace(asked, weights=sha256).opened()
    with pytest.raises(UserError, match="wanted the weights that this command began with"):
        replace(asked, weights="0" * 64).opened()
    plan = WritingPlan("fused", "", 64, is_merged=True, is_exact=False)
    monkeypatch.setattr("amazon_desc.model.writing_plan.plan_writing", lambda *_: plan)
    assert replace(asked, way=("fused", 64)).plan(*opened) == plan
    with pytest.raises(UserError, match="wanted 1024 texts at a time by the fused engine, as on"):
        replace(asked, way=("fused", 1024)).plan(*opened)


@pytest.fixture(scope="module")
def cluster(imported_cli: None) -> Iterator[str]:
    """The address of a cluster, which this process is connected to."""
    pytest.importorskip("ray", reason="needs Ray: install '.[ray]'")
    with TemporaryDirectory() as folder, forked_workers(Path(folder)):
        made = load_script("predict_cluster_ray").Cluster(None, 2)
        try:
            yield made.ray.get_runtime_context().gcs_address
        finally:
            made.ray.shutdown()


@pytest.fixture(scope="module")
def predict_cluster(cluster: str) -> ModuleType:
    return load_script("predict_cluster")


@pytest.fixture
def predicted(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that has one machine predict, into a file of a form."""

    def predict(source: Path, form: str, *options: str) -> Path:
        output = tmp_path / f"one_machine.{form}"
        command = ["predict", "--config", str(run / "config.yaml"), "--data.titles", str(source)]
        command += ["--trainer.default_root_dir", str(run), "--data.output", str(output)]
        command += ["--data.title_column", "name", "--data.keep_columns", "sku,price", *options]
        assert exit_code(command) == 0
        return output

    return predict


def lines_in(output: Path) -> list[str]:
    """The lines of all parts, by the numbers of their records."""
    lines = [
        line for part in output.glob("part-*") for line in part.read_text("utf-8").splitlines()
    ]
    return sorted(lines, key=lambda line: json.loads(line)["row"])


def wait_for_parts(output: Path, num: int, is_over: Callable[[], bool]) -> None:
    for _ in range(SECONDS * 50):
        if len(list(output.glob("part-*"))) >= num:
            return
        assert not is_over(), "it ended before"
        time.sleep(0.02)
    raise AssertionError(f"no {num} parts")


def kill_an_engine(output: Path, killed: list[int]) -> None:
    """Kills one of two engines once a part is there, and writes down how many parts are."""
    engines: list[psutil.Process] = []
    end = time.monotonic() + SECONDS
    while len(engines) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        engines = [
            process
            for process in psutil.Process().children(recursive=True)  # of this file's cluster
            if title_of(process).startswith(OF_ENGINE)
        ]
    wait_for_parts(output, 1, lambda: False)
    engines[0].kill()
    killed.append(len(list(output.glob("part-*"))))


def title_of(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:  # it has ended
        return ""


class Answered(NamedTuple):
    """What a command has made that lost an engine."""

    source: Path
    output: Path
    command: list[str]
    num_parts_before: int
    """when the engine was killed"""


@pytest.fixture(scope="module")
def answered(
    predict_cluster: ModuleType, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Answered:
    folder = tmp_path_factory.mktemp("answered")
    source, output, products = folder / "in", folder / "out", shop(150)
    write_lines(source / "p-2.jsonl", products[:40], "{", '{"sku": "B", "name": [{}]}')
    write_lines(source / "p-10.jsonl", products[40:])
    killed: list[int] = []
    killer = threading.Thread(target=kill_an_engine, args=(output, killed), daemon=True)
    killer.start()
    command = [str(run), "--titles", f"file://{source}", "--output", f"file://{output}", *COLUMNS]
    predict_cluster.main([*command, "--rows_per_part", "6"])
    killer.join()
    return Answered(source, output, command, *killed)


@pytest.mark.slow
def test_a_killed_engine_costs_no_record_and_changes_no_byte(
    answered: Answered, predicted: Callable[..., Path]
):
    assert answered.num_parts_before < 20
    assert len(list(answered.output.glob("part-*"))) == 7 + 19
    expected = predicted(answered.source, "jsonl").read_text("utf-8").splitlines()
    assert len(expected) == 152
    assert lines_in(answered.output) == expected
    assert not (answered.output / files.UNFINISHED).exists()
    summary = json.loads((answered.output / "_summary.json").read_text())
    assert (summary["rows"], summary["titles"], summary["parts"]) == (152, 142, 26)
    assert summary["skipped"] == {
        **{"title is empty": 6, "title is empty after cleaning": 2},
        **{"not valid JSON": 1, "title is not text": 1},
    }
    assert summary["tokens"] == sum(json.loads(line)["num_tokens"] for line in expected)
    assert len(summary["settings"]["--model.adapter"]["sha256"]) == 64


@pytest.mark.slow
def test_files_that_come_behind_are_written_for_alone(
    predict_cluster: ModuleType, answered: Answered, capfd: pytest.CaptureFixture[str]
):
    before = {part.name: part.read_bytes() for part in answered.output.glob("part-*")}
    write_lines(answered.source / "p-11.jsonl", [{"sku": "C", "name": "Mug", "price": 2}])
    capfd.readouterr()
    predict_cluster.main([*answered.command, "--num_engines", "1"])
    assert "Of 153 records 152 have their text already." in capfd.readouterr().out
    after = {part.name: part.read_bytes() for part in answered.output.glob("part-*")}
    (name,) = after.keys() - before.keys()
    assert name.startswith("part-000000000152-")
    last = json.loads(after.pop(name))
    assert (last["row"], last["title"], last["sku"]) == (153, "Mug", "C")
    assert after == before
    with (answered.output / name).open("a") as part:
        part.write(json.dumps(last) + "\n")
    said = refusal(predict_cluster, answered.command, capfd)
    assert f"{name} has a record twice" in said


@pytest.mark.slow
def test_a_killed_command_goes_on_by_the_numbers_of_records(
    predict_cluster: ModuleType,
    cluster: str,
    run: Path,
    tmp_path: Path,
    predicted: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
):
    """It is killed after 5 records a part, and goes on with 7: drawn texts, and repeated titles."""
    products, source, output = shop(80), tmp_path / "in", tmp_path / "out"
    source.mkdir()
    files.Parts(str(output)).write("_writer", b"of a command that was killed at once")
    pq.write_table(pa.Table.from_pylist(products[:50]), source / "p-1.parquet")
    pq.write_table(pa.Table.from_pylist(products[50:]), source / "p-2.parquet")
    command = [str(run), "--titles", str(source), "--output", str(output), *COLUMNS, *DRAWN]
    script = [sys.executable, str(SCRIPTS / "predict_cluster.py"), "--address", cluster]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    with subprocess.Popen([*script, *command, "--rows_per_part", "5"], env=environment) as process:
        wait_for_parts(output, 4, lambda: process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    before = {part.name: part.stat().st_mtime_ns for part in output.glob("part-*")}
    assert 4 <= len(before) < 16
    assert not (output / "_SUCCESS").exists()
    capfd.readouterr()
    predict_cluster.main([*command, "--rows_per_part", "7", "--num_engines", "1"])
    num_before = sum(pq.read_metadata(output / name).num_rows for name in before)
    assert f"Of 80 records {num_before} have their text already." in capfd.readouterr().out
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    found = pq.read_table(output).sort_by("row")
    assert found["row"].to_pylist() == list(range(1, 81))
    assert found.equals(pq.read_table(predicted(source, "parquet", *DRAWN)))
    assert (output / "_SUCCESS").read_bytes() == b""

    # again: nothing to do; with other settings, titles or columns: refused
    names = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    predict_cluster.main(command)
    assert "Now: 0 in" in capfd.readouterr().out
    for options, said in (
        (["--model.decoding.seed", "5"], "--model.decoding.seed: 0, now 5"),
        (["--title_column", "sku"], "--data.title_column: 'name', now 'sku'"),
    ):
        assert refusal(predict_cluster, [*command, *options], capfd).count(said) == 1
    pq.write_table(pa.Table.from_pylist(products[:49]), source / "p-1.parquet")
    assert "p-1.parquet (50 records" in refusal(predict_cluster, command, capfd)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")} == names


def refusal(script: ModuleType, command: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Returns what is said where a command is refused."""
    with pytest.raises(SystemExit) as exit_:
        script.main(command)
    assert exit_.value.code in (2, 3)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_ids_twice_or_missing_folders_of_others_and_texts_left_to_chance_are_refused(
    predict_cluster: ModuleType, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    source, output = tmp_path / "in", tmp_path / "out"
    command = [str(run), "--titles", str(source), "--output", str(output), *COLUMNS]
    write_lines(source / "a.jsonl", shop(8))
    write_lines(source / "b.jsonl", [{"sku": "A3", "name": "Mug", "price": 1}, {"name": "Cup"}])
    said = refusal(predict_cluster, command, capfd)
    assert "b.jsonl, line 2: wanted an id in the column sku, found none." in said
    write_lines(
        source / "b.jsonl", [{"sku": "B", "name": "Mug", "price": 1}, {"sku": "A3", "name": "Cup"}]
    )
    said = refusal(predict_cluster, command, capfd)
    assert "found 'A3' twice, at a.jsonl, line 4 and b.jsonl, line 2." in said
    assert not output.exists()
    output.mkdir()
    (output / "part-000000000000.jsonl").write_text("not ours\n")
    assert "never overwritten" in refusal(predict_cluster, command, capfd)
    half = [*command, "--precision", "bf16-mixed", "--output", str(tmp_path / "half")]
    said = refusal(predict_cluster, half, capfd)
    assert "--precision bf16-mixed: in half precision the plain engine's texts depend" in said
    assert "Give --precision 32-true" in said
    assert (output / "part-000000000000.jsonl").read_text() == "not ours\n"


def test_a_command_leaves_the_folder_to_one_that_came_later(tmp_path: Path):
    output = files.Parts(str(tmp_path))
    written = load_script("predict_cluster_written")
    survey = titles.Survey(4, "", {}, np.array([]), np.array([]))
    mine = written.Written(output, files.Titles("jsonl", ["a"], ["a"]), [survey], "mine")
    row = {"unfinished": "1f", **parts.contents(RECORDS[:1])}
    engines = SimpleNamespace(written=lambda *_: iter([row]))
    output.write("_writer", b"later")
    output.write_unfinished("1f", b"{}\n")
    with pytest.raises(InUseError, match="began after this one"):
        mine.write(engines, None, None, {})
    assert output.whole() == []
