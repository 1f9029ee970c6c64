"""What scripts/bench_predict.py promises: equal tasks, the right numbers, a line for what fails."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.texts import Text
from amazon_desc.model.writing_plan import WritingPlan
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import load_script
from tests.shallow_base import shallow_base


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return load_script("bench_predict_table")


@pytest.fixture(scope="module")
def work(table: ModuleType) -> ModuleType:
    load_script("bench_predict_task")
    return load_script("bench_predict_work")


@pytest.fixture(scope="module")
def bench(work: ModuleType) -> ModuleType:
    return load_script("bench_predict")


def trial(num_tokens: int, seconds: float, startup: float = 1.0, size: int = 16) -> dict[str, Any]:
    found = {"num_titles": 30, "num_tokens": num_tokens, "seconds": seconds, "at_a_time": size}
    return {**found, "startup_seconds": startup, "peak_gib": 0.5, "busy": None}


def rows_of(table: ModuleType, speeds: dict[str, int]) -> list[dict[str, Any]]:
    lines = {line.name: line for line in table.all_lines(False, (16, 32), (), ())}
    return [
        table.completed(lines[name], [trial(num, 1.0, size=lines[name].at_a_time or 64)])
        for name, num in speeds.items()
    ]


# The lines


def test_every_way_to_write_has_its_line_once(table: ModuleType):
    lines = table.all_lines(True, (64,), (32,), ("temperature=0.7",))
    names = [line.name for line in lines]
    assert names[:5] == [
        *("ours, fused", "ours, plain", "ours, fused, 32 at a time", "ours, plain, 32 at a time"),
        "ours, fused, temperature=0.7",
    ]
    assert names[5:10] == [
        *("generate, merged, dynamic, 64", "generate, merged, static, 64"),
        *("generate, unmerged, dynamic, 64", "generate, unmerged, static, 64"),
        "generate, unmerged, 32 titles",
    ]
    assert len(set(names)) == len(names) == 12
    assert "ours, fused" not in [line.name for line in table.all_lines(False, (64,), (), ())]


def test_lines_are_chosen_by_side_and_by_a_part_of_their_names(table: ModuleType):
    lines = table.all_lines(False, (16, 32), (), ())
    found = [line.name for line in table.chosen(lines, "plain; merged, static, 3; before")]
    assert found == [
        *("ours, plain", "generate, merged, static, 32", "generate, unmerged, 32 titles")
    ]
    assert table.chosen(lines, None) == lines
    assert table.chosen(lines, "nobody") == []


def test_an_unknown_line_is_refused_with_all_names(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nobody"])
    assert "wanted some of fused; plain; before" in capsys.readouterr().err


# The numbers


def test_a_line_has_the_speed_of_its_best_trial_and_the_start_of_its_first(table: ModuleType):
    (line,) = table.chosen(table.all_lines(False, (16,), (), ()), "plain")
    row = table.completed(line, [trial(900, 3.0, startup=7.0), trial(900, 2.0, startup=4.0)])
    assert (row["tokens_per_second"], row["titles_per_second"]) == (450.0, 15.0)
    assert (row["startup_seconds"], row["seconds"]) == (7.0, [3.0, 2.0])


def test_all_are_compared_with_our_engine_as_it_comes(table: ModuleType):
    speeds = {"ours, plain": 900, "generate, merged, dynamic, 16": 300}
    ours, peer = table.compared(
        rows_of(table, speeds), {"ours, plain": "abcd", "generate, merged, dynamic, 16": "ab"}
    )
    assert "we_are" not in ours
    assert (peer["we_are"], peer["same_texts"]) == (3.0, 1.0)
    assert table.share_equal("acx", "abc") == pytest.approx(1 / 3)


def test_the_best_batch_size_of_each_kind_is_named(table: ModuleType):
    speeds = {"ours, plain": 900, "generate, merged, dynamic, 16": 300}
    speeds |= {"generate, merged, dynamic, 32": 600, "generate, merged, static, 16": 450}
    speeds |= {"generate, unmerged, 32 titles": 100}
    rows = table.compared(rows_of(table, speeds), dict.fromkeys(speeds, "ab"))
    assert list(table.conclusions(rows, True)) == [
        "Best of generate, merged, dynamic: 32 at a time: we are 1.50 times as fast.",
        "Best of generate, merged, static: 16 at a time: we are 2.00 times as fast.",
    ]


def test_other_texts_on_the_same_weights_are_told_where_numbers_are_exact(table: ModuleType):
    speeds = {"ours, plain": 900, "generate, merged, dynamic, 16": 300}
    texts = {"ours, plain": "abcd", "generate, merged, dynamic, 16": "abxd"}
    rows = table.compared(rows_of(table, speeds), texts)
    assert [row["name"] for row in table.others(rows)] == ["generate, merged, dynamic, 16"]
    (_, said) = table.conclusions(rows, True)
    assert said.startswith("generate, merged, dynamic, 16 wrote other texts for 25.0% of the")
    assert len(list(table.conclusions(rows, False))) == 1


def test_tokens_are_counted_with_the_end_where_there_is_one(work: ModuleType):
    assert work.count_tokens([Text([5, 6], True), Text([7], False)]) == 4


def test_slots_are_busy_by_the_tokens_that_their_steps_added(table: ModuleType, work: ModuleType):
    assert table.busy_share(12, 5, 4) == 0.6
    calls = []
    slots = SimpleNamespace(run=lambda: calls.append(1), steps_a_round=3, num_slots=4)
    rounds = work.Rounds(slots)
    slots.run()
    slots.steps_a_round = 2
    slots.run()
    assert (len(calls), rounds.num_steps, rounds.busy(12)) == (2, 5, 0.6)


# What is written


def test_random_prompts_are_as_long_as_real_ones_and_the_same_each_time(work: ModuleType):
    task = load_script("bench_predict_task")
    tokenizer = load_tokenizer(TINY_BASE)
    prompts = task.random_prompts(tokenizer, 200)
    lengths = {len(prompt.ids) for prompt in prompts}
    assert (min(lengths), max(lengths)) == (20, 50)
    assert not {number for prompt in prompts for number in prompt.ids} & set(
        tokenizer.all_special_ids
    )
    assert prompts == task.random_prompts(tokenizer, 200)


def test_a_file_has_the_prompts_that_predict_writes_for(work: ModuleType, tmp_path: Path):
    task = load_script("bench_predict_task")
    (tmp_path / "titles.txt").write_text("Red Mug\n\n<b>Oak</b> Desk\n<br>\nRed Mug\n")
    data = DescriptionData(backbone="tiny")
    prompts = task.prompts_of_file(SimpleNamespace(data=data), str(tmp_path / "titles.txt"))
    found = [data.tokenizer.decode(prompt.ids) for prompt in prompts]
    assert [prompt.row for prompt in prompts] == [0, 1, 2], "no place of a batch is empty"
    for title, text in zip(("Red Mug", "Oak Desk", "Red Mug"), found, strict=True):
        assert title in text
    assert not any("<b" in text for text in found)


def test_prompts_are_padded_on_the_left(work: ModuleType):
    ids, is_token = work.padded([Prompt(0, [7]), Prompt(1, [4, 5])], 0, 3)
    assert ids.tolist() == [[0, 0, 7], [0, 4, 5]]
    assert is_token.tolist() == [[0, 0, 1], [0, 1, 1]]


# vLLM


def test_a_python_without_vllm_is_told(bench: ModuleType, table: ModuleType, tmp_path: Path):
    (line, _) = table.chosen(table.all_lines(False, (16,), (), ()), "vllm")
    options: Any = SimpleNamespace(vllm_python="false")  # a program that fails, as its import does
    with pytest.raises(bench.NotWritten, match="not installed"):
        bench.by_vllm(line, None, options, tmp_path)


def test_vllm_writes_in_a_process_that_knows_nothing_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    of_vllm = load_script("bench_predict_vllm")
    asked: dict[str, Any] = {}

    class LLM:
        def __init__(self, **options: Any) -> None:
            asked["engine"] = options

        def reset_prefix_cache(self) -> None:
            asked["resets"] = asked.get("resets", 0) + 1

        def generate(self, prompts: list[Any], how: Any, use_tqdm: bool) -> list[Any]:
            asked["how"] = how
            ids = [[number + 1 for number in prompt["prompt_token_ids"]] for prompt in prompts]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=of)]) for of in ids]

    stand_in = SimpleNamespace(LLM=LLM, SamplingParams=dict)
    monkeypatch.setitem(__import__("sys").modules, "vllm", stand_in)
    task = {"model": "m", "dtype": "bfloat16", "prompts": [[4], [7, 8]], "longest": 2, "trials": 2}
    task |= {"new_tokens": 9, "ends": True, "end_ids": [2], "at_a_time": 1024, "num_warm_up": 1}
    (tmp_path / "task.json").write_text(json.dumps({**task, "started": 0.0}))
    of_vllm.main(str(tmp_path / "task.json"), str(tmp_path / "result.json"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ids"] == [[5], [8, 9]]
    assert (len(result["trials"]), asked["resets"]) == (2, 2)
    assert asked["how"] == {
        **{"temperature": 0.0, "max_tokens": 9, "detokenize": False, "stop_token_ids": [2]}
    }
    wanted = {"model": "m", "max_model_len": 11, "max_num_seqs": 1024}
    assert {name: asked["engine"][name] for name in wanted} == wanted
    assert asked["engine"]["compilation_config"] == {"max_cudagraph_capture_size": 1024}
    assert not {"amazon_desc", "torch"} & set(vars(of_vllm))


# All of it


# with a card they would write there, in half precision, and other texts
on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a card")


@on_a_cpu
@pytest.mark.slow
def test_all_lines_write_the_same_texts_on_the_base_that_ships(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    written = tmp_path / "found.json"
    arguments = ["--titles", "6", "--new-tokens", "6", "--batch-sizes", "4", "--trials", "1"]
    arguments += ["--at-a-time", "2", "--set", "temperature=0.7", "--folder", str(tmp_path / "f")]
    arguments += ["--vllm-python", "false", "--json", str(written)]
    assert bench.main(arguments) == 0
    report = json.loads(written.read_text())
    rows = {row["name"]: row for row in report["lines"]}
    for name, row in rows.items():
        if row["side"] == "vllm":
            assert row["error"] == "not installed"
            continue
        assert (row["num_titles"], row["num_tokens"]) == (6, 36)
        assert row["tokens_per_second"] > 0
        is_compared = name != "ours, plain" and not row["settings"]
        assert row.get("same_texts") == (1.0 if is_compared else None), name
    assert rows["ours, plain, 2 at a time"]["at_a_time"] == 2
    assert rows["generate, unmerged, 32 titles"]["at_a_time"] == 32
    assert {"device", "load at the beginning", "versions", "commit"} <= set(report["facts"])
    printed = capsys.readouterr().out
    assert "Best of generate, merged, static: 4 at a time: we are" in printed
    assert "vLLM, as it comes: not installed" in printed


@on_a_cpu
@pytest.mark.triton
@pytest.mark.slow
def test_the_fused_engine_is_measured_with_its_busy_slots(
    bench: ModuleType,
    work: ModuleType,
    table: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """3 texts of 2 tokens in 2 slots, on kernels as Triton interprets them: short prompts do."""
    base = shallow_base(tmp_path / "base")
    arguments = ["--base", str(base), "--titles", "3", "--new-tokens", "2"]
    options = bench.build_parser().parse_args(arguments)
    options.ends = False
    given = bench.bench_of(options, tmp_path)
    short = [prompt._replace(ids=prompt.ids[-5:]) for prompt in given.prompts]
    given = replace(given, prompts=short)
    plan = WritingPlan("fused", "", 2, is_merged=True, is_exact=True)
    monkeypatch.setattr(work, "planned", lambda *_: plan)
    monkeypatch.setattr(work, "PREFILLED", 16)
    monkeypatch.setattr(work, "WARM_UP_TITLES", 1)
    fused, plain = table.chosen(table.all_lines(True, (4,), (), ()), "fused; plain")
    found, texts = work.measure(given, fused)
    assert (found["num_tokens"], found["at_a_time"]) == (6, 2)
    # rounds of 2 steps: one for each text, one more until its end is seen, and one at the end
    assert found["busy"] == 6 / (2 * 2 * (2 + 2 + 1))
    assert texts == work.measure(given, plain)[1]
