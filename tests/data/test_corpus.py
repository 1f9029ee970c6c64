"""The corpus: made once for the same inputs, whole or not at all, with every product in it."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.data import corpus as corpus_file
from amazon_desc.data.corpus import Corpus, CorpusSettings, open_or_prepare
from amazon_desc.data.packing import pack
from amazon_desc.data.prompts import PromptSettings
from amazon_desc.data.selection import Sources
from amazon_desc.data.splits import split_of
from amazon_desc.errors import DataError

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
        "title_column": "title",
        "description_column": "content",
        "num_products": None,
        "max_bad_records": 0,
    }
    settings = {
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "max_seq_length": 40,
        "row_tokens": 128,
        "prompt": PromptSettings(template="describe: {title}"),
    }
    sources |= {key: changes.pop(key) for key in list(changes) if key in sources}
    return CorpusSettings(sources=Sources(**sources), **{**settings, **changes})


def prepare(
    settings: CorpusSettings, tokenizer: Path, corpora: Path, said: list[str] | None = None
) -> Corpus:
    heard: list[str] = [] if said is None else said
    return open_or_prepare(settings, tokenizer, corpora, heard.append)


def bytes_of(corpus: Corpus) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(corpus.folder.glob("*.arrow"))
    }


def test_every_product_is_in_one_split_and_every_example_in_one_row(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    corpus = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    sides = {row["title"]: split_of(row["title"], 0.2, 0.2) for row in ROWS}
    counts = Counter(sides.values())
    assert min(counts[side] for side in ("train", "validation", "test")) >= 10
    for split in ("validation", "test"):
        table = corpus.table(split)
        assert sorted(table["title"]) == sorted(t for t in sides if sides[t] == split)
        assert set(table.column_names) == {
            "title",
            "description",
            "input_ids",
            "num_prompt_tokens",
        }
    trained: list[list[int]] = []
    for row in corpus.table("train"):
        assert sum(row["lengths"]) == len(row["input_ids"]) <= 128
        assert row["prompt_lengths"] == [5] * len(row["lengths"])
        ids = iter(row["input_ids"])
        trained += [[next(ids) for _ in range(length)] for length in row["lengths"]]
    numbers = [int(title.removeprefix("mug w")) for title in sides if sides[title] == "train"]
    # <s> ▁describe : ▁mug ▁w7, then "It holds a mug." as often as 35 tokens have room for it
    wanted = [
        [1, 10, 11, 13, 100 + n, *[22, 23, 20, 13, 21] * min(1 + n % 9, 6), 2] for n in numbers
    ]
    assert sorted(trained) == sorted(wanted)
    lengths = [len(ids) for ids in wanted]
    assert len(corpus.table("train")) == len(pack(lengths, 128))


def test_the_manifest_counts_what_became_of_every_record(
    tmp_path: Path, corpora: Path, toy_tokenizer_folder: Path
):
    extra = [ROWS[0], {"title": "", "content": "A mug here."}, {"content": "A mug here."}]
    file = write_rows(tmp_path / "rows.jsonl", [*ROWS, *extra])
    corpus = prepare(settings_of(file, max_bad_records=1), toy_tokenizer_folder, corpora)
    counts = corpus.manifest["counts"]
    assert counts["num_records"] == 103
    assert counts["refused"] == {"repeated": 1, "empty_title": 1}
    assert counts["bad"] == {"title is missing": 1}
    assert counts["faults"] == ["rows.jsonl, line 103: title is missing"]
    assert sum(counts["splits"].values()) == sum(counts["endings"].values()) == 100
    # 7, 8 and 9 sentences do not fit 35 tokens: the numbers 6, 7, 8 of every nine
    assert counts["endings"] == {"whole": 67, "shortened": 33}
    rows = corpus.table("train")
    assert counts["num_rows"] == len(rows)
    assert counts["num_tokens"] == sum(sum(row["lengths"]) for row in rows)
    num_prompt_tokens = sum(sum(row["prompt_lengths"]) for row in rows)
    assert counts["num_target_tokens"] == counts["num_tokens"] - num_prompt_tokens
    assert corpus.manifest["files"] == [
        {
            "path": str(file),
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    ]
    summary = corpus.summary()
    assert "Data: 103 records, 100 usable pairs: " in summary
    assert "shortened to whole sentences: 33.0%, cut: 0.0%" in summary
    assert "left out: 1 × repeated; 1 × empty_title" in summary
    assert "cannot be read: 1 × title is missing\n      rows.jsonl, line 103" in summary


def test_the_same_inputs_are_found_and_not_written_again(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    said: list[str] = []
    first = prepare(settings_of(train_file), toy_tokenizer_folder, corpora, said)
    assert said == [f"Preparing {train_file} (kept in {first.folder})", first.summary()]
    times = {file.name: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    assert set(times) == {"train.arrow", "validation.arrow", "test.arrow", "manifest.json"}
    again = prepare(settings_of(train_file), toy_tokenizer_folder, corpora, said)
    assert again == first
    assert said[2:] == [first.summary()]
    assert {file.name: file.stat().st_mtime_ns for file in again.folder.iterdir()} == times
    assert [folder.name for folder in corpora.iterdir()] == [first.fingerprint]


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
    assert len(bytes_of(one)) == 3
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
        {"num_products": 90},
        {"max_bad_records": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_gives_another_folder_beside_the_first(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path, change: dict[str, Any]
):
    first = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    second = prepare(settings_of(train_file, **change), toy_tokenizer_folder, corpora)
    assert {path.name for path in corpora.iterdir()} == {first.fingerprint, second.fingerprint}
    assert first.fingerprint != second.fingerprint


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


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_preparation_that_fails_leaves_no_folder_that_counts(
    train_file: Path,
    corpora: Path,
    toy_tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
):
    write_table, tables = corpus_file.write_table, []

    def failing(path: Path, *arguments: Any) -> int:
        tables.append(path)
        if len(tables) == 2:
            raise error
        return write_table(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(corpus_file, "write_table", failing)
        with pytest.raises(type(error)):
            prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    assert [path.name for path in tables] == ["train.arrow", "validation.arrow"]
    assert list(corpora.iterdir()) == []
    assert len(prepare(settings_of(train_file), toy_tokenizer_folder, corpora).table("train")) > 0


def test_what_a_killed_preparation_left_is_not_read(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    """A kill cleans up nothing; half a folder under the final name is made anew as well."""
    whole = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    wanted = bytes_of(whole)
    (whole.folder / "manifest.json").unlink()
    (whole.folder / "train.arrow").write_bytes(b"half")
    whole.folder.with_name(f".tmp-99999-{whole.fingerprint}").mkdir()
    again = prepare(settings_of(train_file), toy_tokenizer_folder, corpora)
    assert again.folder == whole.folder
    assert bytes_of(again) == wanted


def refusal(settings: CorpusSettings, tokenizer: Path, corpora: Path) -> str:
    with pytest.raises(DataError) as error:
        prepare(settings, tokenizer, corpora)
    assert error.value.exit_code == 3
    assert not corpora.exists() or list(corpora.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file (looked for /"),
        ("", None, "wanted a file of products, found a directory. Name the file in it"),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("rows.txt", "mug\n", "the suffix '.txt' is not supported"),
        (
            "rows.jsonl",
            '{"name": "mug", "content": "A mug here."}\n',
            "wanted a column 'title' with the title; the columns seen are name, content. "
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


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_that_nothing_falls_into_is_refused(
    tmp_path: Path, corpora: Path, toy_tokenizer_folder: Path, split: str
):
    file = write_rows(
        tmp_path / "rows.jsonl",
        [row for row in ROWS if split_of(row["title"], 0.2, 0.2) != split],
    )
    settings = settings_of(file)
    message = refusal(settings, toy_tokenizer_folder, corpora)
    assert f"no usable product for {split}: " in message
    assert message.endswith(f", or raise --data.{split}_fraction (0.2).")


def test_a_fraction_of_zero_gives_an_empty_table(
    train_file: Path, corpora: Path, toy_tokenizer_folder: Path
):
    settings = settings_of(train_file, validation_fraction=0, test_fraction=0)
    corpus = prepare(settings, toy_tokenizer_folder, corpora)
    tables = [corpus.table(split) for split in ("train", "validation", "test")]
    assert [len(table) > 0 for table in tables] == [True, False, False]
    assert corpus.manifest["counts"]["splits"] == {"train": 100}
