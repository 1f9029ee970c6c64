"""The quickstart, run as a newcomer runs it, has learnt to describe titles it has never seen."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amazon_desc.data.cleaning.cleaner import Cleaner, Refusal, normalize_title
from amazon_desc.data.corpus.splits import split_at, text_hash
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.prompts import prompts_of
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.evaluation.metrics import score_texts
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.merged import merged
from amazon_desc.generation.plain.writer import write
from amazon_desc.generation.texts import read
from amazon_desc.model import adapter
from amazon_desc.model.backbone import load_backbone
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.hub import find_backbone
from amazon_desc.support.resources import SAMPLE_PRODUCTS, TINY_BASE
from tests.conftest import exit_code, load_script

ROOT = Path(__file__).resolve().parents[1]
NUM_HELD_OUT = 200


def command(*arguments: str) -> str:
    """Runs a command from the checkout and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "amazon_desc", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """The finished quickstart in a folder of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    config = ("--config", "configs/quickstart.yaml")
    return RunFolder(folder), command("fit", *config, "--trainer.default_root_dir", str(folder))


@pytest.fixture(scope="module")
def products() -> dict[str, list[Product]]:
    """The sample's distinct products by split, as quickstart.yaml splits them."""
    cleaner = Cleaner()
    cleaned = [cleaner(p) for p in read_products(SAMPLE_PRODUCTS) if isinstance(p, Product)]
    kept = [p for p in cleaned if not isinstance(p, Refusal)]
    distinct = {p.title: p for p in sorted(kept, key=lambda p: len(p.description))}
    splits: dict[str, list[Product]] = {"train": [], "validation": [], "test": []}
    for product in distinct.values():
        place = text_hash(normalize_title(product.title), "split")
        splits[split_at(place, 0.05, 0.05)].append(product)
    return splits


@pytest.fixture(scope="module")
def texts(quickstart, products, tmp_path_factory) -> dict[str, list[str]]:
    """What base and tuned weights write for the held-out titles."""
    run, _ = quickstart
    titles = [product.title for product in products["validation"][:NUM_HELD_OUT]]
    file = tmp_path_factory.mktemp("titles") / "held_out.txt"
    file.write_text("".join(title + "\n" for title in titles), encoding="utf-8")
    folder = ("--trainer.default_root_dir", str(run.path))
    options = ["--config", str(run.config), *folder, "--data.titles", str(file)]
    assert exit_code(["predict", *options]) == 0
    lines = (run.predictions / "held_out.txt.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "base": base_texts(titles),
        "tuned": [json.loads(line)["description"] for line in lines],
    }


def base_texts(titles: list[str]) -> list[str]:
    tokenizer = load_tokenizer(TINY_BASE)
    encoder = Encoder(tokenizer, PromptSettings(), max_seq_length=256)
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    model = adapter.attach(base, adapter.LoraSettings())
    settings = DecodingSettings(max_new_tokens=96)
    prompts = prompts_of([(title, "") for title in titles], encoder, str, 0)
    texts = write(merged(model, has_lora=False), prompts, settings, [encoder.end_id], 32)
    return [read(text, tokenizer).text for (text,) in texts]


def share_naming_the_item(texts: list[str], titles: list[str]) -> float:
    sample = load_script("make_sample")
    named = 0
    for text, title in zip(texts, titles, strict=True):
        (item,) = [item for item in sample.ITEMS if item.lower() in title.lower()]
        named += item.lower() in text.lower()
    return named / len(titles)


def test_the_sample_has_5000_products_and_the_real_faults() -> None:
    records = [p for p in read_products(SAMPLE_PRODUCTS) if isinstance(p, Product)]
    assert len(records) >= 5_000
    everything = "\n".join(p.title + "\n" + p.description for p in records)
    for fault in ("&#8217;", "&#151;", "&amp;", "--This text refers to the", "<br", "\u200b"):
        assert fault in everything, fault
    assert sum(not p.description for p in records) > 100
    assert sum(not p.title for p in records) > 10
    assert len({(p.title, p.description) for p in records if p.description}) < sum(
        bool(p.description) for p in records
    )


def test_the_tiny_base_is_small_and_in_safetensors() -> None:
    assert (TINY_BASE / "model.safetensors").stat().st_size <= 4 * 1024 * 1024
    assert sorted(file.suffix for file in TINY_BASE.iterdir() if file.suffix != ".json") == [
        ".model",
        ".safetensors",
    ]


def test_held_out_combinations_of_item_colour_and_brand_never_occur_in_training(products) -> None:
    sample = load_script("make_sample")

    def combination(title: str) -> tuple[str, str, str]:
        low = title.lower()
        found = [
            max((name for name in names if name.lower() in low), key=len)
            for names in (sample.ITEMS, sample.COLOURS, sample.BRANDS)
        ]
        return found[0], found[1], found[2]

    trained = {combination(product.title) for product in products["train"]}
    held_out = {combination(product.title) for product in products["validation"]}
    assert len(products["validation"]) >= NUM_HELD_OUT
    assert len(trained) > 4_000
    assert not trained & held_out


@pytest.mark.slow
def test_it_prints_where_everything_is_a_table_and_three_samples(quickstart) -> None:
    run, shown = quickstart
    for name in ("adapter/", "metrics.json", "tensorboard/", "checkpoints/", "config.yaml"):
        assert name in shown, name
    assert f"Everything is in {run.path}" in shown
    for row in ("loss", "perplexity", "ROUGE-1", "ROUGE-L", "BLEU"):
        assert f"\n{row} " in shown, row
    for kind in ("reference", "base", "tuned"):
        assert shown.count(f"\n   {kind} ") == 3, kind


@pytest.mark.slow
def test_the_base_knows_english_but_not_the_task_and_the_tuned_one_has_learnt_it(
    quickstart,
) -> None:
    run, _ = quickstart
    scores = json.loads(run.metrics.read_text())["validate"]
    vocabulary = json.loads((TINY_BASE / "config.json").read_text())["vocab_size"]
    assert scores["base"]["loss"] < math.log(vocabulary)
    assert scores["tuned"]["loss"] <= 0.7 * scores["base"]["loss"]
    assert scores["tuned"]["rougeL"] > scores["base"]["rougeL"]


@pytest.mark.slow
def test_tuned_texts_name_the_item_of_titles_never_seen_and_the_base_does_not(
    texts, products
) -> None:
    titles = [product.title for product in products["validation"][:NUM_HELD_OUT]]
    assert len(titles) == NUM_HELD_OUT
    assert share_naming_the_item(texts["tuned"], titles) >= 0.8
    assert share_naming_the_item(texts["base"], titles) <= 0.2


@pytest.mark.slow
def test_a_tuned_text_fits_its_own_title_better_than_another(texts, products) -> None:
    references = [product.description for product in products["validation"][:NUM_HELD_OUT]]
    own = score_texts(texts["tuned"], references)
    shuffled = score_texts(texts["tuned"], [*references[1:], references[0]])
    assert own["rougeL"] > shuffled["rougeL"]
