"""A line of JSON for every title, in a file that has its name only when it is complete.

Killed anywhere and run again, each title is there once, as in a run that nobody killed.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amazon_desc.generation.texts import Description
from amazon_desc.generation.writing import Prediction
from amazon_desc.run.callbacks.predictions import PredictionFile, line
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.settings import content
from amazon_desc.run.prediction_files import WEIGHTS, PredictionFiles, Way, way_of
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import InUseError, UserError
from tests.conftest import slow_case


def prediction(title: str, text: str = "A mug.") -> Prediction:
    return Prediction(title, Description(text, "stop", 3))


def test_a_line_is_json_with_title_description_ending_and_length():
    assert line(prediction("Blue Mug")) == (
        '{"title": "Blue Mug", "description": "A mug.", "finish_reason": "stop", "num_tokens": 3}\n'
    )


def test_a_line_of_several_candidates_has_the_first_where_it_is_joined_and_then_all():
    first, other = Description("A mug.", "stop", 3), Description("Holds", "length", 1)
    assert json.loads(line(Prediction("Mug", first, [other]))) == {
        **{"title": "Mug", "description": "A mug.", "finish_reason": "stop", "num_tokens": 3},
        "candidates": [
            {"description": "A mug.", "finish_reason": "stop", "num_tokens": 3},
            {"description": "Holds", "finish_reason": "length", "num_tokens": 1},
        ],
    }


@pytest.mark.parametrize(
    "text",
    [
        'He said "no" \\ twice',
        "two\nlines\r\nand a tab\t",
        "</s><end_of_turn>{title}",
        "U+2028 \u2028, U+2029 \u2029, NEL \x85, VT \x0b, FF \x0c, FS \x1c",
        "NUL \x00 and BOM \ufeff",
        "Título 茶 🍵",
        "",
    ],
)
def test_any_text_stays_one_line_and_comes_back(text: str):
    written = line(prediction(text, text))
    assert written.splitlines() == [written.removesuffix("\n")]
    assert written.encode().count(b"\n") == 1
    record = json.loads(written)
    assert (record["title"], record["description"]) == (text, text)


def test_letters_are_written_as_they_are():
    assert '"Título 茶 🍵"' in line(prediction("Título 茶 🍵"))


@pytest.mark.parametrize(
    ("titles", "name"),
    [
        ("titles.txt", "titles.jsonl"),
        ("a/b/mugs.csv.gz", "mugs.jsonl"),
        ("a.b.jsonl", "a.jsonl"),
        (".hidden", "titles.jsonl"),
    ],
)
def test_the_file_is_named_after_the_titles(titles: str, name: str, tmp_path: Path):
    files = PredictionFiles.of(RunFolder(tmp_path), Path(titles))
    assert files.path == tmp_path / "predictions" / name
    assert files.partial == tmp_path / "predictions" / f"{name}.partial"


# An output that is begun, interrupted, and gone on with

TITLES = list("abcdefg")
SETTINGS = {"--model.decoding.max_new_tokens": 4}


@pytest.fixture
def files(tmp_path: Path) -> PredictionFiles:
    return PredictionFiles.of(RunFolder(tmp_path), Path("titles.txt"))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    weights = tmp_path / "weights"
    weights.write_text("weights")
    return {**SETTINGS, WEIGHTS: content(str(weights), sha256_of(weights))}


def together(size: int) -> Callable[[Way | None], Way]:
    """Says that so many titles have to be written for together, as batches in half precision."""
    return lambda before: Way("plain", size, size)


def texts_of(batch: list[str]) -> list[Prediction]:
    """What is written for a title depends on the titles beside it, as in a real batch."""
    return [prediction(title, f"{title} of {'/'.join(batch)}") for title in batch]


def predict(
    files: PredictionFiles,
    settings: dict[str, Any],
    size: int,
    stop: int = 99,
    limit: int = 99,
) -> None:
    """Writes as the trainer has it written, killed before the batch of the number `stop`.

    Args:
        limit: batches after which the trainer ends, as if these were all
    """
    num_done = files.begin(settings, TITLES, together(size))
    if num_done is None:
        return
    data = SimpleNamespace(
        titles_file=Path("titles.txt"), num_predicted=num_done, product_titles=TITLES
    )
    trainer: Any = SimpleNamespace(
        default_root_dir=str(files.path.parents[1]), datamodule=data, fast_dev_run=False
    )
    callback, module = PredictionFile(), SimpleNamespace()
    callback.setup(trainer, module, "predict")  # pyright: ignore[reportArgumentType]
    callback.on_predict_start(trainer, module)  # pyright: ignore[reportArgumentType]
    for number, first in enumerate(range(num_done, len(TITLES), size)):
        if number == stop:
            assert callback.file is not None
            callback.file.close()
            return
        if number == limit:
            break
        outputs = texts_of(TITLES[first : first + size])
        callback.on_predict_batch_end(trainer, module, outputs, None, number)  # pyright: ignore
    callback.on_predict_end(trainer, module)  # pyright: ignore[reportArgumentType]


def test_the_file_grows_by_batches_and_is_renamed_at_the_end(
    files: PredictionFiles, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    predict(files, settings, size=3, stop=2)
    titles = [json.loads(text)["title"] for text in files.partial.read_text().splitlines()]
    assert titles == TITLES[:6]
    assert not files.path.exists()
    assert capsys.readouterr().out == ""
    predict(files, settings, size=3)
    assert not files.partial.exists()
    assert [json.loads(t)["title"] for t in files.path.read_text().splitlines()] == TITLES
    said = capsys.readouterr().out
    assert said.startswith(f"Resuming after title 6 of 7 in {files.partial}\n")
    assert re.search(
        rf"\n7 descriptions are in {files.path}; 1 were written in \S+ s: \S+ titles/s, \S+ tok",
        said,
    )


def test_only_an_output_with_a_line_for_every_title_gets_its_name(
    files: PredictionFiles, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    predict(files, settings, size=3, limit=1)
    assert not files.path.exists()
    assert capsys.readouterr().out == (
        f"3 of 7 descriptions are in {files.partial}. The same command without "
        f"--trainer.limit_predict_batches resumes from there.\n"
    )
    predict(files, settings, size=3)
    assert [json.loads(t)["title"] for t in files.path.read_text().splitlines()] == TITLES
    assert not files.partial.exists()


@pytest.mark.parametrize("num_lines", [0, 2, 6])
def test_an_output_that_got_its_name_too_early_is_completed(
    num_lines: int, files: PredictionFiles, settings: dict[str, Any]
):
    predict(files, settings, size=2)
    whole = files.path.read_bytes()
    files.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:num_lines]))
    predict(files, settings, size=2)
    assert files.path.read_bytes() == whole


@pytest.mark.parametrize("order", ["bacdefg", "abcdefgh", "abcdef\n", "acdefg"])
def test_an_output_of_other_lines_is_refused_and_kept(
    order: str, files: PredictionFiles, settings: dict[str, Any]
):
    predict(files, settings, size=2)
    files.path.write_text("".join("no line\n" if t == "\n" else line(prediction(t)) for t in order))
    before = files.path.read_bytes()
    with pytest.raises(UserError, match=r"wanted a line for each of the 7 titles.*Move or delete"):
        files.begin(settings, TITLES, together(2))
    assert files.path.read_bytes() == before


def test_a_complete_output_that_an_editor_saved_without_its_last_line_end_stays_complete(
    files: PredictionFiles, settings: dict[str, Any]
):
    predict(files, settings, size=2)
    files.path.write_bytes(files.path.read_bytes().removesuffix(b"\n"))
    assert files.begin(settings, TITLES, together(2)) is None


def test_a_trial_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = SimpleNamespace(titles_file=Path("t.txt"), num_predicted=0, product_titles=TITLES)
    trainer: Any = SimpleNamespace(
        default_root_dir=str(tmp_path), datamodule=data, fast_dev_run=True
    )
    callback, module = PredictionFile(), SimpleNamespace()
    callback.setup(trainer, module, "predict")  # pyright: ignore[reportArgumentType]
    callback.on_predict_start(trainer, module)  # pyright: ignore[reportArgumentType]
    callback.on_predict_batch_end(trainer, module, texts_of(["a", "b"]), None, 0)  # pyright: ignore
    callback.on_predict_end(trainer, module)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == "Tried with 2 of 7 titles: nothing is kept.\n"


@pytest.mark.parametrize("size", [2, *map(slow_case, (1, 3, 7))])
def test_a_file_cut_at_any_byte_is_finished_as_if_it_had_never_been(
    size: int,
    files: PredictionFiles,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):
    """Without waits for the disk, thousands of them: test_durability.py has what must reach it."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    predict(files, settings, size)
    whole = files.path.read_bytes()
    for num_bytes in range(len(whole) + 1):
        files.path.unlink()
        files.partial.write_bytes(whole[:num_bytes])
        predict(files, settings, size)
        assert files.path.read_bytes() == whole
        assert not files.partial.exists()


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_written_anew(
    files: PredictionFiles, settings: dict[str, Any]
):
    predict(files, settings, size=2)
    whole = files.path.read_bytes()
    for num_bytes in (0, 10, 100, len(whole) - 5):
        files.path.unlink()
        files.partial.write_bytes(whole[:num_bytes] + bytes(len(whole) - num_bytes))
        predict(files, settings, size=2)
        assert files.path.read_bytes() == whole


def test_another_number_of_titles_together_goes_on_behind_the_last_whole_group(
    files: PredictionFiles, settings: dict[str, Any]
):
    """Of 2, the third torn; then of 1, cut in its second; then of 2 again."""
    predict(files, settings, size=2)
    lines = files.path.read_bytes().splitlines(keepends=True)
    files.path.unlink()
    files.partial.write_bytes(b"".join(lines[:5]))
    predict(files, settings, size=1, stop=1)
    assert files.partial.read_bytes().count(b"\n") == 5
    predict(files, settings, size=2)
    wanted = [*texts_of(["a", "b"]), *texts_of(["c", "d"]), *texts_of(["e"])]
    wanted += [*texts_of(["f", "g"])]
    assert files.path.read_text() == "".join(map(line, wanted))


def test_where_a_text_is_the_same_beside_any_other_each_whole_line_stays(
    files: PredictionFiles, settings: dict[str, Any]
):
    """And the way that it was written is offered again."""
    files.begin(settings, TITLES, lambda before: Way("fused", 1024, 1))
    files.partial.write_text("".join(line(prediction(title)) for title in "abc") + '{"title": "d')
    offered = []

    def choose(before: Way | None) -> Way:
        offered.append(before)
        return Way("fused", 1024, 1)

    assert files.begin(settings, TITLES, choose) == 3
    assert offered == [Way("fused", 1024, 1)]
    assert files.partial.read_text().count("\n") == 3


def test_a_record_of_before_knows_the_size_of_its_batches_only():
    assert way_of({"first": 0, "size": 32}) == Way("plain", 32, 32)


def test_what_a_killed_predict_left_half_written_goes(
    files: PredictionFiles, settings: dict[str, Any]
):
    files.path.parent.mkdir()
    (files.path.parent / f".tmp-4711-{files.settings.name}").write_text('{"sett')
    predict(files, settings, size=3)
    assert sorted(file.name for file in files.path.parent.iterdir()) == [
        *("titles.jsonl", "titles.settings.json"),
    ]


def test_a_complete_output_is_left_as_it_is(files: PredictionFiles, settings: dict[str, Any]):
    predict(files, settings, size=3)
    before = {file: file.read_bytes() for file in files.path.parent.iterdir()}
    assert files.begin(settings, TITLES, together(2)) is None
    assert {file: file.read_bytes() for file in files.path.parent.iterdir()} == before


@pytest.mark.parametrize("stop", [1, 99])
def test_an_output_of_other_settings_is_never_overwritten(
    stop: int, files: PredictionFiles, settings: dict[str, Any]
):
    predict(files, settings, size=3, stop=stop)
    before = {file: file.read_bytes() for file in files.path.parent.iterdir()}
    with pytest.raises(UserError, match="never overwritten") as refused:
        files.begin({**settings, "--model.decoding.max_new_tokens": 9}, TITLES, together(3))
    assert "--model.decoding.max_new_tokens: 4, now 9" in str(refused.value)
    assert "Move or delete it" in str(refused.value)
    assert {file: file.read_bytes() for file in files.path.parent.iterdir()} == before


@pytest.mark.parametrize("record", [None, "{}", "[]", '{"settings": {}}'])
def test_an_output_that_says_nothing_of_its_settings_is_never_overwritten(
    record: str | None, files: PredictionFiles, settings: dict[str, Any]
):
    files.path.parent.mkdir()
    files.path.write_text("kept")
    if record is not None:
        files.settings.write_text(record)
    with pytest.raises(UserError, match=r"titles\.jsonl is there already.*Move or delete it"):
        files.begin(settings, TITLES, together(3))
    assert files.path.read_text() == "kept"


def test_a_record_that_is_damaged_is_said(files: PredictionFiles, settings: dict[str, Any]):
    predict(files, settings, size=3, stop=1)
    files.settings.write_text('{"settings": ')
    with pytest.raises(UserError, match=r"titles\.settings\.json is damaged"):
        files.begin(settings, TITLES, together(3))
    assert files.partial.exists()


def test_weights_that_were_replaced_while_they_were_loaded_are_not_used(
    files: PredictionFiles, settings: dict[str, Any], tmp_path: Path
):
    assert files.begin(settings, TITLES, together(3)) == 0
    (tmp_path / "weights").write_text("others")
    with pytest.raises(InUseError, match="was replaced, by a fit, while it was being loaded"):
        predict(files, settings, size=3)
    assert not files.partial.exists()


def test_a_title_cannot_send_a_terminal_commands():
    """Nor can a description; both come back as they were."""
    text = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x7f \u202e"
    written = line(prediction(text, text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", written)
    assert json.loads(written)["title"] == text


@pytest.mark.parametrize("titles", ["../../etc/passwd.txt", "..", "a/.."])
def test_the_name_of_a_titles_file_leads_nowhere_else(titles: str, tmp_path: Path):
    files = PredictionFiles.of(RunFolder(tmp_path), Path(titles))
    assert files.path.parent == tmp_path / "predictions"
    assert files.path.resolve().parent == (tmp_path / "predictions").resolve()


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_no_other_command_touches_predictions(stage: str, tmp_path: Path):
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path))
    PredictionFile().setup(trainer, SimpleNamespace(), stage)  # pyright: ignore
    assert list(tmp_path.iterdir()) == []
