"""Promises of a report: a run that is damaged anywhere has a page all the same."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from amazon_desc.run.report.page import write_report
from tests.run.report.made_run import entry, line, make_run

pytestmark = pytest.mark.usefixtures("drawn")

ODD: list[Any] = [
    *(None, True, 0, -1, 1e308, -1e308, 5e-324, 10**400, float("nan"), float("inf")),
    *("", "x", "<b>", "\ud800", "2026-13-01T00:00:00", [], {}, [1], [None], [[[]]]),
    *({"value": 1}, {"sha256": 3}, {"name": 3}, [{"sha256": "x"}, 3]),
]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the way to each value inside of a value. {"a": [3]} -> (a), (a, 0)"""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry_ in inside:
        yield (*above, key)
        if isinstance(entry_, (dict, list)):
            yield from places(entry_, (*above, key))


def damaged(value: Any, chance: random.Random, num: int) -> Any:
    """Returns a value with something odd in so many places."""
    found = copy.deepcopy(value)
    for _ in range(num):
        *above, last = chance.choice(list(places(found)))
        inside = found
        for key in above:
            inside = inside[key]
        inside[last] = copy.deepcopy(chance.choice(ODD))
    return found


def test_a_value_is_damaged_in_one_place():
    assert list(places({"a": [3], "b": 1})) == [("a",), ("a", 0), ("b",)]
    assert damaged([1], random.Random(0), 1) != [1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_a_run_that_is_damaged_anywhere_has_a_page(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    num = (1, 3, 10, 40)[seed % 4]
    metrics = damaged({"validate": entry(), "test": entry()}, chance, num)
    lines = [damaged(line(number), chance, chance.choice([0, 1, 4])) for number in range(12)]
    run = make_run(tmp_path / "shop", metrics, lines, num_points=5)
    record = damaged(json.loads(run.record.read_text()), chance, num)
    run.record.write_text(json.dumps(record))
    options = damaged(yaml.safe_load(run.config.read_text()), chance, 1 + seed % 2)
    run.config.write_text(json.dumps(options))  # which YAML is, too
    (log,) = run.tensorboard.iterdir()
    content = bytearray(log.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    log.write_bytes(content)
    whole = make_run(tmp_path / "whole", num_points=5)
    write_report([run, whole], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>Report of shop and whole</title>" in page
    assert page.endswith("</html>")
