"""What is said cannot steer a terminal, holds nothing secret, and ends no command."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amazon_desc.support.printing import printable, say
from amazon_desc.support.resources import PACKAGE


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


SAYING = """
import sys
from amazon_desc.support.printing import say, spell_out_what_is_not_encoded
spell_out_what_is_not_encoded()
say("Título 茶")
say("second")
print("third", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write("went on")
"""


def test_a_terminal_of_another_encoding_gets_the_letters_spelled_out(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", SAYING, str(tmp_path / "end")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PACKAGE.parent)},
        check=True,
    )
    assert done.stdout == rb"T\xedtulo \u8336" + b"\nsecond\n"


def test_a_reader_that_has_ended_ends_no_command(tmp_path: Path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", SAYING, str(tmp_path / "end")],
        stdout=writing,
        stderr=writing,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == "went on"


def test_another_fault_of_a_stream_is_not_hidden():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        say("lost", file=Full())
