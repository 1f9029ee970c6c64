"""Selection: one product a title, a part that stays the same, and a count of every record."""

import itertools
import json
import random
from pathlib import Path

import pytest

from amazon_desc.data.records import Product
from amazon_desc.data.selection import Selection, Sources, kept_products
from amazon_desc.errors import DataError

PRODUCTS = [Product(f"Mug {number}", f"A mug with number {number}.") for number in range(200)]


def written(path: Path, products: list[Product], extra: str = "") -> str:
    lines = [json.dumps({"title": p.title, "content": p.description}) + "\n" for p in products]
    path.write_text("".join(lines) + extra)
    return str(path)


def select(
    *files: str, num_products: int | None = None, max_bad_records: int = 0
) -> tuple[list[Product], Selection]:
    sources = Sources(
        train_files=files,
        title_column="title",
        description_column="content",
        num_products=num_products,
        max_bad_records=max_bad_records,
    )
    selection = Selection()
    return list(kept_products(sources, selection)), selection


def test_every_usable_product_is_kept_in_the_order_of_the_files(tmp_path: Path):
    first = written(tmp_path / "a.jsonl", PRODUCTS[:3])
    second = written(tmp_path / "b.jsonl", PRODUCTS[3:5])
    kept, selection = select(second, first)
    assert kept == [*PRODUCTS[3:5], *PRODUCTS[:3]]
    assert selection == Selection(num_records=5)


def test_products_come_out_cleaned(tmp_path: Path):
    file = written(tmp_path / "a.jsonl", [Product(" Caf&eacute;  Mug", "<p>A mug,\n two.</p>")])
    assert select(file)[0] == [Product("Café Mug", "A mug, two.")]


def test_a_smaller_part_is_contained_in_a_larger_one(tmp_path: Path):
    file = written(tmp_path / "a.jsonl", PRODUCTS)
    sizes = [1, 2, 10, 50, 199, 200, 1000]
    parts = [select(file, num_products=size)[0] for size in sizes]
    assert [len(part) for part in parts] == [1, 2, 10, 50, 199, 200, 200]
    for smaller, larger in itertools.pairwise(parts):
        assert larger[: len(smaller)] == smaller
    assert set(parts[-1]) == set(PRODUCTS)
    assert parts[3] != PRODUCTS[:50]


def test_a_part_does_not_depend_on_the_order_of_the_file(tmp_path: Path):
    shuffled = list(PRODUCTS)
    random.Random(0).shuffle(shuffled)
    ordered = select(written(tmp_path / "a.jsonl", PRODUCTS), num_products=20)[0]
    assert select(written(tmp_path / "b.jsonl", shuffled), num_products=20)[0] == ordered


def test_what_is_beyond_the_part_is_counted(tmp_path: Path):
    file = written(tmp_path / "a.jsonl", PRODUCTS)
    assert select(file, num_products=150)[1].refused == {"beyond num_products": 50}
    assert select(file, num_products=200)[1].refused == {}


def test_of_products_with_one_title_the_first_is_kept(tmp_path: Path):
    mug, other = Product("Red Mug", "A mug that is red."), Product("Red Mug", "A different text.")
    spaced = Product("RED  mug", "a MUG that is  red.")
    first = written(tmp_path / "a.jsonl", [mug, PRODUCTS[0], other, mug])
    second = written(tmp_path / "b.jsonl", [spaced])
    kept, selection = select(first, second)
    assert kept == [mug, PRODUCTS[0]]
    assert selection.refused == {"another description of a title": 1, "repeated": 2}
    assert selection.num_records == 5


def test_what_cleaning_refuses_is_counted_by_its_reason(tmp_path: Path):
    refused = [Product("", "A mug of mine."), Product("Mug", ""), Product("Mug", "AUDIO CD")]
    kept, selection = select(written(tmp_path / "a.jsonl", [*refused, refused[0], PRODUCTS[0]]))
    assert kept == [PRODUCTS[0]]
    assert selection.refused == {"empty_title": 2, "empty_content": 1, "too_short": 1}


def test_bad_records_are_counted_and_the_first_named(tmp_path: Path):
    file = written(tmp_path / "a.jsonl", PRODUCTS[:2], '{"title": \n' * 12 + "{}\n")
    kept, selection = select(file, max_bad_records=13)
    assert kept == PRODUCTS[:2]
    assert selection.num_records == 15
    assert selection.bad == {"not valid JSON": 12, "title is missing": 1}
    assert selection.faults == [f"a.jsonl, line {line}: not valid JSON" for line in range(3, 13)]


def test_too_many_bad_records_stop_the_run_with_places_and_remedy(tmp_path: Path):
    file = written(tmp_path / "a.jsonl", PRODUCTS[:2], '{"title": \n' * 2 + "{}\n")
    with pytest.raises(DataError) as error:
        select(file, max_bad_records=2)
    assert str(error.value) == (
        "more than 2 records cannot be read (--data.max_bad_records): 2 × not valid JSON; "
        "1 × title is missing. The first: a.jsonl, line 3: not valid JSON; "
        "a.jsonl, line 4: not valid JSON; a.jsonl, line 5: title is missing. "
        "Mend the file, or raise the limit."
    )
    assert len(select(file, max_bad_records=3)[0]) == 2
