"""What scripts/bench_train.py promises: equal tasks, the right numbers, a line for whatever fails.

No peer need be installed: their processes are stand-ins here. Ours is run for real, on the base
that ships.
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import yaml

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.reading.records import Product
from amazon_desc.model.backbone import load_backbone
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import load_script, slow_case

random_base = load_script("random_base")
work = load_script("bench_train_work")
bench = load_script("bench_train")

TASK = {"limit": 800e12, "flops_per_token": 4_000_000_000, "row_tokens": 2000.0}


def line(name: str) -> Any:
    (found,) = bench.chosen(name)
    return found


# The task


def test_products_have_the_real_data_sets_lengths_in_tokens(tmp_path: Path):
    tokenizer = load_tokenizer(TINY_BASE)
    random_base.write_products(tmp_path / "a.jsonl", tokenizer, 2_000)
    products = [json.loads(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len({product["title"] for product in products}) == 2_000
    settings = yaml.safe_load(bench.QLORA.read_text())["data"]
    prompt = PromptSettings(settings["prompt"]["template"])
    whole = Encoder(tokenizer, prompt, 4_000)
    limited = Encoder(tokenizer, prompt, settings["max_seq_length"])
    read = [Product(product["title"], product["content"]) for product in products]
    examples = whole.examples(read)
    descriptions = [len(e.input_ids) - e.num_prompt_tokens - 1 for e in examples]
    assert 112 <= median(descriptions) <= 124  # 118 are published
    share = sum(e.ending != "whole" for e in limited.examples(read)) / 2_000
    assert 0.20 <= share <= 0.26


def test_products_are_the_same_each_time(tmp_path: Path):
    tokenizer = load_tokenizer(TINY_BASE)
    for name in ("a", "b"):
        random_base.write_products(tmp_path / name, tokenizer, 20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("shape", ["tinyllama", "gemma3-4b"])
def test_a_random_base_is_loaded_as_any_other(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kind, settings = random_base.SHAPES[shape]
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    monkeypatch.setitem(random_base.SHAPES, shape, (kind, {**settings, **small}))
    base = random_base.make_base(shape, tmp_path)
    assert random_base.make_base(shape, tmp_path) == base == tmp_path / shape
    model = load_backbone(find_backbone(str(base)), "nf4", torch.float32, torch.device("cpu"))
    assert model.config.vocab_size == {"tinyllama": 32_000, "gemma3-4b": 262_208}[shape]
    assert load_tokenizer(base).eos_token_id == 2
    assert not list(tmp_path.glob("*.partial"))


def test_the_arithmetic_of_a_token_is_that_of_the_shape(tmp_path: Path):
    from transformers import AutoConfig

    for shape, num_weights in (("tinyllama", 1_034_420_224), ("gemma3-4b", 3_879_895_040)):
        kind, settings = random_base.SHAPES[shape]
        AutoConfig.for_model(kind, **settings).save_pretrained(tmp_path / shape)
        assert work.flops_of(tmp_path / shape) == 4 * num_weights


def test_peers_get_the_examples_that_our_rows_are_packed_from():
    rows = [{"input_ids": [1, 7, 8, 2, 1, 5, 2], "lengths": [4, 3], "prompt_lengths": [2, 1]}]
    assert list(work.examples(rows)) == [[1, 7, 8, 2], [1, 5, 2]]


def test_a_step_has_as_many_tokens_as_its_name_says():
    assert {row.name: row.tokens_per_step for row in bench.LINES} == {
        **dict.fromkeys(["ours-2k", "ours-2k-dropout", "ours-plain", "bare-2k"], 2_048),
        **dict.fromkeys(["ours-16k", "ours-16k-dropout", "bare-16k"], 16_384),
        **dict.fromkeys(["trl-reference", "trl-8-rows", "unsloth-8-rows"], 2_048),
        **dict.fromkeys(["liger-64-rows", "unsloth-64-rows"], 16_384),
    }


# Which lines are run


def test_lines_are_chosen_by_name_and_by_side():
    names = [row.name for row in bench.chosen("bare,trl-8-rows")]
    assert names == ["bare-2k", "bare-16k", "trl-8-rows"]
    assert bench.chosen(None) == list(bench.LINES)


def test_an_unknown_line_is_refused_with_all_names(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench.main(["--only", "ours-2k,nobody"])
    assert "wanted some of ours, bare, trl, liger, unsloth, ours-2k" in capsys.readouterr().err


# The numbers


def test_speed_is_that_of_the_later_windows_and_ready_the_first_at_that_speed():
    windows = [(107.0, 10.0), (108.0, 90.0), (109.0, 100.0), (110.0, 102.0)]
    assert bench.outcome(windows, 100.0) == {"tokens_per_second": 101.0, "ready_seconds": 7.0}
    assert bench.outcome(windows[2:], 100.0)["ready_seconds"] == 9.0  # no earlier one is known


def test_a_line_has_its_share_of_the_limit_and_is_compared_with_as_large_a_step_of_ours():
    ours = [
        bench.completed(line(name), 9, {"tokens_per_second": speed}, [], TASK)
        for name, speed in (("ours-2k", 80e3), ("ours-2k-dropout", 70e3), ("ours-16k", 100e3))
    ]
    assert ours[0]["share_of_limit"] == 0.4  # 80,000 x 4e9 of 800e12
    assert "we_are" not in ours[0]
    small = bench.completed(line("trl-8-rows"), 9, {"tokens_per_second": 8e3}, ours, TASK)
    large = bench.completed(line("liger-64-rows"), 9, {"tokens_per_second": 20e3}, ours, TASK)
    assert (small["we_are"], large["we_are"]) == (10.0, 5.0)


def test_the_trainers_overhead_is_what_it_adds_to_the_bare_step():
    rows = [
        bench.completed(line(name), 9, {"tokens_per_second": speed}, [], TASK)
        for name, speed in (("ours-2k", 80e3), ("bare-2k", 100e3), ("bare-16k", 120e3))
    ]
    assert bench.overheads(rows) == {"2,048 tokens": 0.25}


# What goes wrong becomes a line


def options(**given: Any) -> Any:
    return bench.build_parser().parse_args([f"--{name}={value}" for name, value in given.items()])


@pytest.mark.parametrize(("card", "seen"), [(0, "3"), (1, "5"), (None, "3,5")])
def test_a_command_sees_the_card_that_it_is_given(
    card: int | None, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    program = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    command = [sys.executable, "-c", program]
    assert bench.call(command, tmp_path, 60, card=card) == (None, f"{seen}\n")


def test_a_peers_numbers_come_back_from_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    numbers = {"tokens_per_second": 740.0, "ms_per_step": 2767.6, "peak_gib": 3.2}
    given: dict[str, Any] = {}

    def call(command: list[str], *_: Any, card: int | None) -> tuple[None, str]:
        given.update(json.loads(Path(command[-2]).read_text()), card=card)
        Path(command[-1]).write_text(json.dumps(numbers))
        return None, "noise"

    monkeypatch.setattr(bench, "call", call)
    monkeypatch.setattr(bench, "is_installed", lambda name, site: True)
    task = {**TASK, "folder": str(tmp_path)}
    assert bench.measure(line("trl-reference").on(2), 8, task, options()) == numbers
    assert given["card"] is None
    assert bench.measure(line("trl-reference"), 8, task, options()) == numbers
    assert given["card"] == 0
    wanted = {"side": "trl", "rows": 1, "accumulate": 8, "checkpointing": True, "liger": False}
    assert {name: given[name] for name in wanted} == wanted
    bench.measure(line("liger-64-rows"), 8, task, options())
    assert (given["side"], given["rows"], given["liger"]) == ("trl", 64, True)


def test_a_peer_that_is_not_installed_or_has_no_card_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    task = {**TASK, "folder": str(tmp_path)}
    monkeypatch.setattr(bench, "is_installed", lambda name, site: name == "trl")
    found = bench.measure(line("liger-64-rows"), 8, task, options())
    assert found["error"] == "not installed: liger_kernel"
    found = bench.measure(line("trl-8-rows"), 8, {**task, "limit": None}, options())
    assert found["error"] == "needs a GPU"
    row = bench.completed(line("trl-8-rows"), 8, found, [], TASK)
    assert bench.row_of(row) == "trl-8-rows        needs a GPU"


def test_unsloth_is_found_in_a_folder_of_its_own(tmp_path: Path):
    (tmp_path / "unsloth_that_is_nowhere_else").mkdir()
    assert bench.is_installed("unsloth_that_is_nowhere_else", tmp_path)
    assert not bench.is_installed("unsloth_that_is_nowhere_else", None)


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("raise MemoryError('CUDA out of memory')", "MemoryError: CUDA out of memory"),
        ("import sys; print('error: no such base'); sys.exit(2)", "error: no such base"),
        ("import os; os._exit(9)", "ended with code 9"),
        slow_case("import time; time.sleep(60)", "took longer than 2 s"),
    ],
)
def test_a_process_that_fails_leaves_its_error(program: str, failure: str, tmp_path: Path):
    found, output = bench.call([sys.executable, "-c", program], tmp_path, 2)
    assert found == failure
    assert "Traceback" in output or "Traceback" not in failure


def test_an_error_is_found_among_what_is_printed_after_it():
    output = "Traceback (most recent call last):\n  x\ntorch.OutOfMemoryError: CUDA\nbye\n"
    assert bench.last_error(output) == "torch.OutOfMemoryError: CUDA"
    assert bench.last_error("\n") is None


# All of it


@pytest.mark.slow
def test_ours_is_measured_through_fit_on_data_that_was_prepared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(bench, "is_installed", lambda name, site: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # its processes train on the CPU anywhere
    folder, written = tmp_path / "kept", tmp_path / "result.json"
    arguments = ["--shape", "tiny", "--only", "ours-2k,bare-2k,trl-8-rows", "--steps", "4"]
    arguments += ["--products", "200", "--folder", str(folder), "--json", str(written)]
    assert bench.main(arguments) == 0
    report = json.loads(written.read_text())
    ours, bare, trl = report["lines"]
    assert trl["error"] == "not installed: trl"
    for row in (ours, bare):
        assert (row["tokens_per_step"], row["steps"]) == (2048, 4)
        assert row["tokens_per_second"] > 0
        assert 0.5 < row["tokens_per_second"] * row["ms_per_step"] / 1e3 / 2048 <= 1
        assert row["note"] == "Kernels: plain: the device is cpu, not cuda."
    assert 0 < ours["ready_seconds"] < 600
    assert list(report["overhead"]) == ["2,048 tokens"]
    assert {"card", "limit", "versions", "commit", "date", "command"} <= set(report["facts"])
    corpora = [path for path in (folder / "corpora").iterdir() if path.is_dir()]
    assert len(corpora) == 1  # fit found what was prepared
    printed = capsys.readouterr().out
    assert "trl-8-rows        not installed: trl" in printed
    assert "The trainer adds" in printed
