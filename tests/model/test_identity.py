"""Weights meet only the base, quantisation and prompt that they were trained with."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.data.encoding.prompts import Frame
from amazon_desc.model.identity import (
    OPTIONS,
    Identity,
    check_identity,
    frame_in,
    read_record,
    write_record,
)
from amazon_desc.support.errors import UserError

MINE = Identity(
    backbone="some/base",
    revision="abc",
    base_sha256="1" * 64,
    quantization="nf4",
    template="Title: {title}",
    is_chat=False,
    system="Be brief.",
    base_files={"config.json": "c" * 64},
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    write_record(tmp_path, MINE)
    digests = {"adapter_model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert json.loads((tmp_path / "amazon_desc.json").read_text()) == {
        "backbone": "some/base",
        "revision": "abc",
        "base_sha256": "1" * 64,
        "quantization": "nf4",
        "template": "Title: {title}",
        "is_chat": False,
        "system": "Be brief.",
        "base_files": {"config.json": "c" * 64},
        "frame": None,
        "files": digests,
    }
    record = read_record(tmp_path)
    assert record == {**MINE.as_dict(), "files": digests}
    write_record(tmp_path, MINE)  # its own digest is not in it
    assert read_record(tmp_path) == record
    check_identity(record, MINE, "the adapter")


def test_a_folder_of_peft_has_no_record(tmp_path: Path):
    assert read_record(tmp_path) is None


def test_the_same_base_under_another_name_fits():
    check_identity({**MINE.as_dict(), "backbone": "/a/copy", "revision": None}, MINE, "x")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "base_sha256",
            "2" * 64,
            "the adapter a was trained with --model.backbone 'some/base (sha256 222222222222)', "
            "this run has 'some/base (sha256 111111111111)'. "
            "Set --model.backbone to what it was trained with.",
        ),
        (
            "quantization",
            "none",
            "the adapter a was trained with --model.quantization 'none', this run has 'nf4'. "
            "Set --model.quantization to what it was trained with.",
        ),
        (
            "template",
            "Say {title}",
            "the adapter a was trained with --data.prompt.template 'Say {title}', this run has "
            "'Title: {title}'. Set --data.prompt.template to what it was trained with.",
        ),
        (
            "is_chat",
            True,
            "the adapter a was trained with --data.prompt.chat True, this run has False. "
            "Set --data.prompt.chat to what it was trained with.",
        ),
        (
            "system",
            None,
            "the adapter a was trained with --data.prompt.system None, this run has 'Be brief.'. "
            "Set --data.prompt.system to what it was trained with.",
        ),
        (
            "template",
            "Title: {title}\\nText:",
            "the adapter a was trained with --data.prompt.template 'Title: {title}\\\\nText:', "
            "this run has 'Title: {title}'. Its \\n was learnt as text, and is a line end now: "
            "train it again.",
        ),
    ],
)
def test_a_mismatch_is_refused_with_both_values_and_the_option(key: str, value: Any, message: str):
    with pytest.raises(UserError) as error:
        check_identity({**MINE.as_dict(), key: value}, MINE, "the adapter a")
    assert str(error.value) == message


def test_a_record_from_before_there_were_system_messages_has_none():
    found = MINE.as_dict()
    del found["system"]
    check_identity(found, replace(MINE, system=None), "the adapter")
    with pytest.raises(
        UserError, match=r"with --data\.prompt\.system None, this run has 'Be brief"
    ):
        check_identity(found, MINE, "the adapter")


def test_another_file_of_the_base_is_refused_by_its_name():
    """Rotary positions, norms and chat templates are in files beside the weights."""
    found = {**MINE.as_dict(), "base_files": {"config.json": "d" * 64, "merges.txt": "e" * 64}}
    with pytest.raises(UserError) as error:
        check_identity(found, MINE, "the adapter a")
    assert str(error.value) == (
        "the adapter a was trained with a base whose config.json has the sha256 dddddddddddd, that "
        "of --model.backbone some/base has cccccccccccc. Put that file back, or set "
        "--model.backbone and --model.revision to what it was trained with."
    )


def test_a_record_from_before_such_files_counted_is_taken():
    found = MINE.as_dict()
    del found["base_files"], found["frame"]
    check_identity(found, MINE, "the adapter")
    assert frame_in(found) is None


def test_the_frame_of_a_chat_template_comes_back_from_a_record(tmp_path: Path):
    frame = Frame("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>\n")
    write_record(tmp_path, replace(MINE, is_chat=True, frame=list(frame)))
    assert frame_in(read_record(tmp_path)) == frame
    assert frame_in(None) is None


@pytest.mark.parametrize("found", ["text", ["a", "b"], ["a", "b", 3], {"before": "a"}])
def test_a_frame_of_another_form_is_refused(found: Any):
    with pytest.raises(UserError, match="wanted three texts of a chat template as its frame"):
        frame_in({**MINE.as_dict(), "frame": found})


def test_only_what_is_asked_for_is_compared():
    found = {**MINE.as_dict(), "template": "Say {title}", "quantization": "none"}
    check_identity(found, MINE, "the adapter", keys=["base_sha256"])
    with pytest.raises(UserError, match=r"--data\.prompt\.template"):
        check_identity(found, MINE, "the adapter", keys=["template"])


@pytest.mark.parametrize("found", [None, {}, "text", {"base_sha256": "1" * 64}])
def test_what_is_no_record_is_refused(found: Any):
    with pytest.raises(UserError, match="the checkpoint was not written by amazon_desc: wanted"):
        check_identity(found, MINE, "the checkpoint")


def test_every_compared_key_belongs_to_the_record():
    keys = ["base_sha256", "base_files", "quantization", "template", "is_chat", "system"]
    assert list(OPTIONS) == keys
    assert set(OPTIONS) < set(MINE.as_dict())


@pytest.mark.parametrize("text", ['{"backbone"', "[1, 2]"])
def test_a_damaged_record_is_refused_by_its_path(text: str, tmp_path: Path):
    (tmp_path / "amazon_desc.json").write_text(text)
    with pytest.raises(UserError, match=r"amazon_desc\.json.*wanted"):
        read_record(tmp_path)
