"""What is said cannot steer a terminal, and holds no token."""

import sys

import pytest

from amazon_desc.support.printing import printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Red Mug", "Red Mug"),
        ("Título 茶 🍵", "Título 茶 🍵"),
        ("Mug\x1b[2J\nred\tblue", "Mug\\x1b[2J red blue"),
        ("\x9b31m \u202e \ud800", "\\x9b31m \\u202e \\ud800"),
    ],
)
def test_what_is_not_printable_is_spelled_out(text: str, shown: str):
    assert printable(text) == shown


def test_a_text_keeps_its_lines(capsys: pytest.CaptureFixture[str]):
    say("\n  one\n  two\x07\n")
    say("three", file=sys.stderr)
    captured = capsys.readouterr()
    assert captured.out == "\n  one\n  two\\x07\n\n"
    assert captured.err == "three\n"


def test_the_token_of_the_environment_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    say("--token hf_canary is no option")
    monkeypatch.setenv("HF_TOKEN", "")
    say("hf_canary")
    assert capsys.readouterr().out == "--token *** is no option\nhf_canary\n"
