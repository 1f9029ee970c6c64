"""Promises of scripts/make_full_size.py: its counts, lengths, faults and words, and the same bytes.

Most run on the invented sample, whose vocabulary hardly grows; the real rows show that it does.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest

from amazon_desc.data.cleaning.cleaner import Cleaner, Refusal
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.support.resources import SAMPLE_PRODUCTS
from tests.conftest import SCRIPTS, load_script

NUM_LINES = 3_000
KEYS = ["uid", "title", "content", "target_ind", "target_rel"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("make_full_size")


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    return load_script("full_size_texts")


@pytest.fixture(scope="module")
def made(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "trn.json.gz"
    assert script.main([str(SAMPLE_PRODUCTS), str(path), "--lines", str(NUM_LINES)]) == 0
    return path


@pytest.fixture(scope="module")
def lines(made: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(made.read_bytes()).splitlines()]


def _lengths(lines: list[dict], key: str) -> list[int]:
    return [len(line[key]) for line in lines if line[key]]


def test_the_lines_have_the_form_of_the_data_set(lines: list[dict]) -> None:
    assert len(lines) == NUM_LINES
    assert all(list(line) == KEYS for line in lines)
    assert len({line["uid"] for line in lines}) == NUM_LINES
    assert {len(line["uid"]) for line in lines} == {10}
    assert all(len(line["target_ind"]) == len(line["target_rel"]) for line in lines)
    assert np.mean([len(line["target_ind"]) for line in lines]) == pytest.approx(22.2, rel=0.06)


def test_the_kinds_of_lines_add_up_to_the_published_counts(script: ModuleType) -> None:
    small = script.num_of_kinds(3_000)
    assert (small["neither"], small["content only"], small["pair"]) == (24, 144, 1_803)
    assert sum(small.values()) == 3_000
    nums = script.num_of_kinds(2_248_619)
    assert sum(nums.values()) == 2_248_619
    assert nums["neither"] + nums["content only"] == 126_834
    assert nums["neither"] + nums["title only"] + nums["title again"] == 749_901
    assert nums["title again"] + nums["another content"] + nums["pair again"] == 39_961
    assert nums["neither"] == 18_519
    assert nums["pair"] + nums["another content"] == 1_364_000


def test_a_small_file_has_the_counts_in_proportion(lines: list[dict]) -> None:
    titles = [line["title"] for line in lines if line["title"]]
    both = [(line["title"], line["content"]) for line in lines if line["title"] and line["content"]]
    assert len(lines) - len(titles) == 168  # 126,834 of 2,248,619 are 169.2; each kind rounds down
    assert sum(not line["content"] for line in lines) == 999  # 1,000.5
    assert len(both) == 1_857  # 1,855.0
    assert len(titles) - len(set(titles)) == 52  # 53.3
    assert len(both) - len(set(both)) == 14  # 14.8


def test_cleaning_keeps_as_many_distinct_pairs_as_promised(made: Path) -> None:
    cleaner = Cleaner()
    records = list(read_products(made))
    assert len(records) == NUM_LINES
    cleaned = [cleaner(record) for record in records if isinstance(record, Product)]
    refused = Counter(record for record in cleaned if isinstance(record, Refusal))
    assert refused[Refusal.CONTENT_EQUALS_TITLE] == 13
    assert refused[Refusal.TOO_SHORT] == 7
    pairs = {
        (record.title, record.description) for record in cleaned if isinstance(record, Product)
    }
    assert len(pairs) + refused[Refusal.TOO_LONG] == 1_823  # 0.6066 of all, as 1,364,000 are


def test_the_lengths_are_the_published_ones(lines: list[dict]) -> None:
    titles, contents = _lengths(lines, "title"), _lengths(lines, "content")
    assert np.percentile(titles, 50) == pytest.approx(54, abs=2)
    assert np.percentile(titles, 95) == pytest.approx(125, rel=0.03)
    assert max(titles) == 1_999
    assert np.percentile(contents, 50) == pytest.approx(398, rel=0.03)
    assert np.percentile(contents, 95) == pytest.approx(1_728, rel=0.05)
    assert max(contents) == 197_622


def test_the_faults_come_as_often_as_published(lines: list[dict]) -> None:
    contents = [line["content"] for line in lines if line["content"]]
    entities = sum(bool(re.search(r"&#?\w+;", content)) for content in contents)
    notes = sum("This text refers to" in content for content in contents)
    assert entities / len(contents) == pytest.approx(0.17, abs=0.03)
    assert notes / len(contents) == pytest.approx(0.24, abs=0.03)
    text = " ".join(contents)
    assert re.search(r"&#(?:14[68]|15[01]);", text)  # cp1252
    assert re.search(r"[a-z]\.[A-Z]", text)  # glued
    assert not text.isascii()


@pytest.mark.slow
def test_from_any_folder_the_same_rows_and_seed_give_the_same_bytes(
    made: Path, tmp_path: Path
) -> None:
    script, again = SCRIPTS / "make_full_size.py", tmp_path / "another_name.json.gz"
    done = subprocess.run(
        [sys.executable, str(script), str(SAMPLE_PRODUCTS), again.name, "--lines", str(NUM_LINES)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(SCRIPTS.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == made.read_bytes()
    assert made.read_bytes()[3:8] == bytes(5)  # neither a name nor a time in gzip's header
    counted = {line[:28].strip(): line[28:].split() for line in done.stdout.splitlines()}
    assert counted["distinct pairs"] == ["1843", "1843"]
    assert counted["... that cleaning keeps"] == ["1823", "1823"]
    assert counted["title characters, 100 %"] == ["1999", "1999"]
    assert "3000/3000" in done.stderr


def test_another_seed_gives_other_texts(
    script: ModuleType, lines: list[dict], tmp_path: Path
) -> None:
    path = tmp_path / "trn.json.gz"
    assert script.main([str(SAMPLE_PRODUCTS), str(path), "--lines", "500", "--seed", "1"]) == 0
    others = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    texts = {line["content"] for line in others} - {""}
    assert len(texts) > 300
    assert len(texts & {line["content"] for line in lines}) < 10


@pytest.mark.parametrize(
    ("first", "second", "number", "expected"),
    [
        ("tip.The", "cooking,And", 0, "tip.And"),
        ("12.5mm", "M3", 7_654_321, "22.8mm"),
        ("dominance", "fountains,", 0, "dominains,"),
        ("dominance", "fountains,", 3, "dominance-fountains,"),
    ],
)
def test_words_are_made_of_words(
    texts: ModuleType, first: str, second: str, number: int, expected: str
) -> None:
    assert texts.coin(first, second, number) == expected


def test_the_growth_of_the_vocabulary_is_learnt_from_the_rows(texts: ModuleType) -> None:
    vocabulary = texts.Vocabulary(["a b", "a b c d e f g h" + " a" * 22], Random(0))
    assert (vocabulary.beta, vocabulary.scale) == (0.5, 1.414)


def test_a_sentence_has_places_for_rare_words(texts: ModuleType) -> None:
    sentences = texts.Sentences(["It’s a rug. " * 10 + "It’s a 12.5mm rug. "], Random(0))
    styles, shapes, other_words, length, _ = sentences.all[-1]
    assert styles[texts.PLAIN] == "It's a %s rug. "
    assert re.fullmatch(r"It&(#146|#8217|rsquo);s a %s rug\. ", styles[texts.MARKED])
    assert styles[texts.GIVEN] == "It’s a %s rug. "
    assert shapes == ["digits"]
    assert other_words == ["It's", "a", "rug."]
    assert length == 19


def test_lengths_are_bent_and_go_on_as_a_power_law(script: ModuleType) -> None:
    lengths = script.Lengths(["x" * length for length in range(1, 101)], (200, 500, 50_000, 2_000))
    assert [lengths.quantile(share) for share in (0.25, 0.5, 0.75, 0.95)] == [101, 200, 366, 500]
    assert lengths.quantile(0.995) == 5_000  # ten times fewer are ten times longer
    assert lengths.quantile(0.9995) == 49_999


@pytest.mark.parametrize(
    ("rows", "options", "code", "told"),
    [
        (None, [], 3, "rows.jsonl does not exist"),
        ('{"title": "Hat", "content": "A hat."}', [], 3, "wanted at least 100 products"),
        ('{"title": "Hat", "content": "A hat."}', ["--lines", "3"], 2, "wanted at least 500"),
    ],
)
def test_what_cannot_be_made_is_told_and_leaves_nothing(
    script: ModuleType, tmp_path: Path, capsys, rows, options, code, told
) -> None:
    if rows is not None:
        (tmp_path / "rows.jsonl").write_text(rows + "\n", "utf-8")
    out = tmp_path / "made" / "trn.json.gz"
    assert script.main([str(tmp_path / "rows.jsonl"), str(out), *options]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert told in printed.err
    assert not out.parent.exists()


@pytest.mark.slow
@pytest.mark.real
def test_out_of_real_rows_the_words_grow_as_in_them(
    script: ModuleType, real_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trn.json.gz"
    assert script.main([str(real_dir / "trn.json.gz"), str(path), "--lines", "14000"]) == 0
    words: list[str] = []
    cleaner = Cleaner()
    for record in read_products(path):
        product = cleaner(record) if isinstance(record, Product) else None
        if isinstance(product, Product):
            words += product.description[:1_536].split()
    assert len(words) > 740_441
    # the rows' own: 188,173 words hold 33,298 different ones, 740,441 hold 78,100
    assert len(set(words[:188_173])) == pytest.approx(33_298, rel=0.07)
    assert len(set(words[:740_441])) == pytest.approx(78_100, rel=0.07)
