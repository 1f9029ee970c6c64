"""What was scored is read again with its scores, and compared title by title."""

import json
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.run.scored import read_scored, together
from amazon_desc.support.errors import UserError


def written(text: str, loss_sum: float, num_right: int = 1, is_copied: bool = False) -> dict:
    return {
        **{"description": text, "finish_reason": "stop", "num_tokens": 3, "is_copied": is_copied},
        **{"loss_sum": loss_sum, "num_targets": 4, "num_right": num_right},
    }


def record(title: str, base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "reference": f"A {title} of steel.", "base": base, "tuned": tuned}


RECORDS = [
    record("mug", written("Buy it.", 16.0), written("A mug of steel.", 8.0, 3)),
    record("lamp", written("Buy it.", 12.0), written("A lamp of glass.", 4.0, 2, True)),
]


def file_of(folder: Path, records: list[dict[str, Any]]) -> Path:
    file = folder / "runs" / "a" / "scored" / "validate.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(of) + "\n" for of in records), encoding="utf-8")
    return file


def test_scores_are_those_of_the_texts_and_losses_that_are_there(tmp_path: Path):
    file = file_of(tmp_path, RECORDS)
    base, tuned = (read_scored(file, side).intervals() for side in ("base", "tuned"))
    values = {name: of.value for name, of in tuned.items()}
    assert (values["loss"], values["accuracy"]) == (12.0 / 8, 5 / 8)
    assert (values["copied"], values["ended"], values["rouge1"]) == (0.5, 1.0, 0.875)
    assert (base["loss"].value, base["rouge1"].value) == (28.0 / 8, 0.0)
    assert tuned["loss"].low == 1.0 < tuned["loss"].high == 2.0, "one title drawn twice"


def test_a_difference_is_this_one_less_the_other(tmp_path: Path):
    file = file_of(tmp_path, RECORDS)
    tuned, base = read_scored(file, "tuned"), read_scored(file, "base")
    found = tuned.compared_with(base)["loss"]
    assert (found.difference, found.low, found.high) == (-2.0, -2.0, -2.0)
    same = tuned.compared_with(tuned)["rougeL"]
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_seeds_are_drawn_together_title_by_title(tmp_path: Path):
    """The mean of a loss of 1.5 and one of 2.5; titles vary as in one seed, not half as much."""
    worse = [
        record(of["title"], of["base"], {**of["tuned"], "loss_sum": 4 + of["tuned"]["loss_sum"]})
        for of in RECORDS
    ]
    one = read_scored(file_of(tmp_path / "1", RECORDS), "tuned")
    other = read_scored(file_of(tmp_path / "2", worse), "tuned")
    found = together([one, other]).intervals()["loss"]
    assert found == (2.0, 1.5, 2.5)
    assert together([one]).intervals() == one.intervals()


def test_runs_of_other_titles_are_not_compared(tmp_path: Path):
    one = read_scored(file_of(tmp_path / "1", RECORDS), "tuned")
    other = read_scored(file_of(tmp_path / "2", RECORDS[:1]), "tuned")
    for compare in (lambda: one.compared_with(other), lambda: together([other, one])):
        with pytest.raises(UserError, match=r"has 2 titles and .* 1, and not the same ones"):
            compare()


def test_what_is_missing_or_damaged_is_said_with_the_command_that_makes_it(tmp_path: Path):
    file = file_of(tmp_path, RECORDS)
    for text in ("no JSON", '{"title": 1}', None):
        file.unlink()
        if text is not None:
            file.write_text(text)
        with pytest.raises(UserError) as raised:
            read_scored(file, "tuned")
        config = tmp_path / "runs" / "a" / "config.yaml"
        assert f"python -m amazon_desc validate --config {config}" in str(raised.value)
