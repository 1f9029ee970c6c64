"""An output is whole under its name, or goes on after the lines that are there.

Killed anywhere and begun again, each record has its line once, as in a run that nobody killed.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amazon_desc.data.loading.titles import TitleRow
from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.settings import content
from amazon_desc.run.predicting.callback import PredictionFile
from amazon_desc.run.predicting.forms import read_form
from amazon_desc.run.predicting.lines import GrowingLines
from amazon_desc.run.predicting.output import Output
from amazon_desc.run.predicting.provenance import Way
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import InUseError, StorageError, UserError
from tests.conftest import slow_case

SETTINGS = {"--model.decoding.max_new_tokens": 4}
FORMS = ["jsonl", "csv", "parquet"]


class Table(list[TitleRow]):
    """Records with these titles; an empty one is skipped."""

    def __init__(self, titles: str, sku: int = 0) -> None:
        self.sku = sku
        kept = f'{{"sku": {sku}}}'
        super().__init__(
            TitleRow(row, title, "", titles.index(title), kept)
            if title.strip()
            else TitleRow(row, "", "title is empty", row, kept)
            for row, title in enumerate(titles)
        )

    def records(self, start: int = 0) -> Iterator[TitleRow]:
        return iter(self[start:])


TITLES = Table("abc defagb ")


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output.of(RunFolder(tmp_path), "titles.txt")


def together(size: int) -> Callable[[Way | None], Way]:
    """Says that so many titles have to be written for together, as batches in half precision."""
    return lambda before: Way("plain", size, size)


def texts_of(batch: list[str]) -> list[Prediction]:
    """What is written for a title depends on the titles beside it, as in a real batch."""
    return [
        Prediction(title, Description(f"{title} of {'/'.join(batch)}", "stop", 3))
        for title in batch
    ]


def begin(
    output: Output,
    size: int = 2,
    table: Table = TITLES,
    settings: dict[str, Any] = SETTINGS,
    choose: Callable[[Way | None], Way] | None = None,
) -> GrowingLines | None:
    with output.alone() as folder:
        if (record := output.read_record()) is not None:
            output.refuse_other(record, settings)
        chosen = choose or together(size)
        return output.begin(record, settings, table, chosen, folder / "offsets")


def predict(output: Output, size: int = 2, stop: int = 99, table: Table = TITLES) -> None:
    """Writes as the command does, killed before the batch of the number `stop`."""
    lines = begin(output, size, table)
    if lines is None:
        return
    file, trainer, module = PredictionFile(lines), SimpleNamespace(), SimpleNamespace()
    file.add([])
    coming = [of.title for of in table if of.is_written][lines.num_written :]
    file.on_predict_start(trainer, module)  # pyright: ignore[reportArgumentType]
    for number, first in enumerate(range(0, len(coming), size)):
        if number == stop:
            lines.file.close()
            return
        outputs = texts_of(coming[first : first + size])
        file.keep([], outputs)
    file.on_predict_end(trainer, module)  # pyright: ignore[reportArgumentType]
    lines.close()
    assert lines.is_complete
    output.finish()


def titles_in(file: Path) -> list[str]:
    return [json.loads(line)["title"] for line in file.read_text().splitlines()]


# Names


@pytest.mark.parametrize(
    ("source", "named", "path"),
    [
        ("titles.txt", None, "predictions/titles.txt.jsonl"),
        ("five.v2.txt", None, "predictions/five.v2.txt.jsonl"),
        ("mugs.csv.gz", None, "predictions/mugs.csv.gz.jsonl"),
        (".hidden", None, "predictions/.hidden.jsonl"),
        ("a.txt", "/shop/a.b.CSV", "/shop/a.b.CSV"),
    ],
)
def test_an_output_is_named_after_all_of_the_titles_name_or_as_it_is_asked_for(
    source: str, named: str | None, path: str, tmp_path: Path
):
    output = Output.of(RunFolder(tmp_path), source, named)
    assert output.path == tmp_path / path
    assert output.partial == tmp_path / f"{path}.partial"
    assert output.settings == tmp_path / f"{path}.settings.json"


def test_a_folder_and_a_name_without_a_form_are_refused(tmp_path: Path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match="wanted a file, found a folder"):
        Output.of(RunFolder(tmp_path), "a", str(tmp_path / "a.csv"))
    with pytest.raises(UserError, match=r"ends in \.jsonl, \.csv, \.parquet"):
        Output.of(RunFolder(tmp_path), "a", "out.xlsx")


# Growing


def test_the_file_grows_by_batches_and_has_its_name_at_the_end(
    output: Output, capsys: pytest.CaptureFixture[str]
):
    predict(output, size=3, stop=2)
    assert titles_in(output.partial) == [of.title for of in TITLES[:8]]
    assert not output.path.exists()
    assert capsys.readouterr().out == ""
    predict(output, size=3)
    assert not output.partial.exists()
    assert titles_in(output.path) == [of.title for of in TITLES]
    assert capsys.readouterr().out == f"Resuming after record 8 of 11 in {output.partial}\n"


@pytest.mark.parametrize("form", FORMS)
def test_an_output_that_was_cut_off_in_its_last_step_is_finished_without_a_text(
    form: str, output: Output
):
    output = Output(output.path.with_name(f"a.{form}"))
    predict(output, size=2)
    whole = list(read_form(output.path))
    lines = begin(output, 2, Table("abc defagb x"))
    assert lines is not None
    assert lines.num_lines == 11
    lines.file.close()
    lines = begin(output)
    assert lines is not None
    assert lines.is_complete
    lines.close()
    output.finish()
    assert list(read_form(output.path)) == whole


@pytest.mark.parametrize("size", [2, *map(slow_case, (1, 7))])
def test_a_file_cut_at_any_byte_is_finished_as_if_it_had_never_been(
    size: int, output: Output, monkeypatch: pytest.MonkeyPatch
):
    """Without waits for the disk, thousands of them: test_durability.py has what must reach it."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    predict(output, size)
    whole = output.path.read_bytes()
    for num_bytes in range(len(whole) + 1):
        output.path.unlink()
        output.partial.write_bytes(whole[:num_bytes])
        predict(output, size)
        assert output.path.read_bytes() == whole
        assert not output.partial.exists()


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_written_anew(output: Output):
    predict(output)
    whole = output.path.read_bytes()
    for num_bytes in (0, 10, 100, len(whole) - 5):
        output.path.unlink()
        output.partial.write_bytes(whole[:num_bytes] + bytes(len(whole) - num_bytes))
        predict(output)
        assert output.path.read_bytes() == whole


def test_another_number_of_titles_together_goes_on_behind_the_last_whole_group(output: Output):
    """Of 2, the third torn; then of 1, cut in its second; then of 2 again."""
    table = Table("abcdefg")
    predict(output, table=table)
    lines = output.path.read_bytes().splitlines(keepends=True)
    output.path.unlink()
    output.partial.write_bytes(b"".join(lines[:5]))
    predict(output, size=1, stop=1, table=table)
    assert output.partial.read_bytes().count(b"\n") == 5
    predict(output, table=table)
    wanted = [("a", "a/b"), ("b", "a/b"), ("c", "c/d"), ("d", "c/d"), ("e", "e")]
    wanted += [("f", "f/g"), ("g", "f/g")]
    found = [record["description"] for record in read_form(output.path)]
    assert found == [f"{title} of {batch}" for title, batch in wanted]


def test_where_a_text_is_the_same_beside_any_other_each_whole_line_stays(output: Output):
    """And the way that it was written is offered again."""
    offered = []

    def choose(before: Way | None) -> Way:
        offered.append(before)
        return Way("fused", 1024, 1)

    lines = begin(output, choose=choose)
    assert lines is not None
    lines.add(texts_of(list("abc")))
    with output.partial.open("a") as file:
        file.write('{"row": 5, "ti')
    lines = begin(output, choose=choose)
    assert lines is not None
    assert (lines.num_lines, lines.num_written) == (4, 3)
    assert offered == [None, Way("fused", 1024, 1)]
    assert output.partial.read_text().count("\n") == 4


# What is there


@pytest.mark.parametrize("form", FORMS)
def test_a_complete_output_is_left_as_it_is(
    form: str, output: Output, capsys: pytest.CaptureFixture[str]
):
    output = Output(output.path.with_name(f"a.{form}"))
    predict(output, size=3)
    before = {file: file.read_bytes() for file in output.path.parent.iterdir()}
    assert begin(output) is None
    assert capsys.readouterr().out == f"All records (11) are in {output.path} already\n"
    assert {file: file.read_bytes() for file in output.path.parent.iterdir()} == before


def test_a_complete_output_that_an_editor_saved_without_its_last_line_end_stays_complete(
    output: Output,
):
    predict(output)
    output.path.write_bytes(output.path.read_bytes().removesuffix(b"\n"))
    assert begin(output) is None


@pytest.mark.parametrize("num_lines", [1, 2, 6, 10])
def test_an_output_from_which_the_last_lines_were_taken_is_completed(
    num_lines: int, output: Output
):
    predict(output, size=1)
    whole = output.path.read_bytes()
    output.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:num_lines]))
    predict(output, size=1)
    assert output.path.read_bytes() == whole


def other_lines(output: Output) -> dict[str, bytes]:
    lines = output.path.read_bytes().splitlines(keepends=True)
    return {
        "another order": b"".join([lines[1], lines[0], *lines[2:]]),
        "one left out": b"".join([lines[0], *lines[2:]]),
        "one more": b"".join([*lines, lines[-1]]),
        "another title": b"".join(lines).replace(b'"b"', b'"B"'),
        "no line": b"".join([*lines[:3], b"no line\n", *lines[3:]]),
        "a torn line": b"".join(lines)[:-9],
    }


@pytest.mark.parametrize(
    "change",
    ["another order", "one left out", "one more", "another title", "no line", "a torn line"],
)
def test_an_output_of_other_lines_is_refused_and_kept(change: str, output: Output):
    predict(output)
    output.path.write_bytes(before := other_lines(output)[change])
    with pytest.raises(UserError, match=r"found another|not as it was written") as refused:
        begin(output)
    assert "Move or delete it, or name another file with --data.output." in str(refused.value)
    assert output.path.read_bytes() == before


@pytest.mark.parametrize("stop", [1, 99])
def test_an_output_of_other_settings_is_never_overwritten(stop: int, output: Output):
    predict(output, size=3, stop=stop)
    before = {file: file.read_bytes() for file in output.path.parent.iterdir()}
    with pytest.raises(UserError, match="never overwritten") as refused:
        begin(output, settings={"--model.decoding.max_new_tokens": 9})
    assert "--model.decoding.max_new_tokens: 4, now 9" in str(refused.value)
    assert "Move or delete it" in str(refused.value)
    assert {file: file.read_bytes() for file in output.path.parent.iterdir()} == before


@pytest.mark.parametrize("record", [None, "{}", "[]", '{"settings": {}}'])
def test_an_output_that_says_nothing_of_its_settings_is_never_overwritten(
    record: str | None, output: Output
):
    output.path.parent.mkdir()
    output.path.write_text("kept")
    if record is not None:
        output.settings.write_text(record)
    with pytest.raises(UserError, match=r"titles\.txt\.jsonl is there already.*Move or delete it"):
        begin(output)
    assert output.path.read_text() == "kept"


def test_a_record_that_is_damaged_is_said(output: Output):
    predict(output, size=3, stop=1)
    output.settings.write_text('{"settings": ')
    with pytest.raises(UserError, match=r"titles\.txt\.jsonl\.settings\.json is damaged"):
        begin(output)
    assert output.partial.exists()


def test_what_a_killed_predict_left_half_written_goes(output: Output):
    output.path.parent.mkdir()
    for path in (output.path, output.partial, output.settings):
        path.with_name(f".tmp-4711-{path.name}").write_text('{"sett')
    folder = output.scratch.with_name(f".tmp-4711-{output.scratch.name}")
    folder.mkdir()
    (folder / "standard_input.txt").write_text("Mug")
    predict(output, size=3)
    assert sorted(file.name for file in output.path.parent.iterdir()) == [
        *("titles.txt.jsonl", "titles.txt.jsonl.settings.json"),
    ]


def test_a_disk_that_is_full_when_a_file_gets_its_form_leaves_the_lines(
    output: Output, monkeypatch: pytest.MonkeyPatch
):
    output = Output(output.path.with_name("a.csv"))

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("csv.writer", full)
        with pytest.raises(StorageError, match=r"No space left.*name another --data\.output"):
            predict(output)
    assert sorted(file.name for file in output.path.parent.iterdir()) == [
        *("a.csv.partial", "a.csv.settings.json"),
    ]
    lines = begin(output)
    assert lines is not None
    assert lines.is_complete


# Titles that are added


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [0, 1, 2, 99])
def test_titles_that_are_added_go_on_after_a_whole_file_which_stays_until_then(
    form: str, stop: int, output: Output
):
    """Killed before any batch too: as if nobody had, also where groups are written together."""
    output = Output(output.path.with_name(f"a.{form}"))
    longer = Table("abc defagb xaybz")
    predict(output, size=2)
    before = output.path.read_bytes()
    predict(output, size=2, stop=stop, table=longer)
    if stop < 2:
        assert output.path.read_bytes() == before
        assert output.partial.exists()
    predict(output, size=2, table=longer)
    found = list(read_form(output.path))
    assert [record["title"] for record in found] == [of.title for of in longer]
    assert found[10:] == [
        *(found[10:11]),
        {**found[11], "description": "x of x/y"},
        {**found[0], "row": 13},
        {**found[13], "description": "y of x/y"},
        {**found[1], "row": 15},
        {**found[15], "description": "z of z"},
    ]
    assert not output.partial.exists()


def test_the_shops_columns_are_in_the_lines_of_before_too(output: Output):
    predict(output, table=Table("ab", sku=7))
    predict(output, table=Table("abc", sku=7))
    records = [json.loads(line) for line in output.path.read_text().splitlines()]
    assert [record["sku"] for record in records] == [7, 7, 7]


# What the callback does


def test_a_trial_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(num_titles=7))
    callback, module = PredictionFile(), SimpleNamespace()
    callback.on_predict_start(trainer, module)  # pyright: ignore[reportArgumentType]
    callback.on_predict_batch_end(trainer, module, texts_of(["a", "b"]), None, 0)  # pyright: ignore
    callback.on_predict_end(trainer, module)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == "Tried with 2 of 7 titles: nothing is kept.\n"


def test_weights_that_were_replaced_while_they_were_loaded_are_not_used(
    output: Output, tmp_path: Path
):
    (tmp_path / "weights").write_text("weights")
    weights = content(str(tmp_path / "weights"), sha256_of(tmp_path / "weights"))
    (tmp_path / "weights").write_text("others")
    callback: Any = PredictionFile(begin(output), weights)
    with pytest.raises(InUseError, match="was replaced, by a fit, while it was being loaded"):
        callback.on_predict_start(SimpleNamespace(), SimpleNamespace())
    assert output.partial.read_bytes() == b""
