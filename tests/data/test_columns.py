"""The columns that are meant are found, joined and converted, or named with the options to type."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amazon_desc.data.reading.columns import likely, matching, option
from amazon_desc.data.reading.files.sources import Meter, RawRecord
from amazon_desc.data.reading.first_records import find_columns
from amazon_desc.data.reading.records import (
    Fault,
    Product,
    TitleRecord,
    read_products,
    read_title_records,
)
from amazon_desc.data.reading.values import joined_text, single_text
from amazon_desc.support.errors import DataError


def lines(folder: Path, *rows: dict[str, Any], name: str = "shop.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def table(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "shop.parquet")
    return folder / "shop.parquet"


def read(path: Path, *columns: str) -> tuple[list[Product | Fault], list[str]]:
    meter = Meter()
    return list(read_products(path, *columns, meter=meter)), meter.remarks


def refusal(path: Path, *columns: str) -> str:
    with pytest.raises(DataError) as error:
        list(read_products(path, *columns))
    return str(error.value)


# Names


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["Title", " title ", "TITLE", "ti tle"])
def test_case_and_spaces_of_a_name_say_nothing_and_are_told_once(
    tmp_path: Path, suffix: str, name: str
):
    if suffix == "csv":
        path = tmp_path / "shop.csv"
        path.write_text(f"sku,{name},content\n1,Mug,Holds tea.\n")
    elif suffix == "jsonl":
        path = lines(tmp_path, {"sku": 1, name: "Mug", "content": "Holds tea."})
    else:
        path = table(tmp_path, **{"sku": [1], name: ["Mug"], "content": ["Holds tea."]})
    products, remarks = read(path)
    assert products == [Product("Mug", "Holds tea.")]
    assert remarks == [f"shop.{suffix}: the title is read from {name!r} ({option('title', name)})"]
    record = next(read_title_records(path, kept="all"))
    assert (record.title, record.kept is not None and "Mug" in record.kept) == ("Mug", False)


def test_a_name_as_it_is_comes_before_others_like_it(tmp_path: Path):
    path = lines(tmp_path, {"Title": "no", "title": "Mug", "content": "x"})
    assert read(path) == ([Product("Mug", "x")], [])


def test_of_names_that_differ_in_case_none_is_guessed(tmp_path: Path):
    path = lines(tmp_path, {"Title": "Mug", "TITLE": "MUG", "content": "x"})
    assert refusal(path) == (
        f"{path}: wanted one column 'title' with the title, found 'Title' and 'TITLE'. Write it "
        "just as one of them: --data.title_column Title or --data.title_column TITLE."
    )


@pytest.mark.parametrize(
    ("title", "description"),
    [
        ("Name", "Description"),
        ("product_name", "Body (HTML)"),
        ("título", "descrição"),
        ("Produktname", "Produktbeschreibung"),
        ("nombre", "descripción"),
        ("titre", "description"),
        ("item_name", "product_description"),
        ("商品名", "商品説明"),
    ],
)
def test_the_only_likely_columns_are_taken_and_told_where_nobody_named_any(
    tmp_path: Path, title: str, description: str
):
    path = tmp_path / "shop.csv"
    path.write_text(f"sku,{title},{description},price\n1,Mug,Holds tea.,3\n", "utf-8")
    products, remarks = read(path)
    assert products == [Product("Mug", "Holds tea.")]
    assert remarks == [
        f"shop.csv: the title is read from {title!r} and the description is read from "
        f"{description!r} ({option('title', title)} {option('description', description)})"
    ]
    assert next(read_title_records(path)).title == "Mug"


def test_shopifys_export_is_read_and_its_variants_have_empty_texts(tmp_path: Path):
    path = tmp_path / "products_export.csv"
    path.write_text(
        "Handle,Title,Body (HTML),Vendor,SEO Title,SEO Description\n"
        "mug,Red Mug,<p>Holds tea.</p>,Mog,,\nmug,,,,,\n"
    )
    products, remarks = read(path)
    assert products == [Product("Red Mug", "<p>Holds tea.</p>"), Product("", "")]
    assert "--data.title_column Title --data.description_column 'Body (HTML)'" in remarks[0]


def test_of_several_likely_columns_none_is_taken_and_all_are_named(tmp_path: Path):
    row = {"ID": 1, "Name": "Mug", "Short description": "Tea.", "Description": "Holds tea."}
    path = lines(tmp_path, row)
    assert refusal(path) == (
        f"{path}: wanted a column 'title' with the title and a column 'content' with the "
        "description; the columns seen are ID, Name, Short description, Description. The title is "
        "likely meant by --data.title_column Name; the description is likely meant by "
        "--data.description_column 'Short description' or --data.description_column Description."
    )


def test_a_file_without_names_of_columns_is_told_to_need_them(tmp_path: Path):
    path = tmp_path / "shop.csv"
    path.write_text("Red Mug,It holds a lot of tea.\nBlue Mug,It holds milk.\n")
    assert refusal(path).endswith(
        "the columns seen are Red Mug, It holds a lot of tea.. Name yours with --data.title_column "
        "and --data.description_column. If that is a product already, write a line of names in "
        "front of it: title,content."
    )


def test_a_column_that_was_asked_for_is_never_another(tmp_path: Path):
    path = lines(tmp_path, {"name": "Mug", "description": "Holds tea."})
    message = refusal(path, "nome", "description")
    assert "wanted a column 'nome' with the title; the columns seen are name, desc" in message
    assert message.endswith("The title is likely meant by --data.title_column name.")
    with pytest.raises(DataError, match="is likely meant by"):
        read_title_records(path, "nome")


def test_names_and_likely_names_are_told_apart():
    assert matching("title", ["title", "Title"]) == ["title"]
    assert matching("title", ["\ufeffTitle", "titles"]) == ["\ufeffTitle"]
    assert matching("title", ["titulo", "sub title"]) == []
    assert likely("title", ["SKU", "Product name", "título", "brand name"]) == [
        "Product name",
        "título",
    ]
    assert likely("description", ["features", "SEO Description", "body_html"]) == ["body_html"]


# Several columns, and columns in columns


def test_texts_of_several_columns_are_joined_by_line_and_empty_ones_left_out(tmp_path: Path):
    path = lines(
        tmp_path,
        {"title": "Mug", "description": ["Holds tea."], "features": ["Red", "", "Warm"]},
        {"title": "Cup", "description": [], "features": ["Blue"]},
        {"title": "Pot", "description": None},
        {"title": "Bus", "description": "Red.", "features": [{"a": 1}]},
    )
    products, remarks = read(path, "title", "description, features")
    assert products == [
        Product("Mug", "Holds tea.\nRed\nWarm"),
        Product("Cup", "Blue"),
        Product("Pot", ""),
        Fault("shop.jsonl, line 4", "description is not text"),
    ]
    assert remarks == []
    message = refusal(path, "title", "description,notes")
    assert "wanted a column 'description,notes' with the description" in message


def test_columns_are_joined_also_behind_a_hundred_records_that_cannot_be_read(tmp_path: Path):
    path = lines(tmp_path, {"title": "Mug", "description": "Tea.", "features": ["Red"]})
    path.write_text("[]\n" * 100 + path.read_text())
    products, _ = read(path, "title", "description,features")
    assert products[100] == Product("Mug", "Tea.\nRed")
    assert {type(record) for record in products[:100]} == {Fault}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_name_with_a_comma_or_a_point_is_first_of_all_itself(tmp_path: Path, suffix: str):
    if suffix == "csv":
        path = tmp_path / "shop.csv"
        path.write_text('a.b,"c,d",c,d\nMug,Holds tea.,no,no\n')
    else:
        row = {"a.b": "Mug", "c,d": "Holds tea.", "c": "no", "d": "no", "a": {"b": "no"}}
        path = lines(tmp_path, row)
    assert read(path, "a.b", "c,d") == ([Product("Mug", "Holds tea.")], [])


def test_a_name_with_points_leads_into_objects(tmp_path: Path):
    path = lines(
        tmp_path,
        {"product": {"title": "Mug", "texts": {"long": "Holds tea."}}, "notes": "Red."},
        {"product": {"title": "Cup"}, "notes": ""},
        {"product": None},
    )
    products, remarks = read(path, "product.title", "product.texts.long,notes")
    assert products == [Product("Mug", "Holds tea.\nRed."), Product("Cup", ""), Product("", "")]
    assert remarks == []
    titles = list(read_title_records(path, "product.title", kept="all"))
    assert titles[1] == TitleRecord(
        "Cup", "", '{"product":{"title":"Cup"},"notes":""}', "shop.jsonl, line 2"
    )
    assert titles[2].reason == "title is empty"


def test_likely_names_in_objects_are_named_and_never_taken(tmp_path: Path):
    path = lines(tmp_path, {"id": 1, "product": {"title": "Mug", "description": "x", "n": 1}})
    assert refusal(path) == (
        f"{path}: wanted a column 'title' with the title and a column 'content' with the "
        "description; the columns seen are id, product. The title is likely meant by "
        "--data.title_column product.title; the description is likely meant by "
        "--data.description_column product.description."
    )


def test_a_column_behind_two_hundred_others_is_found(tmp_path: Path):
    path = tmp_path / "shop.csv"
    names = ",".join(f"field {n}" for n in range(300))
    path.write_text(f"{names},Title,Content\n{',' * 300}Mug,Holds tea.\n")
    assert read(path)[0] == [Product("Mug", "Holds tea.")]


def test_a_name_with_points_leads_into_parquets_structs(tmp_path: Path):
    path = table(tmp_path, product=[{"title": "Mug", "text": ["a", "b"]}, None], n=[1, 2])
    products = [Product("Mug", "a\nb"), Product("", "")]
    assert read(path, "product.title", "product.text") == (products, [])
    assert "(product.title)" in refusal(path, "product", "product.text")


def test_a_name_that_leads_to_a_list_of_objects_is_refused(tmp_path: Path):
    path = lines(tmp_path, {"title": "Mug", "variants": [{"text": "Red."}]})
    assert refusal(path, "title", "variants.text") == (
        f"{path}: wanted the description in 'variants.text', found a list of objects on the way to "
        "it. Which of them is meant cannot be told: write the text into a column of its own."
    )


# Values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Mug", "Mug"),
        (1984, "1984"),
        (1.5, "1.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        (None, ""),
        (float("nan"), ""),
        (["Mug"], None),
        ({"en": "Mug"}, None),
        (b"Mug", None),
    ],
)
def test_a_value_is_written_as_json_writes_it(value: Any, text: str | None):
    assert single_text(value) == text
    if not isinstance(value, list):
        assert joined_text(value) == text


def test_of_a_list_each_value_is_a_line():
    assert joined_text(["Of clay.", "", None, 1984, " "]) == "Of clay.\n1984"
    assert joined_text([]) == ""
    assert joined_text(["a", ["b"]]) is None


def test_what_is_not_there_is_empty_and_no_damage(tmp_path: Path):
    path = lines(
        tmp_path, {"title": 1984, "content": "A man."}, {"title": "Mug"}, {"content": "x"}, {}
    )
    assert read(path)[0] == [
        Product("1984", "A man."),
        Product("Mug", ""),
        Product("", "x"),
        Product("", ""),
    ]


def test_a_short_row_of_csv_has_empty_texts(tmp_path: Path):
    path = tmp_path / "shop.csv"
    path.write_text("sku,title,content\n1,Mug,x\n2,Cup\n3\n")
    assert read(path)[0] == [Product("Mug", "x"), Product("Cup", ""), Product("", "")]


def test_parquets_lists_numbers_and_nulls_become_text(tmp_path: Path):
    path = table(
        tmp_path,
        title=pa.array([1984, None]),
        content=pa.array([["a", "b"], []], pa.large_list(pa.string())),
    )
    assert read(path)[0] == [Product("1984", "a\nb"), Product("", "")]
    path = table(tmp_path, title=pa.array([1.5, True is False]), content=pa.nulls(2))
    assert read(path)[0] == [Product("1.5", ""), Product("0.0", "")]


def test_a_column_of_objects_or_of_lists_of_titles_is_refused_at_once(tmp_path: Path):
    path = lines(tmp_path, *[{"title": "Mug", "content": {"html": "x", "n": 1}}] * 200)
    assert refusal(path) == (
        f"{path}: wanted text in the column 'content' with the description, found an object with "
        "html, n. Name one of its parts, as in --data.description_column content.html."
    )
    path = lines(tmp_path, *[{"title": ["Mug"], "content": "x"}] * 200)
    assert "in the column 'title' with the title, found a list of texts" in refusal(path)
    path = lines(tmp_path, {"title": "Mug", "content": {}})
    assert "found an empty object. Choose another column" in refusal(path)


def test_the_first_record_with_both_texts_ends_the_look_at_the_first_ones(tmp_path: Path):
    rows = [{"title": "Mug"}, {"content": None}, {"content": "x"}, {"title": "no", "content": "n"}]
    given = iter([RawRecord(f"line {n}", row) for n, row in enumerate(rows)])
    found = find_columns(tmp_path, given, {"title": "title", "description": "content"})
    assert found.wheres == {"title": [("title",)], "description": [("content",)]}
    assert next(given).values["title"] == "no"
