"""Tokens, keys and passwords are masked wherever they come from; other words stay."""

from pathlib import Path

import pytest

from amazon_desc.support import secrets
from amazon_desc.support.secrets import masked, remember_arguments, remember_options


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "of_options", set())


def test_the_worked_example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert masked("hf_canary at https://me:pw@host") == "*** at https://***@host"


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "COMET_API_KEY"),
        *("DB_PASSWORD", "CLIENT_SECRET", "my_token", "KEY_PASSPHRASE"),
    ],
)
def test_what_the_environment_holds_under_such_a_name_is_masked(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, "neverToBeShown")
    assert masked("neverToBeShown, and neverToBeShown/again") == "***, and ***/again"


def test_the_longer_of_two_secrets_leaves_no_end_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_KEY", "secret-word")
    monkeypatch.setenv("B_KEY", "secret-word-and-more")
    assert masked("secret-word-and-more") == "***"


@pytest.mark.parametrize(
    ("name", "value"), [("A_KEY", "short"), ("A_KEY", ""), ("KEYS", "longer value")]
)
def test_words_that_are_no_secrets_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    assert masked(f"a {value} text") == f"a {value} text"


def test_a_path_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSH_KEY", str(tmp_path))
    assert masked(f"in {tmp_path}") == f"in {tmp_path}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf_abcdefghijklmnop0123", "***"),
        ("--model.backbone=hf_abcdefghijklmnop0123: no", "--model.backbone=***: no"),
        ("ghp_abcdefghijklmnop0123 github_pat_11ABCDEFG0123456789_x", "*** ***"),
        ("shelf_abcdefghijklmnop0123", "shelf_abcdefghijklmnop0123"),
        ("hf_hub, hf_home_of_all", "hf_hub, hf_home_of_all"),
        ("http://127.0.0.1:8000/a@b", "http://127.0.0.1:8000/a@b"),
    ],
)
def test_what_looks_like_a_token_is_masked_and_nothing_else(text: str, shown: str):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.logger.api_key=never2BeShown"],
        ["--trainer.logger.init_args.api_key", "never2BeShown"],
    ],
)
def test_what_an_option_is_given_as_a_key_is_masked(arguments: list[str]):
    remember_arguments(["fit", *arguments, "--data.row_tokens", "20480000"])
    assert masked("never2BeShown of 20480000") == "*** of 20480000"


def test_what_a_config_gives_as_a_key_is_masked():
    logger = {"class_path": "CometLogger", "init_args": {"api_key": "never2BeShown", "name": "run"}}
    remember_options({"trainer": {"logger": [logger]}, "data": {"row_tokens": 20480000}})
    assert masked("never2BeShown of CometLogger") == "*** of CometLogger"
