"""The corpus: made once for the same inputs, whole or not at all, with every product in it."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest

from amazon_desc.data.cleaning.cleaner import CleaningSettings
from amazon_desc.data.corpus import preparing
from amazon_desc.data.corpus.corpus import FORMAT_VERSION, Corpus, find_prepared, open_or_prepare
from amazon_desc.data.corpus.packing import pack
from amazon_desc.data.corpus.preparing import CorpusSettings
from amazon_desc.data.corpus.product_files import ProductFiles
from amazon_desc.data.corpus.splits import split_at, text_hash
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.support.errors import DataError, StorageError, UserError
from amazon_desc.support.resources import SAMPLE_PRODUCTS, TINY_BASE

HELD_OUT: tuple[Literal["validation", "test"], ...] = ("validation", "test")
TABLES = {"examples.arrow", "rows.arrow", "validation.arrow", "test.arrow"}

# Title "mug w7" is ▁mug ▁w7; its description has 1 to 9 times "a mug." and ends whole.
ROWS = [
    {"title": f"mug w{number}", "content": " ".join(["It holds a mug."] * (1 + number % 9))}
    for number in range(100)
]


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    return tmp_path / "corpora"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_of(*files: Path, **changes: Any) -> CorpusSettings:
    sources = {
        "train_files": tuple(map(str, files)),
        "test_file": None,
        "title_column": "title",
        "description_column": "content",
        "max_bad_records": 0,
    }
    settings = {
        "cleaning": CleaningSettings(),
        "repeated_titles": "best",
        "num_products": None,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "max_seq_length": 40,
        "row_tokens": 128,
        "prompt": PromptSettings(template="describe: {title}"),
    }
    sources |= {key: changes.pop(key) for key in list(changes) if key in sources}
    return CorpusSettings(sources=ProductFiles(**sources), **{**settings, **changes})


def prepare(
    settings: CorpusSettings,
    tokenizer: Path,
    corpora: Path,
    said: list[str] | None = None,
    **options: Any,
) -> Corpus:
    heard: list[str] = [] if said is None else said
    options = {"num_processes": 0, **options}
    return open_or_prepare(settings, tokenizer, corpora, say=heard.append, **options)


def bytes_of(corpus: Corpus) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(corpus.folder.glob("*.arrow"))
    }


def folders(corpora: Path) -> list[str]:
    return sorted(path.name for path in corpora.iterdir() if path.is_dir())


def trained_on(corpus: Corpus) -> list[list[int]]:
    """Returns the examples of all packed rows, one after the other."""
    examples = []
    rows = corpus.rows()
    for index in range(len(rows)):
        row = rows[index]
        assert sum(row["lengths"]) == len(row["input_ids"])
        ids = iter(row["input_ids"])
        examples += [[int(next(ids)) for _ in range(length)] for length in row["lengths"]]
    return examples


def side_of(normal_title: str) -> str:
    return split_at(text_hash(normal_title, "split"), 0.2, 0.2)


def test_every_product_is_in_one_split_and_every_example_in_one_row(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    corpus = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    sides = {row["title"]: side_of(row["title"]) for row in ROWS}
    counts = Counter(sides.values())
    assert min(counts[side] for side in ("train", "validation", "test")) >= 10
    for split in HELD_OUT:
        table = corpus.held_out(split)
        assert sorted(table["title"]) == sorted(t for t in sides if sides[t] == split)
        assert set(table.column_names) == {
            "title",
            "description",
            "input_ids",
            "num_prompt_tokens",
        }
    rows = corpus.rows()
    for index in range(len(rows)):
        assert sum(rows[index]["lengths"]) <= 128
        assert set(rows[index]["prompt_lengths"].tolist()) == {5}
    numbers = [int(title.removeprefix("mug w")) for title in sides if sides[title] == "train"]
    # <s> ▁describe : ▁mug ▁w7, then "It holds a mug." as often as 35 tokens have room for it
    wanted = [
        [1, 10, 11, 13, 100 + n, *[22, 23, 20, 13, 21] * min(1 + n % 9, 6), 2] for n in numbers
    ]
    assert sorted(trained_on(corpus)) == sorted(wanted)
    assert len(rows) == len(pack([len(ids) for ids in wanted], 128))


def test_the_manifest_counts_what_became_of_every_record(
    tmp_path: Path, corpora: Path, toy_tokenizer_folder: Path
):
    extra = [ROWS[0], {"content": "A mug here."}, {"title": {}, "content": "A mug here."}]
    file = write_rows(tmp_path / "rows.jsonl", [*ROWS, *extra])
    corpus = prepare(settings_of(file, max_bad_records=1), toy_tokenizer_folder, corpora)
    counts = corpus.manifest["counts"]
    assert counts["num_records"] == 103
    assert counts["refused"] == {"repeated": 1, "empty_title": 1}
    assert counts["bad"] == {"title is not text": 1}
    assert counts["faults"] == ["rows.jsonl, line 103: title is not text"]
    assert sum(counts["splits"].values()) == sum(counts["endings"].values()) == 100
    # 7, 8 and 9 sentences do not fit 35 tokens: the numbers 6, 7, 8 of every nine
    assert counts["endings"] == {"whole": 67, "shortened": 33}
    trained = trained_on(corpus)
    assert counts["num_rows"] == len(corpus.rows())
    assert counts["num_tokens"] == sum(map(len, trained)) > 0
    assert counts["num_target_tokens"] == counts["num_tokens"] - 5 * len(trained)
    assert counts["fill"] == counts["num_tokens"] / (counts["num_rows"] * 128)
    assert corpus.manifest["files"] == [
        {
            "use": "train",
            "path": str(file),
            "bytes": file.stat().st_size,
            "mtime_ns": file.stat().st_mtime_ns,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    ]
    tables = {path.name: path.stat().st_size for path in corpus.folder.glob("*.arrow")}
    assert {name: table["bytes"] for name, table in corpus.manifest["tables"].items()} == tables
    assert {name: t["sha256"] for name, t in corpus.manifest["tables"].items()} == bytes_of(corpus)
    # "mug w7" or "mug w77"; <s> ▁describe : ▁mug ▁w7 and 1 to 6 sentences of 5 tokens, end token
    lengths = corpus.manifest["lengths"]
    assert lengths["title_characters"]["max"] == 7
    assert lengths["example_tokens"] == {
        "min": 11,
        "median": 31.0,
        "percentile_95": 36.0,
        "max": 36,
    }
    report = corpus.report()
    assert report["num_records"] == 103
    assert report["refused_examples"] == {
        "empty_title": ["rows.jsonl, line 102: '': 'A mug here.'"]
    }
    assert sum(report["lengths"]["target_tokens"]["bin_counts"]) == 100
    summary = corpus.summary()
    assert "Data: 103 records, 100 usable pairs: " in summary
    assert "shortened to whole sentences: 33.0%, cut: 0.0%" in summary
    assert summary.endswith(
        "\n"
        "      left out: 1 × empty_title\n"
        "          rows.jsonl, line 102: '': 'A mug here.'\n"
        "      left out: 1 × repeated\n"
        "      cannot be read: 1 × title is not text\n"
        "          rows.jsonl, line 103: title is not text"
    )


def test_the_same_inputs_are_found_and_not_written_again(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    said: list[str] = []
    first = prepare(settings_of(train_file), toy_tokenizer_folder, corpora, said)
    assert said == [f"Preparing {train_file} (kept in {first.folder})", first.summary()]
    times = {file.name: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    assert set(times) == {*TABLES, "manifest.json", "data_report.json"}
    again = prepare(settings_of(train_file), toy_tokenizer_folder, corpora, said)
    assert again == first
    assert said[2:] == [first.summary()]
    assert {file.name: file.stat().st_mtime_ns for file in again.folder.iterdir()} == times
    assert folders(corpora) == [first.fingerprint]


def test_the_same_bytes_at_another_path_are_the_same_corpus(
    tmp_path: Path, train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    first = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    moved = tmp_path / "elsewhere" / "other.jsonl"
    moved.parent.mkdir()
    train_file.rename(moved)
    said: list[str] = []
    assert prepare(settings_of(moved), toy_tokenizer_folder, corpora, said) == first
    assert said == [first.summary()]


def test_prepared_anew_the_tables_are_the_same_to_the_byte(
    tmp_path: Path, train_file: Path, toy_tokenizer_folder: Path
):
    one, two = (
        prepare(settings_of(train_file), toy_tokenizer_folder, tmp_path / name)
        for name in ("one", "two")
    )
    assert set(bytes_of(one)) == TABLES
    assert bytes_of(one) == bytes_of(two)
    assert one.manifest == two.manifest


@pytest.mark.parametrize(
    "change",
    [
        {"validation_fraction": 0.3},
        {"test_fraction": 0.3},
        {"max_seq_length": 39},
        {"row_tokens": 256},
        {"prompt": PromptSettings(template="a: {title}")},
        {"prompt": PromptSettings(template="describe: {title} {title}")},
        {"num_products": 90},
        {"repeated_titles": "all"},
        {"cleaning": CleaningSettings(tags=False)},
        {"test_file": "rows.jsonl"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_gives_another_folder_beside_the_first(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path, change: dict[str, Any]
):
    if "test_file" in change:
        test_row = {"title": "mug w100", "content": "It holds a mug."}
        change = {"test_file": str(write_rows(train_file.with_name("test.jsonl"), [test_row]))}
    first = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    second = prepare(settings_of(train_file, **change), toy_tokenizer_folder, corpora)
    assert folders(corpora) == sorted({first.fingerprint, second.fingerprint})
    assert first.fingerprint != second.fingerprint


def test_two_spellings_of_a_prompt_are_one_corpus(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    """From a shell a line end comes as a backslash and an n."""
    typed, meant = (
        settings_of(train_file, prompt=PromptSettings(template=template))
        for template in ("describe: {title}\\n", "describe: {title}\n")
    )
    first = prepare(typed, toy_tokenizer_folder, corpora)
    assert find_prepared(meant, toy_tokenizer_folder, corpora) == first
    assert prepare(meant, toy_tokenizer_folder, corpora) == first
    assert folders(corpora) == [first.fingerprint]
    assert first.manifest["settings"]["prompt"]["template"] == "describe: {title}\n"
    assert {ids[5] for ids in trained_on(first)} == {6}  # <s> ▁describe : ▁mug ▁w7 and a line end


def test_titles_that_hold_their_description_are_counted_with_an_example(
    tmp_path: Path, corpora: Path, toy_tokenizer_folder: Path
):
    """Only pairs that are kept count: the title of the first has a longer description."""
    text = "It holds a mug, and a mug, and a red mug, and a mug, too."
    rows = [
        {"title": f"mug w1 - {text}", "content": text},
        {"title": f"mug w1 - {text}", "content": f"So it is said. {text}"},
        *ROWS[2:40],
        *({"title": f"mug w{n} - {text}", "content": text} for n in (40, 41)),
    ]
    file = write_rows(tmp_path / "leaks.jsonl", rows[1:])
    corpus = prepare(settings_of(file), toy_tokenizer_folder, corpora)
    report, counts = corpus.report(), corpus.manifest["counts"]
    assert report["num_pairs"] == 41
    assert (report["num_leaks"], report["leak_share"]) == (2, 2 / 41)
    assert report["leak_example"].startswith("leaks.jsonl, line 40: 'mug w40 - It holds a mug, and")
    assert (counts["num_leaks"], "leak_example" in counts) == (2, False)
    assert "titles that hold their own description: 2 (4.9%)" in corpus.summary()

    file = write_rows(tmp_path / "repeated.jsonl", rows)
    report = prepare(settings_of(file), toy_tokenizer_folder, corpora).report()
    assert (report["num_pairs"], report["num_leaks"]) == (41, 2)
    # of each batch only the first is remembered, and that one is left out
    assert report["leak_example"] is None


def test_the_summary_of_a_report_from_before_leaks_were_counted_still_prints(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    corpus = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    file = corpus.folder / "data_report.json"
    report = json.loads(file.read_text())
    for name in ("num_leaks", "leak_share", "leak_example"):
        del report[name]
    file.write_text(json.dumps(report))
    said: list[str] = []
    prepare(settings_of(train_file), toy_tokenizer_folder, corpora, said)
    assert said == [corpus.summary()]
    assert "100 usable pairs" in said[0]
    assert "hold" not in said[0]


def test_changed_bytes_or_another_tokenizer_give_another_corpus(
    tmp_path: Path, train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    """Size and time stay the same: only the content tells."""
    fingerprints = [prepare(settings_of(train_file), toy_tokenizer_folder, corpora).fingerprint]
    other = tmp_path / "base"
    other.mkdir()
    for file in toy_tokenizer_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "tokenizer_config.json").write_text(
        (other / "tokenizer_config.json").read_text() + "\n"
    )
    fingerprints.append(prepare(settings_of(train_file), other, corpora).fingerprint)
    train_file.write_bytes(train_file.read_bytes().replace(b"w42", b"w24"))
    fingerprints.append(prepare(settings_of(train_file), toy_tokenizer_folder, corpora).fingerprint)
    assert len(set(fingerprints)) == 3


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full disk", "Ctrl-C"],
)
def test_a_preparation_that_fails_leaves_no_folder_that_counts(
    train_file: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
):
    seen: list[list[str]] = []

    def failing(path: Path, *arguments: Any) -> None:
        seen.append(sorted(file.name for file in path.parent.iterdir()))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "write_rows", failing)
        with pytest.raises(raised) as failure:
            prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    if raised is StorageError:
        assert f"{corpora} cannot be written: No space left on device (" in str(failure.value)
    assert seen == [["examples.arrow", "held_out.arrow"]]
    assert not corpora.exists()
    assert len(prepare(settings_of(train_file), toy_tokenizer_folder, corpora).rows()) > 0


@pytest.mark.parametrize(
    "damage",
    ["no manifest", "half a manifest", "no table", "half a table", "a leftover"],
)
def test_what_a_killed_preparation_left_is_not_read(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path, damage: str
):
    """A kill cleans up nothing; half a folder under the final name is made anew as well."""
    whole = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    wanted = bytes_of(whole)
    manifest, rows = whole.folder / "manifest.json", whole.folder / "rows.arrow"
    leftover = whole.folder.with_name(f".tmp-99999-{whole.fingerprint}")
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_text(manifest.read_text()[:300])
    elif damage == "no table":
        rows.unlink()
    elif damage == "half a table":
        rows.write_bytes(rows.read_bytes()[:-1])
    else:
        whole.folder.rename(leftover)
    said: list[str] = []
    again = prepare(settings_of(train_file), toy_tokenizer_folder, corpora, said)
    assert said[0].startswith("Preparing ")
    assert again.folder == whole.folder
    assert bytes_of(again) == wanted
    assert folders(corpora) == [whole.fingerprint]


def test_a_table_that_changed_on_the_disk_is_found_when_asked_for(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    whole = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    wanted = bytes_of(whole)
    examples = whole.folder / "examples.arrow"
    content = bytearray(examples.read_bytes())
    content[len(content) // 2] ^= 1
    examples.write_bytes(content)
    settings, said = settings_of(train_file), list[str]()
    prepare(settings, toy_tokenizer_folder, corpora, said)
    assert [text for text in said if text.startswith("Preparing")] == []
    prepare(settings, toy_tokenizer_folder, corpora, said, verify="always")
    assert [text for text in said if text.startswith("Preparing")] != []
    assert bytes_of(whole) == wanted


def replaced(path: Path, content: bytes) -> None:
    """Puts another file in place, as a download or an export does."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


@pytest.mark.parametrize("use", ["train", "test"])
@pytest.mark.parametrize("when", ["before it is read", "while it is read", "removed"])
def test_a_file_that_is_replaced_after_its_hash_is_never_kept_under_it(
    train_file: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
    when: str,
):
    tested = [{"title": f"cup w{number}", "content": "It holds a mug."} for number in range(9)]
    test_file = write_rows(train_file.with_name("tst.jsonl"), tested)
    more_file = write_rows(train_file.with_name("more.jsonl"), tested)
    settings = settings_of(more_file, train_file, test_file=str(test_file))
    path = train_file if use == "train" else test_file
    before = path.read_bytes()
    after = before.replace(b"mug.", b"cup.")  # of the same size
    choose = preparing.choose

    def replace_first(*arguments: Any) -> Any:
        path.unlink() if when == "removed" else replaced(path, after)
        return choose(*arguments)

    run = preparing.Preparation.run

    def replace_and_run(self: preparing.Preparation, num_workers: int) -> Any:
        replaced(path, after)
        return run(self, num_workers)

    with monkeypatch.context() as patches:
        if when == "before it is read":
            patches.setattr(preparing.Preparation, "run", replace_and_run)
        else:
            patches.setattr(preparing, "choose", replace_first)
        message = refusal(settings, toy_tokenizer_folder, corpora)
    assert message.startswith(f"--data.{use}_file {path} ")
    assert "run the same command again." in message
    replaced(path, after)
    new = prepare(settings, toy_tokenizer_folder, corpora)
    replaced(path, before)
    old = prepare(settings, toy_tokenizer_folder, corpora)
    assert old.fingerprint != new.fingerprint
    assert bytes_of(old) != bytes_of(new)


def test_a_file_whose_known_hash_is_wrong_is_known_after_one_refusal(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    """Its size and time are those of before, so only reading it tells."""
    settings = settings_of(train_file)
    old = prepare(settings, toy_tokenizer_folder, corpora)
    time_before = train_file.stat().st_mtime_ns
    train_file.write_bytes(train_file.read_bytes().replace(b"mug.", b"cup."))
    os.utime(train_file, ns=(time_before, time_before))
    other = settings_of(train_file, row_tokens=64)
    with pytest.raises(DataError, match="was replaced while it was read"):
        prepare(other, toy_tokenizer_folder, corpora)
    assert folders(corpora) == [old.fingerprint]
    assert prepare(settings, toy_tokenizer_folder, corpora).fingerprint != old.fingerprint


def test_a_tokenizer_that_is_replaced_after_its_hash_is_refused(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def replace_and_load(folder: Path) -> Any:
        text = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(text + " ")
        return load_tokenizer(folder)

    monkeypatch.setattr("amazon_desc.data.corpus.corpus.load_tokenizer", replace_and_load)
    folder = train_file.with_name("base")
    shutil.copytree(toy_tokenizer_folder, folder)
    with pytest.raises(UserError, match="its tokenizer was replaced while it was read"):
        prepare(settings_of(train_file), folder, corpora)
    assert not corpora.exists() or folders(corpora) == []


def test_the_number_of_processes_changes_no_byte(
    tmp_path: Path, toy_tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("amazon_desc.data.corpus.product_files.RECORDS_PER_BATCH", 50)
    rows = [
        {"title": f"mug w{n % 100} {n}", "content": "A mug. " * (2 + n % 7)} for n in range(2_000)
    ]
    settings = settings_of(write_rows(tmp_path / "rows.jsonl", rows), num_products=500)
    one, two = (
        prepare(settings, toy_tokenizer_folder, tmp_path / str(number), num_processes=number)
        for number in (0, 2)
    )
    assert one.manifest["counts"]["num_pairs"] == 500
    assert bytes_of(one) == bytes_of(two)
    assert one.report() == two.report()


def test_rows_do_not_move_when_others_are_added(tmp_path: Path, toy_tokenizer_folder: Path):
    """Shuffled, doubled in other case and with other products among them: the sides stay."""
    others = [{"title": f"cup w{n}", "content": "It holds a mug."} for n in range(100)]
    shouted = [{"title": f"MUG  W{n}", "content": "A mug."} for n in range(100)]
    before = prepare(
        settings_of(write_rows(tmp_path / "a.jsonl", ROWS)), toy_tokenizer_folder, tmp_path
    )
    mixed = [*shouted, *reversed(ROWS), *others]
    after = prepare(
        settings_of(write_rows(tmp_path / "b.jsonl", mixed)), toy_tokenizer_folder, tmp_path
    )
    for split in HELD_OUT:
        titles = list(before.held_out(split)["title"])
        assert len(titles) >= 10
        kept = [title for title in after.held_out(split)["title"] if title.startswith("mug")]
        assert kept == titles
    assert after.manifest["counts"]["refused"] == {"too_short": 100}


def test_a_folder_gives_the_corpus_of_its_files_and_names_each(
    tmp_path: Path, corpora: Path, toy_tokenizer_folder: Path
):
    folder = tmp_path / "shop"
    folder.mkdir()
    parts = [write_rows(folder / f"part-{n}.jsonl", ROWS[n::3]) for n in range(3)]
    write_rows(folder / "_part-3.jsonl", [{"title": 5}])
    one = prepare(settings_of(folder), toy_tokenizer_folder, corpora)
    assert [file["path"] for file in one.manifest["files"]] == [str(path) for path in parts]
    said: list[str] = []
    assert prepare(settings_of(*parts), toy_tokenizer_folder, corpora, said).folder == one.folder
    assert not any(line.startswith("Preparing") for line in said)
    write_rows(folder / "part-10.jsonl", [{"title": "cup w1", "content": "It holds a cup of tea."}])
    more = prepare(settings_of(folder), toy_tokenizer_folder, corpora)
    assert more.manifest["counts"]["num_records"] == len(ROWS) + 1


def test_titles_of_a_test_file_are_tested_on_and_nowhere_else(
    tmp_path: Path, toy_tokenizer_folder: Path
):
    """Also a title whose content cannot be used there, and one in other case."""
    test_rows = [
        {"title": "MUG w1", "content": "A mug of the test file."},
        {"title": "mug w2", "content": ""},
        {"title": "mug w100", "content": "A mug of the test file."},
    ]
    test_file = write_rows(tmp_path / "tst.jsonl", test_rows)
    train_file = write_rows(tmp_path / "trn.jsonl", ROWS)
    settings = settings_of(train_file, test_file=str(test_file), test_fraction=0.9)
    corpus = prepare(settings, toy_tokenizer_folder, tmp_path / "corpora")
    assert sorted(corpus.held_out("test")["title"]) == ["MUG w1", "mug w100"]
    counts = corpus.manifest["counts"]
    assert counts["refused"] == {"empty_content": 1, "title in the test file": 2}
    assert counts["num_pairs"] == 2 + 98
    trained = [ids[4] - 100 for ids in trained_on(corpus)]
    assert len(trained) == counts["splits"]["train"] > 50
    assert not {1, 2} & set(trained)
    assert not {"mug w1", "mug w2"} & set(corpus.held_out("validation")["title"])
    assert [file["use"] for file in corpus.manifest["files"]] == ["test", "train"]


def test_the_zip_gives_both_files(tmp_path: Path, toy_tokenizer_folder: Path):
    """The data set's own zip: trn.json.gz to train on, tst.json.gz to test on."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    tested = json.dumps({"title": "mug w100", "content": "It holds a mug."}).encode()
    file = tmp_path / "LF-Amazon-1.3M.raw.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("trn", lines), ("tst", tested), ("lbl", b"{}")):
            archive.writestr(f"LF-Amazon-1.3M/{name}.json.gz", gzip.compress(content))
    corpus = prepare(
        settings_of(file, test_file=str(file)), toy_tokenizer_folder, tmp_path / "corpora"
    )
    assert list(corpus.held_out("test")["title"]) == ["mug w100"]
    assert corpus.manifest["counts"]["num_pairs"] == 101


@pytest.mark.parametrize("num_processes", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "check sum"])
def test_a_damaged_archive_is_refused_before_anything_is_kept(
    tmp_path: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    num_processes: int,
):
    """The lines in front are good: only the end of the stream tells, and processes are at work."""
    monkeypatch.setattr("amazon_desc.data.corpus.product_files.RECORDS_PER_BATCH", 50)
    file = tmp_path / "trn.json.gz"
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 50).encode())
    ends = {"cut": whole[:-20], "check sum": whole[:-8] + bytes(4) + whole[-4:]}
    file.write_bytes(ends[damage])
    message = refusal(settings_of(file), toy_tokenizer_folder, corpora, num_processes=num_processes)
    assert "trn.json.gz is damaged, cut short or cannot be read" in message


@pytest.mark.slow
def test_two_processes_prepare_one_after_the_other(
    tmp_path: Path, train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    """The second waits, says so, and finds what the first has made."""
    program = f"""
import sys, time
from pathlib import Path
from tests.data import test_corpus as test
from amazon_desc.data.corpus import preparing
write_rows = preparing.write_rows
def slow(*arguments):
    Path(sys.argv[1]).touch()
    time.sleep(1.5)
    write_rows(*arguments)
preparing.write_rows = slow
said = []
test.prepare(test.settings_of(Path({str(train_file)!r})), Path({str(toy_tokenizer_folder)!r}),
             Path({str(corpora)!r}), said)
print(*said, sep="\\n")
"""
    root = Path(__file__).parents[2]
    start = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def begin(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*start, str(tmp_path / name)], env=environment, text=True, stdout=subprocess.PIPE
        )

    first = begin("first")
    deadline = time.monotonic() + 60
    while not (tmp_path / "first").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = begin("second")
    (first_said, _), (second_said, _) = (
        first.communicate(timeout=60),
        second.communicate(timeout=60),
    )
    assert (first.returncode, second.returncode) == (0, 0)
    assert first_said.startswith("Preparing ")
    assert second_said.startswith("Another process is at work on ")
    assert not (tmp_path / "second").exists()
    assert len(folders(corpora)) == 1


def test_the_format_version_names_these_tables(tmp_path: Path):
    """If this fails, tables of before would be taken for those made now: raise FORMAT_VERSION."""
    settings = settings_of(SAMPLE_PRODUCTS, max_seq_length=128, row_tokens=512)
    corpus = prepare(settings, TINY_BASE, tmp_path)
    held_out = [corpus.held_out(split).to_list() for split in HELD_OUT]
    content = json.dumps([trained_on(corpus), held_out]).encode()
    assert (FORMAT_VERSION, hashlib.sha256(content).hexdigest()[:16]) == (4, "bdd237b29db6b9ed")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("row_tokens", "fill"), [(2048, 0.99), (256, 0.90)])
def test_real_rows_are_filled(real_dir: Path, tmp_path: Path, row_tokens: int, fill: float):
    settings = settings_of(
        real_dir / "trn.json.gz",
        validation_fraction=0.01,
        test_fraction=0.01,
        max_seq_length=256,
        row_tokens=row_tokens,
        prompt=PromptSettings(
            template="Gere uma descrição criativa para o produto:\nTítulo: {title}\nDescrição:",
            chat=False,
        ),
    )
    corpus = prepare(settings, real_dir / "tinyllama", tmp_path)
    assert corpus.manifest["counts"]["num_pairs"] > 7_000
    assert corpus.manifest["counts"]["fill"] >= fill


def refusal(settings: CorpusSettings, tokenizer: Path, corpora: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        prepare(settings, tokenizer, corpora, **options)
    assert error.value.exit_code == 3
    assert not corpora.exists() or folders(corpora) == []
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file (looked for /"),
        ("", None, ": wanted files to read in it (one of .json, .jsonl, "),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("rows.txt", "mug\n", "the suffix '.txt' is not supported"),
        (
            "rows.jsonl",
            '{"label": "mug", "content": "A mug here."}\n',
            "wanted a column 'title' with the title; the columns seen are label, content. "
            "Name yours with --data.title_column.",
        ),
        (
            "rows.jsonl",
            '{"title": "mug", "content": ""}\n{"title": "", "content": "A mug here."}\n' * 2,
            "rows.jsonl: no usable product for train: 4 records read, 0 usable "
            "(2 × empty_content; 2 × empty_title). Name a file with titles and descriptions.",
        ),
    ],
    ids=["missing", "folder", "empty", "suffix", "column", "no usable row"],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    name: str,
    content: str | None,
    message: str,
):
    if content is not None:
        (tmp_path / name).write_text(content)
    text = refusal(settings_of(tmp_path / name), toy_tokenizer_folder, corpora)
    assert message in text
    assert str(tmp_path) in text


def test_a_test_file_of_which_nothing_is_left_is_named(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    test_file = write_rows(train_file.with_name("tst.jsonl"), [{"title": "mug", "content": ""}])
    message = refusal(
        settings_of(train_file, test_file=str(test_file)), toy_tokenizer_folder, corpora
    )
    assert message.startswith(f"--data.test_file {test_file}: no usable product for test: ")
    assert message.endswith("Name a file with titles and descriptions.")


def nearest(titles: list[str], split: str) -> str:
    pick = min if split == "test" else max
    return pick(titles, key=lambda title: text_hash(title, "split"))


@pytest.mark.parametrize("split", HELD_OUT)
def test_a_split_that_nothing_falls_into_gets_one_title_and_the_other_keeps_its_own(
    tmp_path: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    split: Literal["validation", "test"],
):
    rows = [row for row in ROWS if side_of(row["title"]) != split]
    titles = [row["title"] for row in rows]
    corpus = prepare(
        settings_of(write_rows(tmp_path / "a.jsonl", rows)), toy_tokenizer_folder, corpora
    )
    (other,) = {*HELD_OUT} - {split}
    assert list(corpus.held_out(split)["title"]) == [nearest(titles, split)]
    assert set(corpus.held_out(other)["title"]) == {t for t in titles if side_of(t) == other}
    assert corpus.manifest["counts"]["num_pairs"] == len(rows)
    assert len(trained_on(corpus)) == len(rows) - 1 - len(corpus.held_out(other))
    backwards = write_rows(tmp_path / "b.jsonl", rows[::-1])
    again = prepare(settings_of(backwards), toy_tokenizer_folder, corpora)
    for name in HELD_OUT:
        assert again.held_out(name).to_list() == corpus.held_out(name).to_list()
    assert sorted(trained_on(again)) == sorted(trained_on(corpus))


def test_a_split_is_filled_with_a_title_that_is_kept_and_all_its_descriptions(
    tmp_path: Path, corpora: Path, toy_tokenizer_folder: Path
):
    rows = [row for row in ROWS if side_of(row["title"]) == "train"]
    titles = [row["title"] for row in rows]
    last, first = (nearest(titles, split) for split in HELD_OUT)
    rows += [{"title": last, "content": "A mug. A mug."}, {"title": first, "content": "A mug."}]
    tested = write_rows(tmp_path / "tst.jsonl", [{"title": first, "content": "A mug is here."}])
    settings = settings_of(
        write_rows(tmp_path / "a.jsonl", rows), test_file=str(tested), repeated_titles="all"
    )
    corpus = prepare(settings, toy_tokenizer_folder, corpora)
    assert list(corpus.held_out("test")["title"]) == [first]
    assert list(corpus.held_out("validation")["title"]) == [last] * 2
    without = [title for title in titles if title != first]
    some = prepare(settings_of(tmp_path / "a.jsonl", num_products=5), toy_tokenizer_folder, corpora)
    kept = sorted(titles, key=lambda title: text_hash(title, "part"))[:5]
    assert len(without) > 20
    for split in HELD_OUT:
        assert list(some.held_out(split)["title"]) == [nearest(kept, split)]
    assert some.manifest["counts"]["splits"] == {"train": 3, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("number", "fractions", "refused"),
    [
        (1, (0.2, 0.2), {"fit": "validation", "validate": "validation", "test": "test"}),
        (2, (0.2, 0.2), {"test": "test"}),
        (3, (0.2, 0.2), {}),
        (3, (0, 0.2), {"validate": "validation"}),
        (3, (0.2, 0), {"test": "test"}),
    ],
)
def test_an_empty_split_is_refused_only_by_what_reads_it(
    tmp_path: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    number: int,
    fractions: tuple[float, float],
    refused: dict[str, str],
):
    file = write_rows(tmp_path / "rows.jsonl", ROWS[:number])
    settings = settings_of(file, validation_fraction=fractions[0], test_fraction=fractions[1])
    corpus = prepare(settings, toy_tokenizer_folder, corpora)
    assert len(corpus.rows()) > 0
    for stage in ("fit", "validate", "test", "predict", ""):
        if stage not in refused:
            corpus.refuse_empty(settings, stage)
            continue
        with pytest.raises(DataError) as error:
            corpus.refuse_empty(settings, stage)
        split = refused[stage]
        message = str(error.value)
        assert message.startswith(f"--data.train_file {file}: no usable product for {split}: ")
        assert f"{number} records read, {number} usable. Name a file with " in message
        if settings.identity()[f"{split}_fraction"] == 0:
            assert message.endswith(f"descriptions, or raise --data.{split}_fraction (0).")
        else:
            assert "Name a file with more titles and descriptions" in message


def test_a_fraction_of_zero_gives_an_empty_table(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    settings = settings_of(train_file, validation_fraction=0, test_fraction=0)
    corpus = prepare(settings, toy_tokenizer_folder, corpora)
    assert len(corpus.rows()) > 0
    assert [len(corpus.held_out(split)) for split in HELD_OUT] == [0, 0]
    assert corpus.manifest["counts"]["splits"] == {"train": 100}
