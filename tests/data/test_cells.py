"""Cells as other programs write them give the texts that were meant, and no others change."""

import json
from pathlib import Path

import pytest

from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.data.reading.tables.cells import are_escaped, are_lists, joined_list, unescaped

WOO = (
    "ID,Type,Name,Short description,Description\n"
    '1,simple,Red Mug,Holds\\ntea.,"Holds tea.\\n<ul>\\n<li>Soft\\, warm</li>\\n</ul>"\n'
    "2,simple,Blue Mug,,Keep it in C:\\new or \\\\network.\n"
)


def read(path: Path, *columns: str) -> tuple[list, list[str]]:
    meter = Meter()
    return list(read_products(path, *columns, meter=meter)), meter.remarks


def test_line_ends_and_commas_that_woocommerce_escaped_are_read(tmp_path: Path):
    path = tmp_path / "woo.csv"
    path.write_text(WOO)
    products, remarks = read(path, "Name", "Description")
    assert products == [
        Product("Red Mug", "Holds tea.\n<ul>\n<li>Soft, warm</li>\n</ul>"),
        Product("Blue Mug", "Keep it in C:\\new or \\network."),
    ]
    assert remarks == ["woo.csv: \\n in texts is a line end, as WooCommerce writes it"]
    products, _ = read(path, "Name", "Short description, Description")
    assert products[0] == Product(
        "Red Mug", "Holds\ntea.\nHolds tea.\n<ul>\n<li>Soft, warm</li>\n</ul>"
    )


@pytest.mark.parametrize(
    ("texts", "are"),
    [
        (["Soft.\\nOf wool."], True),
        (["Soft\\n\\nwool", "x"], True),
        (["Soft\\n<b>wool</b>"], True),
        (["Soft\\n"], True),
        (["See C:\\new", "D:\\New\\no"], False),
        (["a\\nu b"], False),  # a word of TeX
        (["Soft.\\nOf wool.", "real\nlines"], False),
        (["x"], False),
        ([], False),
    ],
)
def test_a_backslash_n_is_a_line_end_only_where_that_is_clear(texts: list[str], are: bool):
    assert are_escaped(texts) is are


def test_escapes_of_json_are_its_own(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"title": "Mug", "content": "Soft.\\nOf wool\\, red."}) + "\n")
    assert read(path) == ([Product("Mug", "Soft.\\nOf wool\\, red.")], [])


def test_what_was_escaped_twice_stays_as_it_was_written():
    assert unescaped(r"a\nb\, c\\nd C:\new\no e:\n\n") == "a\nb, c\\nd C:\\new\\no e:\\n\\n"
    assert unescaped(r"Size:\nLarge") == "Size:\nLarge"


def test_lists_that_pandas_wrote_as_text_are_joined(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text(
        "title,description\n"
        "Mug,\"['Holds tea.', 'It\\'s red.', '']\"\n"
        "Cup,[]\n"
        'Pot,"[""Mog\'s pot""]"\n'
        "Bus,\n"
    )
    products, remarks = read(path, "title", "description")
    assert products == [
        Product("Mug", "Holds tea.\nIt's red."),
        Product("Cup", ""),
        Product("Pot", "Mog's pot"),
        Product("Bus", ""),
    ]
    assert remarks == ["a.csv: texts of 'description' are lists, and each of their texts a line"]


def test_lists_among_other_texts_stay_as_they_are_and_are_told(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("title,content\nMug,\"['a', 'b']\"\nCup,Holds tea.\n")
    products, remarks = read(path)
    assert products == [Product("Mug", "['a', 'b']"), Product("Cup", "Holds tea.")]
    assert remarks == [
        "a.csv: some texts of 'content' look like lists, not all: they stay as they are"
    ]


@pytest.mark.parametrize(
    ("texts", "are"),
    [
        (["['a', 'b']", '["c"]', "[]"], True),
        (["['a' 'b']"], False),  # of numpy: Python would take it for one text
        (["['a', 1]"], False),
        (["['a'", "['b']"], False),
        (["[]"], False),
        (["['a'] and ['b']"], False),
        (["['" + "(" * 10_000 + "']"], True),
        (["['a', " + "[" * 10_000 + "]"], False),
        (["[__import__('os')]"], False),
    ],
)
def test_a_list_is_one_only_if_every_text_is_one(texts: list[str], are: bool):
    assert are_lists(texts) is are


def test_a_text_that_is_no_list_is_left_alone():
    assert joined_list("['a', 'b']") == "a\nb"
    assert joined_list("[sic] a text") == "[sic] a text"
