"""Small runs through the command line: what each command reads, writes and keeps."""

import csv
import json
import os
import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from amazon_desc.cli import main
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.evaluation.summary import SCORES
from amazon_desc.generation.plain.generating import padded
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.logger import read_scalars
from amazon_desc.run.scored import read_scored
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from tests.conftest import load_script, slow_case

# 8 rows of 256 tokens are an epoch of 2 steps of 4 rows or so; every run prepares this data once.
SMALL = [
    *("--config", "configs/quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "300", "--data.row_tokens", "256", "--data.num_scored", "6"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.1"),
    *("--model.decoding.max_new_tokens", "8", "--model.lora.r", "4", "--trainer.max_epochs", "1"),
    *("--data.rows_per_step", "2", "--data.batch_size", "2", "--trainer.log_every_n_steps", "1"),
]
FINISHED = [
    *("fit", "run", "--trainer.max_steps", "8", "--trainer.val_check_interval", "3"),
    *("--checkpoint.every_n_steps", "3"),
]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds this file's runs and the prepared data that they share."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def call(folder: Path) -> Callable[..., RunFolder]:
    """Returns a function that runs a command in a named run folder."""

    def call(command: str, name: str, *options: str) -> RunFolder:
        run = folder / name
        place = os.getcwd()
        os.chdir(ROOT)
        try:
            main([command, *SMALL, "--trainer.default_root_dir", str(run), *options])
        finally:
            os.chdir(place)
        return RunFolder(run)

    return call


@pytest.fixture(scope="module")
def run(call: Callable[..., RunFolder]) -> RunFolder:
    """A finished run of 8 steps, validated every 3 and after the last."""
    return call(*FINISHED)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / ADAPTER_WEIGHTS)


def scalars(run: RunFolder) -> dict[str, dict[int, float]]:
    found = read_scalars(run.tensorboard)
    return {name: {point.step: point.value for point in of} for name, of in found.items()}


# fit


def test_a_run_folder_is_laid_out_as_the_readme_says(run: RunFolder) -> None:
    assert {file.name for file in run.path.iterdir()} == {
        *("config.yaml", "checkpoints", "adapter", "tensorboard", "metrics.json", "run.json"),
        *("scored", "report.html", "data_report.json"),
    }
    assert {file.name for file in run.adapter.iterdir()} == {
        *("adapter_model.safetensors", "adapter_config.json", "amazon_desc.json", "README.md"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    names = sorted(file.name for file in run.checkpoints.iterdir())
    assert names == ["step=00000006.ckpt", "step=00000008.ckpt"]


def test_tensorboard_holds_the_curves(run: RunFolder) -> None:
    curves = scalars(run)
    for tag in ("loss", "learning_rate", "gradient_norm", "tokens_per_second"):
        assert len(curves[f"train/{tag}"]) >= 7, tag
        assert all(value > 0 for value in curves[f"train/{tag}"].values()), tag
    assert len(curves["validation/loss"]) == 3
    for score in ("perplexity", "rougeL", "ended"):
        assert set(curves[f"validation/{score}"]) == set(curves["validation/loss"])
    assert "hp_metric" not in curves
    series = {file.parent.name for file in run.tensorboard.glob("*/events.*")}
    assert series == {"train", "validation", "base"}


def test_tensorboard_ends_with_the_scores_and_the_options_they_came_from(run: RunFolder) -> None:
    curves, scores = scalars(run), json.loads(run.metrics.read_text())["validate"]
    for side in ("base", "tuned"):
        found = {name: curves[f"{side}/{name}"] for name in scores[side]}
        assert found == {name: {7: pytest.approx(of)} for name, of in scores[side].items()}
    events = EventAccumulator(str(run.tensorboard)).Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["LoRA r"].number_value == 4
    assert options["backbone"].string_value == "tiny"


def test_tensorboard_holds_text_samples_of_held_out_titles(run: RunFolder) -> None:
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    (tag,) = events.Tags()["tensors"]
    assert tag == "samples/text_summary"
    samples = [e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)]
    assert [text.partition("\n")[0] for text in samples] == [
        *["| title | reference | tuned |"] * 3,
        "| title | reference | base | tuned |",
    ]
    num_titles = len(run.scored("validate").read_text("utf-8").splitlines())
    assert [text.count("\n") for text in samples] == [
        1 + min(most, num_titles) for most in (16, 16, 16, 20)
    ]


def test_a_checkpoint_holds_what_training_changes_and_loads_without_pickle(run: RunFolder) -> None:
    checkpoint = torch.load(run.checkpoints / "step=00000008.ckpt", weights_only=True)
    assert checkpoint["state_dict"]
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert checkpoint["global_step"] == 8
    assert checkpoint["DescriptionData"]["num_trained_rows"] == 16
    assert checkpoint["optimizer_states"][0]["state"][0]["step"] == 8
    assert checkpoint["identity"]["quantization"] == "nf4"
    assert "hyper_parameters" not in checkpoint


def test_the_adapter_is_the_one_with_the_lowest_validation_loss(run: RunFolder) -> None:
    losses = scalars(run)["validation/loss"]
    tuned = json.loads(run.metrics.read_text())["validate"]["tuned"]["loss"]
    assert tuned == pytest.approx(min(losses.values()), rel=1e-5)


def test_without_validation_the_adapter_holds_the_last_weights(call) -> None:
    run = call("fit", "unvalidated", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0")
    newest = torch.load(run.checkpoint_files()[0], weights_only=True)["state_dict"]
    saved = weights(run)
    assert saved
    for name, tensor in saved.items():
        stem, suffix = name.rsplit(".", 1)
        assert torch.equal(newest[f"network.{stem}.default.{suffix}"], tensor)


def test_accumulated_uneven_batches_give_the_step_of_one_big_batch(call) -> None:
    """SGD moves the weights by the gradient itself; Adam would blow up the noise of its zeros."""
    options = (
        *("--trainer.max_steps", "3", "--trainer.val_check_interval", "100"),
        *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.3"),
    )
    options += ("--data.rows_per_step", "6")
    big = call("fit", "big", "--data.batch_size", "6", *options)
    small = call("fit", "small", "--data.batch_size", "2", *options)
    assert scalars(small)["train/loss"] == pytest.approx(scalars(big)["train/loss"], rel=1e-5)
    norms = (scalars(run)["train/gradient_norm"] for run in (small, big))
    assert next(norms) == pytest.approx(next(norms), rel=1e-4)
    expected = weights(big)
    for name, tensor in weights(small).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


def test_a_finished_run_says_so_and_does_nothing(run: RunFolder, call, capsys) -> None:
    before = {f: f.stat().st_mtime_ns for f in run.path.rglob("*") if f.is_file()}
    with pytest.raises(SystemExit, match="0"):
        call(*FINISHED)
    assert "This run is finished" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in run.path.rglob("*") if f.is_file()} == before


@pytest.mark.slow
def test_a_run_that_ended_before_it_was_scored_is_scored_when_run_again(call, capsys) -> None:
    options = ("--trainer.max_steps", "4", "--checkpoint.every_n_steps", "2")
    run = call("fit", "unscored", *options)
    expected = run.metrics.read_text()
    expected_weights = weights(run)
    run.metrics.unlink()
    run.record.write_text("{}")
    call("fit", "unscored", *options)
    assert f"Resuming from {run.checkpoints / 'step=00000004.ckpt'}" in capsys.readouterr().out
    assert run.metrics.read_text() == expected
    assert all(torch.equal(t, expected_weights[n]) for n, t in weights(run).items())
    assert run.is_finished()


def test_a_whole_epoch_ends_with_every_row_trained_on_once(call) -> None:
    rows = ("--data.rows_per_step", "3", "--data.batch_size", "3")
    few = ("--data.num_products", "40", *rows, "--trainer.max_epochs", "2")
    run = call("fit", "few/epoch", *few)
    manifest = json.loads(next((run.path.parent / "corpora").glob("*/manifest.json")).read_text())
    num_rows = manifest["counts"]["num_rows"]
    newest = torch.load(run.checkpoint_files()[0], weights_only=True)
    assert newest["DescriptionData"]["num_trained_rows"] == 2 * num_rows
    assert newest["global_step"] == -(-2 * num_rows // 3)
    assert max(scalars(run)["validation/loss"]) == newest["global_step"] - 1
    epochs = scalars(run)["epoch"]
    assert epochs[max(epochs)] == 2
    assert list(epochs.values()) == sorted(epochs.values())


@pytest.mark.slow
def test_a_shop_with_40_products_can_train_and_is_scored(
    tmp_path: Path, call: Callable[..., RunFolder]
) -> None:
    shop = tmp_path / "shop.csv"
    with shop.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "content"])
        writer.writerows([f"Oak Desk No. {n}", f"Desk {n} lasts for long."] for n in range(40))
    options = ("shop", "--data.train_file", str(shop), "--data.validation_fraction", "0.01")
    options += ("--data.test_fraction", "0.01")
    run = call("fit", *options)
    assert (run.adapter / ADAPTER_WEIGHTS).is_file()
    assert len(scalars(run)["validation/loss"]) == 1
    for command in ("validate", "test"):
        call(command, *options)
    scores = json.loads((run.path / "metrics.json").read_text())
    assert set(scores) == {"validate", "test"}
    for of in scores.values():
        assert 0 < of["tuned"]["loss"] < of["base"]["loss"]


# validate and test


def test_validate_writes_the_scores_that_fit_ended_with(run: RunFolder, call) -> None:
    expected = json.loads(run.metrics.read_text())
    assert set(expected) == {"validate"}
    assert set(expected["validate"]) == {
        *("base", "tuned", "intervals", "compared"),
        *("measured_on", "signatures", "decoding"),
    }
    assert expected["validate"]["decoding"]["max_new_tokens"] == 8
    for weights in ("base", "tuned"):
        scores, intervals = (
            expected["validate"][weights],
            expected["validate"]["intervals"][weights],
        )
        assert set(scores) == set(intervals) == set(SCORES)
        for name, of in intervals.items():
            assert of["value"] == scores[name]
            assert of["low"] <= of["value"] <= of["high"]
    texts = run.scored("validate").read_text("utf-8")
    run.metrics.unlink()
    run.scored("validate").unlink()
    call("validate", "run")
    assert json.loads(run.metrics.read_text()) == expected
    assert run.scored("validate").read_text("utf-8") == texts


def test_what_was_scored_stands_title_by_title_and_adds_up_to_the_scores(run: RunFolder) -> None:
    scores = json.loads(run.metrics.read_text())["validate"]
    records = [json.loads(line) for line in run.scored("validate").read_text("utf-8").splitlines()]
    assert len(records) == scores["measured_on"]["num_titles"] > 2
    assert len({record["title"] for record in records}) == len(records)
    for side in ("base", "tuned"):
        of = [record[side] for record in records]
        num_targets = sum(one["num_targets"] for one in of)
        assert num_targets == scores["measured_on"]["num_targets"]
        assert sum(one["loss_sum"] for one in of) / num_targets == pytest.approx(
            scores[side]["loss"]
        )
        assert sum(one["num_right"] for one in of) / num_targets == scores[side]["accuracy"]
        rouge = sum(one["rougeL"] for one in of) / len(of)
        assert rouge == pytest.approx(scores[side]["rougeL"])
        assert [one["num_tokens"] <= 8 for one in of] == [True] * len(of)
    found = read_scored(run.scored("validate"), "tuned").intervals()
    assert {name: list(of) for name, of in found.items()} == {
        name: pytest.approx([of["value"], of["low"], of["high"]])
        for name, of in scores["intervals"]["tuned"].items()
    }


def test_test_scores_other_products_and_keeps_the_scores_of_validate(run: RunFolder, call) -> None:
    before = json.loads(run.metrics.read_text())["validate"]
    call("test", "run")
    metrics = json.loads(run.metrics.read_text())
    assert metrics["validate"] == before
    assert metrics["test"]["base"]["loss"] != before["base"]["loss"]


def test_other_commands_leave_the_config_and_the_curves_of_the_fit_alone(
    run: RunFolder, call
) -> None:
    before = {f: f.read_bytes() for f in (run.config, *run.tensorboard.rglob("events.*"))}
    call("validate", "run", "--data.num_scored", "3")
    call("validate", "run")
    assert {f: f.read_bytes() for f in (run.config, *run.tensorboard.rglob("events.*"))} == before


def test_ckpt_path_takes_the_weights_of_a_checkpoint(run: RunFolder, call) -> None:
    checkpoint = str(run.checkpoints / "step=00000008.ckpt")
    other = call("validate", "from_checkpoint", "--ckpt_path", checkpoint)
    losses = scalars(run)["validation/loss"]
    tuned = json.loads(other.metrics.read_text())["validate"]["tuned"]["loss"]
    assert tuned == pytest.approx(losses[max(losses)], rel=1e-5)


def test_any_peft_folder_is_taken_as_adapter_without_our_record(
    run: RunFolder, call, tmp_path: Path
) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_bytes((run.adapter / name).read_bytes())
    other = call("validate", "from_folder", "--model.adapter", str(tmp_path))
    validated = json.loads(run.metrics.read_text())["validate"]
    assert json.loads(other.metrics.read_text()) == {"validate": validated}


@pytest.mark.slow
def test_an_adapter_with_a_regular_expression_is_scored_and_trained_on(
    run: RunFolder, call, tmp_path: Path
) -> None:
    """PEFT takes one for the names of the layers; it says the same of all of them."""
    (tmp_path / ADAPTER_WEIGHTS).write_bytes((run.adapter / ADAPTER_WEIGHTS).read_bytes())
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    config["target_modules"] = r".*\.layers\..*_proj"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    folder = ("--model.adapter", str(tmp_path))
    validated = json.loads(run.metrics.read_text())["validate"]
    assert json.loads(call("validate", "regex", *folder).metrics.read_text())["validate"] == (
        validated
    )
    other = call("fit", "on_from_regex", *folder, "--trainer.max_steps", "1")
    saved = json.loads((other.adapter / "adapter_config.json").read_text())
    assert saved["target_modules"] == config["target_modules"]
    assert set(weights(other)) == set(weights(run))
    found = tmp_path / "found.json"
    with chdir(ROOT):
        options = ["--config", "configs/quickstart.yaml", "--rows", "9", "--json", str(found)]
        load_script("estimate").main([*options, *folder])
    num_bytes = 4 * sum(tensor.numel() for tensor in weights(run).values())
    for path in json.loads(found.read_text())["paths"].values():
        assert path["memory"]["lora"] == num_bytes > 0


def test_fit_starts_from_an_adapter(run: RunFolder, call) -> None:
    other = call(
        *("fit", "continued", "--model.adapter", str(run.adapter), "--trainer.max_steps", "1"),
        *("--model.optimizer.init_args.lr", "1e-9"),
    )
    expected = weights(run)
    for name, tensor in weights(other).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


# predict

TITLES = ["Teal Mug, Large", 'A "quoted" title', "</s> <s>", "Titre à l’œuf", "=1+1", "Lamp"]


def write_titles(path: Path) -> None:
    if path.suffix == ".txt":
        path.write_text("".join(title + "\n" for title in TITLES), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = (json.dumps({"title": title, "content": "x"}) for title in TITLES)
        path.write_text("\n".join(lines))
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"title": title} for title in TITLES]))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"title": TITLES}), path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([["uid", "title"], *(["1", title] for title in TITLES)])


@pytest.mark.parametrize(
    "suffix", ["txt", *map(slow_case, ("csv", "tsv", "jsonl", "json", "parquet"))]
)
def test_predict_writes_one_line_a_title_in_order(
    run: RunFolder, call, tmp_path: Path, suffix: str
) -> None:
    titles = tmp_path / f"titles_{suffix}.{suffix}"
    write_titles(titles)
    call("predict", "run", "--data.titles", str(titles), "--data.generation_batch_size", "4")
    file = run.predictions / f"titles_{suffix}.{suffix}.jsonl"
    predictions = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [prediction["title"] for prediction in predictions] == TITLES
    tags = predictions.pop(TITLES.index("</s> <s>"))
    assert (tags["finish_reason"], tags["reason"]) == ("skipped", "title is empty after cleaning")
    for prediction in predictions:
        assert list(prediction)[:3] == ["row", "title", "description"]
        assert prediction["finish_reason"] in ("stop", "length")
        assert 0 <= prediction["num_tokens"] <= 8
        assert (prediction["finish_reason"] == "length") == (prediction["num_tokens"] == 8)
    assert list(run.predictions.glob("*.partial")) == []


def test_predict_of_a_file_with_bad_records_names_their_lines(
    run: RunFolder, call, tmp_path: Path, capsys
) -> None:
    titles = tmp_path / "partly.jsonl"
    titles.write_text('{"title": "Mug"}\n{"title": [3]}\n{"title": "Lamp"}\nnonsense\n')
    call("predict", "run", "--data.titles", str(titles))
    shown = capsys.readouterr().out
    assert "partly.jsonl, line 2: title is not text" in shown
    assert "partly.jsonl, line 4: not valid JSON" in shown
    lines = (run.predictions / "partly.jsonl.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["title"] for record in records] == ["Mug", "", "Lamp", ""]
    assert [record["finish_reason"] == "skipped" for record in records] == [False, True] * 2
    assert [record.get("reason") for record in records] == [
        *(None, "title is not text", None, "not valid JSON"),
    ]


# the adapter without this package


def test_the_lines_of_the_model_card_load_the_adapter_with_our_logits(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (run.adapter / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)  # from any directory
    names: dict = {}
    exec(code, names)
    ours = adapter.load(
        load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu")),
        run.adapter,
        dropout=0.0,
    ).eval()
    prompts = [Prompt(0, names["tokenizer"](title)["input_ids"]) for title in TITLES]
    inputs = dict(zip(("input_ids", "attention_mask"), padded(prompts, pad_id=2), strict=True))
    with torch.no_grad():
        theirs = names["model"].eval()(**inputs).logits
        torch.testing.assert_close(ours(**inputs).logits, theirs, rtol=0, atol=1e-5)
        with ours.disable_adapter():
            assert not torch.allclose(ours(**inputs).logits, theirs, rtol=0, atol=1e-2)
