"""JSON is read in the shapes that it comes in, or refused in a sentence that says what it is."""

import io
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.data.reading.files.sources import BUFFER_BYTES, Fault, Meter, RawRecord, Source
from amazon_desc.data.reading.json import columns as json_columns
from amazon_desc.data.reading.json.looks import refuse_unlike_json
from amazon_desc.data.reading.json.records import json_records
from amazon_desc.data.reading.json.shapes import Found, Shape, shape_of
from amazon_desc.data.reading.records import Product, read_products, read_title_records
from amazon_desc.support.errors import DataError

MUG = {"title": "Mug", "content": "Holds tea."}
CUP = {"title": "Cup", "content": ""}
PRODUCTS = [Product("Mug", "Holds tea."), Product("Cup", "")]
NUM_MANY = 40_000
MANY = [{"title": f"Mug {number}", "content": "Red."} for number in range(NUM_MANY)]


def file(folder: Path, content: Any, indent: int | None = None) -> Path:
    path = folder / "shop.json"
    text = content if isinstance(content, str) else json.dumps(content, indent=indent)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, **columns: str) -> tuple[list[Product | Fault], list[str]]:
    """Returns the records, and what is said on how the file was understood."""
    meter = Meter()
    return list(read_products(path, meter=meter, **columns)), meter.remarks


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(DataError) as error:
        list(read_products(path, **columns))
    return str(error.value)


LISTED = ['shop.json: the records are those of the list "products"']
KEYED = ['shop.json: the members of its one object are the records, their keys are "id"']
COLUMNS = ["shop.json: it is an object of columns, read as a whole"]
SHAPES = {
    "a list in an object": ({"products": [MUG, CUP]}, LISTED),
    "metadata beside": ({"name": "My shop", "n": 2, "products": [MUG, CUP], "next": {}}, LISTED),
    "pandas' orient=table": (
        {"schema": {"fields": [{"name": "title"}]}, "products": [MUG, CUP]},
        LISTED,
    ),
    "keyed by id": ({"B001": MUG, "B002": CUP}, KEYED),
    "pandas' orient=index": ({"0": MUG, "1": CUP}, KEYED),
    "pandas' to_json": (
        {"title": {"0": "Mug", "1": "Cup"}, "content": {"0": "Holds tea.", "1": None}},
        COLUMNS,
    ),
    "lists of columns": ({"title": ["Mug", "Cup"], "content": ["Holds tea.", None]}, COLUMNS),
    "pandas' orient=split": (
        {
            "columns": ["title", "content"],
            "index": [0, 1],
            "data": [["Mug", "Holds tea."], ["Cup", None]],
        },
        COLUMNS,
    ),
}


@pytest.mark.parametrize(("content", "remarks"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_programs_write_is_read_as_it_is_and_its_shape_said_once(
    tmp_path: Path, content: Any, remarks: list[str], indent: int | None
):
    path = file(tmp_path, content, indent)
    assert read(path) == (PRODUCTS, remarks)
    assert [product.place for product in read(path)[0] if isinstance(product, Product)] == [
        "shop.json, record 1",
        "shop.json, record 2",
    ]
    assert [record.title for record in read_title_records(path)] == ["Mug", "Cup"]


@pytest.mark.parametrize("between", ["\n", "", ",\n", "\n\n"])
def test_objects_over_several_lines_stand_one_behind_the_other(tmp_path: Path, between: str):
    text = between.join(json.dumps(row, indent=2) for row in (MUG, CUP))
    assert read(file(tmp_path, f"\ufeff \n{text}{between}")) == (PRODUCTS, [])


def test_a_list_that_has_more_of_what_is_asked_for_than_its_object_is_meant(tmp_path: Path):
    path = file(tmp_path, {"title": "My shop", "products": [MUG, CUP]})
    assert read(path) == (PRODUCTS, LISTED)
    with pytest.raises(DataError, match="found what is asked for in an object and in its list"):
        list(read_title_records(path))


def test_one_object_is_one_product_even_with_a_list_of_variants(tmp_path: Path):
    for indent in (None, 2):
        path = file(tmp_path, {**MUG, "variants": [{"title": "Red"}, {"title": "Blue"}]}, indent)
        assert read(path) == (PRODUCTS[:1], [])


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        ({"n": 1, "items": MANY, "next": None}, Found(Shape.WRAPPED, "items")),
        ({str(number): row for number, row in enumerate(MANY)}, Found(Shape.KEYED)),
        (
            {name: {str(n): row[name] for n, row in enumerate(MANY)} for name in MUG},
            Found(Shape.COLUMNS),
        ),
        ({name: [row[name] for row in MANY] for name in MUG}, Found(Shape.COLUMNS)),
        (
            {
                "columns": ["title", "content"],
                "index": list(range(NUM_MANY)),
                "data": [list(row.values()) for row in MANY],
            },
            Found(Shape.COLUMNS),
        ),
        (MANY, Found(Shape.ARRAY)),
    ],
    ids=["list", "keyed", "columns of objects", "columns of lists", "split", "array"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_that_is_longer_than_what_is_looked_at_is_told_by_its_start(
    tmp_path: Path, content: Any, shape: Found, indent: int | None
):
    path = file(tmp_path, content, indent)
    start = path.read_bytes()
    assert len(start) > 2 * BUFFER_BYTES
    for num_bytes in (BUFFER_BYTES, BUFFER_BYTES - 1, BUFFER_BYTES - 13):
        assert shape_of("shop.json", start[:num_bytes], ["title", "content"]) == shape
    records, _ = read(path)
    assert records[:1] + records[-1:] == [Product("Mug 0", "Red."), Product("Mug 39999", "Red.")]
    assert len(records) == NUM_MANY


def test_columns_of_other_names_are_columns_too(tmp_path: Path):
    path = file(tmp_path, {"name": {"0": "Mug"}, "text": {"0": "Holds tea."}})
    assert read(path, title_column="name", description_column="text")[0] == PRODUCTS[:1]
    assert "the columns seen are name, text." in refusal(path)
    columns = {"instruction": ["D", "D"], "input": ["Mug", "Cup"], "output": ["Holds tea.", ""]}
    advice = {"title_column": "input", "description_column": "output"}
    assert "--data.title_column input --data.description_column output" in refusal(
        file(tmp_path, columns)
    )
    assert read(file(tmp_path, columns), **advice)[0] == PRODUCTS


def test_a_key_is_kept_as_id_where_the_record_has_none(tmp_path: Path):
    path = file(tmp_path, {"B001": MUG, "B002": {**CUP, "id": 7}})
    kept = [record.kept for record in read_title_records(path, kept=["id"])]
    assert kept == ['{"id":"B001"}', '{"id":7}']


@pytest.mark.parametrize("key", ["\\x", "a\0b", "a\tb"])
def test_a_key_that_is_no_json_is_refused(tmp_path: Path, key: str):
    mug = json.dumps(MUG)
    assert "shop.json" in refusal(file(tmp_path, f'{{"{key}": {mug}, "B1": {mug}}}'))
    many = json.dumps(dict(enumerate(MANY)))[:-1]
    if key == "\\x":
        message = refusal(file(tmp_path, f'{many}, "{key}": {mug}}}'))
        assert f"it breaks at record {NUM_MANY + 1}" in message


def test_a_key_with_half_a_character_harms_nothing(tmp_path: Path):
    many = json.dumps(dict(enumerate(MANY)))[:-1]
    path = file(tmp_path, f'{many}, "\\ud83d": {json.dumps(MUG)}}}')
    assert list(read_title_records(path, kept=["id"]))[-1].kept == '{"id":"?"}'


def test_single_bad_members_and_elements_are_faults(tmp_path: Path):
    bad = '{"title": "\\ud800", "content": "x"}'
    fault = [Fault("shop.json, record 2", "not valid JSON")]
    mug = json.dumps(MUG)
    assert read(file(tmp_path, f'{{"items": [{mug}, {bad}]}}'))[0] == [*PRODUCTS[:1], *fault]
    assert read(file(tmp_path, f'{{"B1": {mug}, "B2": {bad}}}'))[0] == [*PRODUCTS[:1], *fault]
    no_object = [Fault("shop.json, record 2", "not a JSON object")]
    assert read(file(tmp_path, {"items": [MUG, 7]}))[0] == [*PRODUCTS[:1], *no_object]


def damaged(chance: random.Random, text: str) -> str:
    """Returns a text that is cut, has a sign too many, or a part too few or too often."""
    for _ in range(chance.randrange(1, 4)):
        start, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        sign = chance.choice(['"', "'", *"{}[],:\\\0é\n", "NaN", "null", '""', "\\ud83d"])
        text = chance.choice([text[:start], text[:start] + sign + text[start:], text[end:]])
        text = chance.choice([text, text[:start] + text[end:], text + text[start:]])
    return text or " "


def test_however_json_is_damaged_it_is_read_or_refused(tmp_path: Path):
    chance = random.Random(0)
    texts = [json.dumps(content, indent=2) for content, _ in SHAPES.values()]
    texts += [json.dumps(content) for content, _ in SHAPES.values()]
    refusals: list[str] = []
    num_read = 0
    for _ in range(1_500):
        path = file(tmp_path, damaged(chance, chance.choice(texts)))
        try:
            records = list(read_title_records(path, kept="all"))
        except DataError as error:
            refusals.append(str(error))
        else:
            num_read += 1
            texts_read = [record.title + (record.kept or "") for record in records]
            assert "".join(texts_read).encode().decode() == "".join(texts_read)
    assert all("shop.json" in message for message in refusals)
    assert min(len(refusals), num_read) > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"items": [MUG], "others": [CUP]},
            'shop.json: wanted one list of products, found 2: "items", "others". Take one of '
            "them out: jq '.[\"items\"]' shop.json > products.json",
        ),
        (
            {"data": {"products": [MUG]}},
            'shop.json: wanted the products in a list at the first level, found them at "data.'
            'products". Take them out: jq \'.["data"]["products"]\' shop.json > products.json',
        ),
        (
            {"data": {"B001": MUG, "B002": CUP}, "n": 2},
            'found them at "data". Take them out: jq \'.["data"]\' shop.json > products.json',
        ),
        (
            {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": MUG}]},
            "shop.json is GeoJSON, a map, not a file of products. Write the properties",
        ),
        (
            {"title": ["Mug", "Cup"], "content": ["Holds tea."]},
            "wanted lists of the same length in all of them, found title: 2, content: 1. ",
        ),
        (
            {"columns": ["title", "content"], "data": [["Mug"]]},
            "shop.json, record 1: wanted a list of 2 values, one for each of its columns",
        ),
        ([["title", "content"], ["Mug", "Holds tea."]], "wanted an array of objects, as in"),
        (["Mug", "Cup"], "found one of texts, numbers or the like. Write each product as an obj"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_what_cannot_be_told_is_refused_in_one_sentence_with_the_way_out(
    tmp_path: Path, content: Any, message: str, indent: int | None
):
    assert message in refusal(file(tmp_path, content, indent))


def test_a_second_list_that_comes_late_is_refused_all_the_same(tmp_path: Path):
    assert 'found two: "items" and "others"' in refusal(
        file(tmp_path, {"items": MANY, "n": 1, "others": [CUP]})
    )


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ('{"n": 2, "items": [{"title": "Mug", "content": "x"}, {"title": "C', 2),
        ('{"items": [{"title": "Mug", "content": "x"}]', 2),
        ('{"items": [{"title": "Mug", "content": "x"}]} more', 2),
        ('{"B001": {"title": "Mug", "content": "x"}, "B002": {"title', 2),
        ('{\n"title": "Mug", "content": "x"\n}\n{\n"title": "C', 2),
        ('{\n"title": "Mug", "content": "x"\n}\n{\n"title": "Cup"\n}\nmore', 3),
    ],
    ids=["in a list", "behind a list", "more behind", "keyed", "object", "behind objects"],
)
def test_json_that_is_cut_names_the_record_at_which_it_breaks(
    tmp_path: Path, text: str, record: int
):
    if text.endswith(" more"):
        text = json.dumps({"items": MANY})[: -len("]}")] + "]}" + " more"
        record = NUM_MANY + 1
    assert f"it breaks at record {record}, or that is longer" in refusal(file(tmp_path, text))


def test_columns_are_held_as_a_whole_so_their_size_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = file(tmp_path, {"title": ["Mug"], "content": ["Holds tea."]})
    monkeypatch.setattr(json_columns, "COLUMNS_BYTES", path.stat().st_size)
    assert read(path)[0] == PRODUCTS[:1]
    monkeypatch.setattr(json_columns, "COLUMNS_BYTES", path.stat().st_size - 1)
    message = refusal(path)
    assert (
        "shop.json stands in columns, and has more than 0 MiB: wanted a product a line" in message
    )
    assert (
        'import pandas; pandas.read_json("shop.json").to_json("products.jsonl", orient="records", '
        "lines=True)"
    ) in message


def test_columns_with_nan_are_read_and_broken_ones_refused(tmp_path: Path):
    text = '{"title": ["Mug", "Cup"], "content": ["Holds tea.", NaN]}'
    assert read(file(tmp_path, text))[0] == PRODUCTS
    long = json.dumps({"title": ["Mug"] * NUM_MANY, "content": ["x"] * NUM_MANY})
    assert "begins as an object of columns, and is not valid JSON: " in refusal(
        file(tmp_path, long[:-2])
    )


@pytest.mark.parametrize(
    ("text", "first", "looks"),
    [
        ("title,content\nMug,Holds tea.\nCup,Small, red.\n", "title,content", "CSV: name it .csv"),
        ("titulo;texto\nMug;Holds tea.\n", "titulo;texto", "CSV: name it .csv"),
        ("title\tcontent\nMug\tHolds tea.\n", "title content", "TSV: name it .tsv"),
        ("<shop>\n<product/>\n</shop>", "<shop>", "XML: write its products as"),
        ("- title: Mug\n  content: x\n- title: Cup\n", "- title: Mug", "YAML: write its products"),
        ("INSERT INTO p VALUES (1, 'Mug');\n", "INSERT INTO p VALUES (1, 'Mug');", "SQL: export"),
        ("var p = [\n{'title': Mug,\n];", "var p = [", "JavaScript: keep what is between"),
        ("```json\n[]x\n```", "```json", "Markdown: leave the lines with ``` away"),
        ("Red Mug\nBlue Cup\n", "Red Mug", "text: titles alone may stand in a .txt, one a line"),
    ],
)
def test_a_file_of_which_no_line_is_json_is_refused_by_what_it_looks_like(
    tmp_path: Path, text: str, first: str, looks: str
):
    assert refusal(file(tmp_path, text)) == (
        'shop.json: wanted an object a line, as in {"title": "Mug", "content": "Holds tea."}; none '
        f"of the first lines is one, the first is: {first}. It looks like {looks}"
        + refusal(file(tmp_path, text)).partition(looks)[2]
    )


def test_the_line_that_is_shown_is_short_and_harmless(tmp_path: Path):
    message = refusal(file(tmp_path, "\x1b[31m" + "x" * 1_000))
    assert "\x1b" not in message
    assert "x" * 90 in message
    assert "x" * 101 not in message


def test_json_with_a_mistake_in_it_is_told_by_its_place(tmp_path: Path):
    text = '{\n "title": "Mug",\n "content": "Holds tea.",\n}\n'
    assert refusal(file(tmp_path, text)).endswith(
        "the first is: {. It breaks at line 4, column 1: Expecting property name enclosed in "
        "double quotes."
    )
    text = '{"items": [{"title": "Mug"}, {"title": "Cup" "content": ""}]}'
    assert "It breaks at line 1, column 46: Expecting ',' delimiter." in refusal(
        file(tmp_path, text)
    )


def test_a_file_with_one_line_of_json_is_no_other_file(tmp_path: Path):
    path = file(tmp_path, "title,content\n" * 10 + json.dumps(MUG) + "\n")
    records, _ = read(path)
    assert records[:-1] == [Fault(f"shop.json, line {n}", "not valid JSON") for n in range(1, 11)]
    assert records[-1] == PRODUCTS[0]


def test_a_line_that_is_cut_by_the_look_at_it_is_not_told_by_what_was_seen():
    line = json.dumps(MUG).encode()[:-5]
    refuse_unlike_json("shop.json", line, True, lambda _: False)
    for start in (b"Mug\n" + line[:100], b"Mug\n"):
        with pytest.raises(DataError, match="the first is: Mug"):
            refuse_unlike_json("shop.json", start, True, lambda _: False)


def test_a_file_that_breaks_within_its_first_line_is_damaged_and_no_other_file():
    for text in ("{", '["Mug"', "Mug"):
        with pytest.raises(EOFError):
            list(trickling(text, is_damaged=True))


class Trickle(io.RawIOBase):
    """Hands out a byte at a time, as what unpacks may do, and breaks in the end if told to."""

    def __init__(self, data: bytes, is_damaged: bool) -> None:
        self._data, self._is_damaged = data, is_damaged

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._data and self._is_damaged:
            raise EOFError("cut short")
        if self._data:
            buffer[:1], self._data = self._data[:1], self._data[1:]
            return 1
        return 0


def trickling(text: str, is_damaged: bool) -> Iterator[RawRecord | Fault]:
    stream = io.BufferedReader(Trickle(text.encode(), is_damaged), BUFFER_BYTES)
    return json_records(Source("a", ".json", stream), ["title", "content"], False, Meter())


@pytest.mark.parametrize("content", [content for content, _ in SHAPES.values()], ids=SHAPES)
def test_a_shape_is_told_by_more_than_the_first_byte(content: Any):
    rows = trickling(json.dumps(content, indent=1), is_damaged=False)
    titles = [row.values["title"] for row in rows if isinstance(row, RawRecord)]
    assert titles == ["Mug", "Cup"]


def test_lines_in_front_of_damage_are_read():
    rows = trickling(f"{json.dumps(MUG)}\n{json.dumps(CUP)}\n", is_damaged=True)
    assert [row.values for row in itertools.islice(rows, 2) if isinstance(row, RawRecord)] == [
        MUG,
        CUP,
    ]
    with pytest.raises(EOFError):
        next(rows)
