"""A card says what is known, and no text in it ends its YAML, a table or a fence."""

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from amazon_desc.export.card import Use, card_of, span
from amazon_desc.export.facts import Facts, files_in, license_of, metadata_of, without_paths

SETTINGS = {"--data.num_scored": 200, "--data.validation_fraction": 0.05, "--model.lora.r": 16}
FACTS = Facts(
    base="TinyLlama/TinyLlama_v1.1",
    is_on_hub=True,
    revision="abc123",
    base_sha256="1" * 64,
    license="apache-2.0",
    quantization="nf4",
    precision="bf16-mixed",
    settings=SETTINGS,
    files=[{"use": "train", "name": "shop.csv", "sha256": "2" * 64}],
    counts={
        "num_records": 6_500,
        "num_pairs": 5_440,
        "splits": {"train": 4_944, "validation": 150, "test": 246},
        "refused": {"empty_title": 180},
        "num_tokens": 504_149,
        "num_target_tokens": 311_824,
    },
    num_steps=261,
    scores={"validate": {"base": {"loss": 6.79}, "tuned": {"loss": 0.7366}, "decoding": {"a": 1}}},
    decoding={"a": 1},
    versions={"torch": "2.13.0+cpu"},
    exported_with={"amazon_desc": "0.1.0"},
)
USE = Use("With transformers", "Nothing else.", "python", "print('```')")


def card(facts: Facts = FACTS, kind: Any = "merged") -> str:
    return card_of(kind, facts, "What it is.", "The prompt:\n\n```text\n{title}\n```\n", [USE])


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_is_what_the_hub_reads():
    assert front(card()) == {
        "license": "apache-2.0",
        "base_model": "TinyLlama/TinyLlama_v1.1",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["product-descriptions", "amazon_desc"],
    }
    assert front(card(kind="adapter"))["base_model_relation"] == "adapter"
    assert front(card(kind="adapter"))["tags"][0] == "lora"
    assert front(card(kind="gguf"))["library_name"] == "gguf"
    assert ModelCard(card()).data.base_model == "TinyLlama/TinyLlama_v1.1"


def test_a_base_of_this_machine_is_named_and_not_linked():
    text = card(replace(FACTS, base="shop-base", is_on_hub=False, revision=None, license=None))
    assert not {"base_model", "license"} & set(front(text))
    assert "a local folder named `shop-base`: it is on no hub" in text


def test_all_that_is_known_is_said():
    text = card()
    for words in (
        *("revision: `abc123`", f"sha256 `{'1' * 64}`", "in 4 bits (NF4, double quantisation)"),
        *(f"- train: `shop.csv`, sha256 `{'2' * 64}`", "license: `apache-2.0`"),
        "6,500 records, 5,440 of them used: 4,944 train, 150 validation, 246 test",
        *("left out: 180 empty_title", "504,149 tokens to train on, 311,824 learnt"),
        "`validate`: the first 150 titles that were held out for validation (5.0% of all titles)",
        *("| loss | 6.79 | 0.7366 |", "261 optimizer steps, computed in bf16-mixed"),
        *("--model.lora.r: 16", "Trained with torch 2.13.0+cpu.", "amazon_desc 0.1.0"),
    ):
        assert words in text
    assert "other settings" not in text


def test_what_is_not_known_is_said_too():
    text = card(replace(FACTS, counts={}, scores={}, versions={}))
    assert "counts: the prepared data was gone" in text
    assert "## Scores\n\nNone were measured." in text
    assert "Trained with unknown." in text


def test_scores_of_other_decoding_settings_say_theirs():
    text = card(replace(FACTS, decoding={"a": 2}))
    assert "Their texts were written with other settings:\n\n```yaml\na: 1\n```" in text


def test_a_test_file_is_what_test_was_measured_on():
    files = [*FACTS.files, {"use": "test", "name": "tst.json.gz", "sha256": "3" * 64}]
    scores = {"test": {"base": {}, "tuned": {"bleu": 2.0}}}
    text = card(replace(FACTS, files=files, scores=scores))
    assert "`test`: 200 titles of `tst.json.gz`, none of them trained on." in text
    assert "| bleu | – | 2 |" in text


ODD = [
    "a`b",
    "``",
    "`a",
    "a|b",
    "a\nb",
    "---",
    "</script><b>",
    "```\n# End",
    "x: [1",
    "é 🧸",
    "\x1b[2J",
]


@pytest.mark.parametrize("odd", ODD)
def test_no_text_ends_what_it_stands_in(odd: str):
    files = [{"use": "train", "name": odd, "sha256": "2" * 64}]
    settings = {**SETTINGS, "--data.title_column": odd}
    facts = replace(
        FACTS, files=files, settings=settings, base=odd, is_on_hub=False, license=odd,
        versions={odd: odd}, precision=odd,
        scores={"validate": {"tuned": {odd: 1.0}}},
    )  # fmt: skip
    text = card(facts)
    assert front(text)["license"] == odd
    fences = re.findall(r"^(```+)(\w+)\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)
    assert [language for _, language, _ in fences] == ["text", "python", "yaml", "yaml"]
    assert yaml.safe_load(fences[-1][2])["--data.title_column"] == odd
    outside = re.sub(r"^(```+)(\w+)\n(.*?)\n\1$", "", text.split("---\n", 2)[2], flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    assert headings == [
        *("Product descriptions from titles", "With transformers", "Base", "Data", "Scores"),
        *("Decoding", "Training", "Limits"),
    ]
    assert "<b>" not in re.sub(r"(`+).*?\1", "", outside)


def test_a_span_is_one_line_of_code():
    assert span("a") == "`a`"
    assert span("a`b|c\nd") == "``a`b¦c d``"
    assert span("`") == "`` ` ``"


def test_no_secret_is_in_a_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_a_test")
    text = card(replace(FACTS, settings={**SETTINGS, "--x": "hf_canary_of_a_test"}))
    assert "canary" not in text


def test_paths_are_cut_to_names():
    assert without_paths("/home/me/shop.csv") == "shop.csv"
    assert without_paths({"name": "/a/b", "list": ["/c/d", 1, None]}) == {
        "name": "b",
        "list": ["d", 1, None],
    }
    assert without_paths("torch.optim.AdamW") == "torch.optim.AdamW"
    found = files_in({"--data.train_file": [{"name": "/a/shop.csv", "sha256": "5"}]})
    assert found == [{"use": "train", "name": "shop.csv", "sha256": "5"}]


@pytest.mark.parametrize(
    ("readme", "license"),
    [
        ("---\nlicense: gemma\n---\n# Gemma\n", "gemma"),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\n: : [\n---\n", None),
        ("# No front\n", None),
        (None, None),
    ],
)
def test_a_license_is_what_the_bases_card_says(readme: str | None, license: str | None, tmp_path):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert license_of(tmp_path) == license


def test_metadata_leaves_out_what_is_not_known():
    found = metadata_of(replace(FACTS, license=None), "shop", "Title: {title}")
    assert found["base_model_repo_url"] == "https://huggingface.co/TinyLlama/TinyLlama_v1.1"
    assert "license" not in found
    assert (found["name"], found["prompt"]) == ("shop", "Title: {title}")
