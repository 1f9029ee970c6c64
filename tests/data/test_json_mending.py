"""What is no JSON is read where it can mean one thing only, counted, and otherwise left a fault."""

import json
import random
import time
from pathlib import Path

import orjson
import pytest

from amazon_desc.data.reading.files.sources import LINE_BYTES, Meter
from amazon_desc.data.reading.json.mending import mended, without_oddities
from amazon_desc.data.reading.records import Fault, Product, read_products, read_title_records

GOOD = '{"title": "Tin Car", "content": "Red."}'
NUM_TRIALS = 2_000
ODD = ['"', "'", '""', ",", ":", "{", "}", "[", "]", '",', '":', "é", "\U0001f600", "NaN", ",}", ""]


@pytest.mark.parametrize(
    ("line", "values", "what"),
    [
        ('{"title": "Mug", "price": NaN}', {"title": "Mug", "price": None}, "NaN is null"),
        ('{"a": [Infinity, -Infinity, 1]}', {"a": [None, None, 1]}, "NaN is null"),
        ('{"a": {"b": nan, "c": "NaN, ,]"}}', {"a": {"b": None, "c": "NaN, ,]"}}, "NaN is null"),
        ('{"title": "Mug", "tags": ["a",],}', {"title": "Mug", "tags": ["a"]}, "commas too many"),
        ('{"title": "Mug"},', {"title": "Mug"}, "commas too many"),
        ("{'title': 'Mug', 'n': 1}", {"title": "Mug", "n": 1}, "Python dicts"),
        (
            "{'title': \"Mog's\", 'x': None, 'y': [True, (1, 2.5)], 'z': nan}",
            {"title": "Mog's", "x": None, "y": [True, [1, 2.5]], "z": None},
            "Python dicts",
        ),
        ("{'a': '\\'x\\' \\u00e9', 'b': -inf},", {"a": "'x' é", "b": None}, "Python dicts"),
        ('{"title": "Mug", "new": True}', {"title": "Mug", "new": True}, "Python dicts"),
        ("{'title': 'Mug', 'new': true, 'x': null}", {"title": "Mug", "new": True, "x": None}, "P"),
        ("{u'title': u'Mug'}", {"title": "Mug"}, "Python dicts"),
        ('{"title": "the ""red"" mug", "n": 5}', {"title": 'the "red" mug', "n": 5}, "doubled"),
        ('{"title": "a ""b""", "content": ""}', {"title": 'a "b"', "content": ""}, "doubled q"),
        ('{"title": """a"" b", "x": ""}', {"title": '"a" b', "x": ""}, "doubled quotes"),
        ('{"title": Mansell, "n": 1}', {"title": "Mansell", "n": 1}, "texts without quotes"),
        ('{"n": 1, "title": Nigel Mansell}', {"n": 1, "title": "Nigel Mansell"}, "texts without"),
    ],
)
def test_what_can_mean_one_thing_only_is_read_as_that(line: str, values: dict, what: str):
    found = mended(f" {line}\r", orjson.loads)
    assert found is not None
    assert found[0] == values
    assert found[1].startswith(what)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        '{"title": "Mug", "content": "A cat',
        '{"title": "Mug", "content": "A cat"',
        '"title": "Mug"}',
        '{"title": Nigel, Mansell, "n": 1}',
        '{"title": Mansell: a life}',
        '{"title": undefined}',
        '{"title": 01984}',
        '{"title": "Mug" "red"}',
        '{"title": "the "red" mug"}',
        '{"title": "a", "b", "content": "c"}',
        '{"title": "" "Mug"}',
        '{title: "Mug"}',
        "{'title': 'Mog's Kittens'}",
        "{'title': 'a' 'b'}",
        "{'title': b'Mug'}",
        "{'title': {1, 2}}",
        "{1: 'Mug'}",
        "{'title': open('x')}",
        "{'title': '\\ud800'}",
        "{'title': '\\d'}",
        '{"title": "\\ud800"}',
        '{"title": "a\\x"}',
        '{"title": "a\tb"}',
        "{'title': 'Mug'}, {'title': 'Cup'}",
        '{"title": "Mug"} {"title": "Cup"}',
        '{"title": "Mug",,}',
        "[{'title': 'Mug'}]",
        "{'a': " + "[" * 5_000 + "]" * 5_000 + "}",
        "{'a': " + "-" * 60_000 + "1}",
        "{'a': '" + "x" * 70_000 + "'}",
    ],
)
def test_what_is_cut_or_may_mean_two_things_is_left_as_it_is(line: str):
    assert mended(line, orjson.loads) is None


def test_numbers_and_commas_are_told_from_text():
    text = '{"a": [NaN, 1,], "b": "NaN,]", "c\\",}": -Infinity, "NaN": 2}'
    plain = '{"a": [null, 1], "b": "NaN,]", "c\\",}": null, "NaN": 2}'
    assert without_oddities(text) == (plain, True)
    assert without_oddities(plain) == (plain, False)


def odd_text(chance: random.Random) -> str:
    return "".join(chance.choice([*ODD, "mug ", "x"]) for _ in range(chance.randrange(6)))


def test_what_python_prints_is_read_as_it_was():
    chance = random.Random(0)
    num_python = 0
    for _ in range(NUM_TRIALS):
        values = {odd_text(chance) + str(n): odd_text(chance) for n in range(3)}
        values |= {"tags": [odd_text(chance), None], "new": True}  # type: ignore[dict-item]
        found = mended(str(values), orjson.loads)
        assert found == (values, "Python dicts")
        num_python += 1
    assert num_python == NUM_TRIALS


def test_what_doubles_its_quotes_is_read_as_it_was_or_not_at_all():
    chance = random.Random(0)
    num_read = 0
    for _ in range(NUM_TRIALS):
        values = {f"key{n}": odd_text(chance) for n in range(3)}
        doubled = (
            f'"{key}": "{text.replace(chr(34), chr(34) * 2)}"' for key, text in values.items()
        )
        line = "{" + ", ".join(doubled) + "}"
        if not any('"' in text for text in values.values()):
            assert orjson.loads(line) == values
            continue
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError:
            found = mended(line, orjson.loads)
            assert found == (values, "doubled quotes")
            num_read += 1
    assert num_read > NUM_TRIALS / 2


@pytest.mark.parametrize(
    "part", ['"', '""', "'", ",", "{", "[", "\\", '\\"', '"a":', ":a", " ", ", ", "a ", '"a":b,']
)
def test_a_long_line_that_means_nothing_costs_no_more_than_its_reading(part: str):
    for start in ('{"a":', "{'a':", "{"):
        line = start + part * ((LINE_BYTES - 10) // len(part)) + "}"
        begin = time.process_time()
        mended(line, orjson.loads)
        assert time.process_time() - begin < 2


def test_mended_lines_are_counted_and_the_first_is_named(tmp_path: Path):
    path = tmp_path / "shop.jsonl"
    lines = [GOOD, '{"title": "Mug", "content": NaN}', GOOD, '{"title": "Cup", "content": NaN}']
    lines += ["{'title': 'Pot', 'content': 'Big.'}", '{"title": "Mug", "content": "Ho']
    path.write_text("\n".join(lines))
    meter = Meter()
    assert list(read_products(path, meter=meter)) == [
        Product("Tin Car", "Red."),
        Product("Mug", ""),
        Product("Tin Car", "Red."),
        Product("Cup", ""),
        Product("Pot", "Big."),
        Fault("shop.jsonl, line 6", "not valid JSON"),
    ]
    said = "shop.jsonl: some is no JSON, and was read as what it can only mean: "
    assert meter.remarks == [
        f"{said}NaN is null; number of records: 2, the first: shop.jsonl, line 2",
        f"{said}Python dicts; number of records: 1, the first: shop.jsonl, line 5",
    ]


def test_records_of_an_array_are_mended_too(tmp_path: Path):
    path = tmp_path / "shop.json"
    path.write_text('[{"title": "Mug", "content": NaN}, {"title": "Cup", "content": "x"}]')
    meter = Meter()
    assert list(read_products(path, meter=meter)) == [Product("Mug", ""), Product("Cup", "x")]
    assert meter.remarks[0].endswith("number of records: 1, the first: shop.json, record 1")


def test_numbers_of_any_size_stay_what_they_are_in_a_mended_line(tmp_path: Path):
    path = tmp_path / "shop.jsonl"
    path.write_text('{"title": "Mug", "ean": 12345678901234567890123, "x": NaN}\n')
    kept = [record.kept for record in read_title_records(path, kept="all")]
    assert kept == ['{"ean":12345678901234567890123,"x":null}']
    assert json.loads(kept[0] or "") == {"ean": 12345678901234567890123, "x": None}
