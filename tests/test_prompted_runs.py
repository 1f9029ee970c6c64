"""Prompts through whole runs: two spellings are one run, and the model card writes as predict does.

Each run is two steps of the tiny base, in fp32; its weights have hardly changed, but prompts and
settings decide what is written.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from amazon_desc.cli import main
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.markers import TITLE_SHOWN
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer
from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.export.usage import fenced, literal
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model.identity import Identity, read_record
from amazon_desc.run.checkpoints import read_checkpoint, serialized, write_sealed
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.model_card import model_card
from amazon_desc.support.resources import TINY_BASE

SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "2"),
    *("--data.validation_fraction", "0.1", "--data.test_fraction", "0.1", "--model.lora.r", "4"),
    *("--model.decoding.max_new_tokens", "12", "--trainer.accelerator", "cpu"),
    *("--trainer.precision", "32-true", "--data.row_tokens", "256", "--data.batch_size", "2"),
]

# "<|im_start|>" is plain text for the tiny base, and warned of.
TYPED = r"<|im_start|>Title: {title}\nDescription of {title}:"
MEANT = "<|im_start|>Title: {title}\nDescription of {title}:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of all runs, with a file of the model card's title in it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "titles.txt").write_text(TITLE_SHOWN + "\n")
    return folder


@pytest.fixture
def call(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Returns a function that runs a command in that folder and returns what it says."""
    monkeypatch.chdir(folder)

    def call(command: str, name: str, *options: str) -> str:
        capfd.readouterr()
        where = ("--trainer.default_root_dir", f"runs/{name}", "--data.titles", "titles.txt")
        code: Any = 0
        try:
            main([command, *SMALL, *where, *options])
        except SystemExit as exit_:
            code = exit_.code
        out, err = capfd.readouterr()
        assert not code, err
        return out

    return call


def unfinished(run: RunFolder) -> None:
    """Makes a run one that was killed before its scores were written."""
    run.metrics.unlink()
    run.record.write_text("{}")


# Two spellings


WARNING = "Warning: the prompt holds markers of a chat format"


@pytest.mark.slow
def test_a_run_begun_with_one_spelling_goes_on_with_the_other(call: Callable[..., str]):
    run = RunFolder(Path("runs/my typed one"))
    said = call("fit", "my typed one", "--data.prompt.template", TYPED)
    assert said.count(WARNING) == 1
    assert "    a prompt's line 1: <s> <|im_start|>Title: Navy Rubber Yoga Mat, 6 mm\n" in said
    # its commands can be copied
    assert "tensorboard --logdir 'runs/my typed one'\n" in said
    assert "predict --config 'runs/my typed one/config.yaml' --data.titles titles.txt\n" in said

    record = read_record(run.adapter)
    assert record is not None
    checkpoint = read_checkpoint(run.checkpoint_files()[0])
    assert record["template"] == checkpoint["identity"]["template"] == MEANT
    assert checkpoint["settings"]["--data.prompt.template"] == MEANT
    assert json.loads(run.record.read_text())["settings"]["--data.prompt.template"] == MEANT
    assert f"```text\n{MEANT}\n```" in (run.adapter / "README.md").read_text()

    finished = call("fit", "my typed one", "--data.prompt.template", MEANT)
    assert "This run is finished" in finished
    assert WARNING not in finished
    scores = run.metrics.read_text()
    unfinished(run)
    again = call("fit", "my typed one", "--data.prompt.template", MEANT)
    assert f"Resuming from {run.checkpoint_files()[0]}" in again
    assert "Preparing " not in again
    assert run.metrics.read_text() == scores

    for command in ("validate", "test", "predict"):
        said = call(command, "my typed one", "--data.prompt.template", TYPED)
        assert said.count(WARNING) == 1, command
    assert "All records (1) are in" in call(
        "predict", "my typed one", "--data.prompt.template", MEANT
    )


@pytest.mark.slow
def test_what_was_made_before_there_were_system_messages_goes_on_without_one(
    call: Callable[..., str],
):
    run = RunFolder(Path("runs/before"))
    call("fit", "before")
    call("predict", "before")
    checkpoint = read_checkpoint(run.checkpoint_files()[0])
    del checkpoint["identity"]["system"], checkpoint["settings"]["--data.prompt.system"]
    write_sealed(serialized(checkpoint), run.checkpoint_files()[0])
    file = run.adapter / "amazon_desc.json"
    record = json.loads(file.read_text())
    del record["system"]
    file.write_text(json.dumps(record))
    file = run.predictions / "titles.txt.jsonl.settings.json"
    predicted = json.loads(file.read_text())
    del predicted["settings"]["--data.prompt.system"]
    file.write_text(json.dumps(predicted))

    assert "are in runs/before/predictions/titles.txt.jsonl already" in call("predict", "before")
    call("validate", "before")
    unfinished(run)
    assert "Resuming from runs/before/checkpoints/" in call("fit", "before")


# The model card


CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_chat_base(folder: Path) -> Path:
    """The tiny base with a chat template that writes its end token, and settings that would sample.

    transformers fills what a call of `generate` leaves open from the base's own file.
    """
    shutil.copytree(TINY_BASE, folder)
    for name, settings in (
        ("tokenizer_config.json", {"chat_template": CHAT}),
        ("generation_config.json", {"do_sample": True, "repetition_penalty": 3.0, "num_beams": 2}),
    ):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


ODD = 'Say "{title}", or \'{title}\' \\ {"a": 1} %s \u2028 \u201cTítulo\u201d 🧸 ```\n```python\n#:'
RUNS = {
    "plain": ["--data.prompt.template", ODD],
    "control": ["--data.prompt.template", "<s>Title: {title}</s>\nDescription:"],
    "none": ["--model.quantization", "none"],
    "chat": ["--data.prompt.system", 'You are\na "mug".', "--data.prompt.template", ODD],
    "chat control": ["--data.prompt.template", "</s>Title: {title}</s></s>\nText:"],
    "penalised": ["--model.decoding.repetition_penalty", "2.5"],
    "beams": ["--model.decoding.num_beams", "3", "--model.decoding.min_new_tokens", "11"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_block_of_the_model_card_writes_what_predict_writes(
    name: str, call: Callable[..., str], folder: Path, capfd: pytest.CaptureFixture[str]
):
    options = RUNS[name]
    base = TINY_BASE
    if name.startswith("chat"):
        base = make_chat_base(folder / "bases" / name)
        options = [*options, "--model.backbone", str(base)]
    call("fit", name, *options)
    call("predict", name, *options)
    run = RunFolder(Path("runs") / name)
    card = (run.adapter / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^(```+)(\w+)\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    kinds = ["text", "text", "python"] if name == "chat" else ["text", "python"]
    assert [kind for _, kind, _ in blocks] == kinds
    code = blocks[-1][2]
    assert f'folder = "runs/{name}/adapter"  # or ' in code
    assert ">>>" not in code

    capfd.readouterr()
    names: dict[str, Any] = {}
    exec(code, names)
    line = (run.predictions / "titles.txt.jsonl").read_text(encoding="utf-8")
    assert json.loads(line)["title"] == names["title"] == TITLE_SHOWN
    assert capfd.readouterr().out == json.loads(line)["description"] + "\n"
    assert not names["model"].training

    record = read_record(run.adapter)
    assert record is not None
    prompt = PromptSettings(record["template"], record["is_chat"], record["system"])
    ids = Encoder(load_tokenizer(base), prompt, 256).prompts([TITLE_SHOWN])
    assert torch.equal(names["ids"], torch.tensor(ids))
    assert record["is_chat"] == name.startswith("chat")


TEXTS = [
    "",
    "a",
    "'",
    '"',
    "'\"",
    "\\",
    "\\'",
    "\n\r\t\0",
    "\u2028",
    "`" * 7,
    "\\```",
    "{a}",
    "🧸é",
    '\\"',
    "\ud800",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_literal_is_its_text_on_one_line_that_ends_no_fence(text: str):
    source = literal(text)
    assert eval(source) == text
    assert len(source.splitlines()) == 1
    assert "```" not in source


def test_the_readme_of_runs_has_the_lines_of_the_reference_runs_card():
    """TinyLlama v1.1 and the tiny base have the same control tokens."""
    root = Path(__file__).resolve().parents[1]
    config = yaml.safe_load((root / "configs/qlora.yaml").read_text(encoding="utf-8"))
    prompt = PromptSettings(config["data"]["prompt"]["template"])
    encoder = Encoder(load_tokenizer(TINY_BASE), prompt, config["data"]["max_seq_length"])
    module: Any = SimpleNamespace(
        card_dtype=torch.bfloat16,
        data=SimpleNamespace(encoder=encoder),
        end_ids=lambda: [2],
        decoding=DecodingSettings(**config["model"]["decoding"]),
    )
    identity = Identity(
        backbone=config["model"]["backbone"],
        revision=None,
        base_sha256="",
        quantization=config["model"]["quantization"],
        template=prompt.template,
        is_chat=False,
    )
    card = model_card(identity, module, RunFolder(Path("runs/qlora")).adapter)
    block = card[card.index("```python") :].strip()
    assert len(block.splitlines()) > 40
    assert block in (root / "amazon_desc/run/README.md").read_text(encoding="utf-8")


def test_a_fence_is_longer_than_those_in_it():
    assert fenced("a") == "```text\na\n```"
    assert fenced("```\n````") == "`````text\n```\n````\n`````"


# Chat templates that write the date

DATED = (
    "Today is {{ strftime_now('%d %B %Y') }}.\n"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def on_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that sets the day of March on which chat templates are rendered."""

    def on_day(day: int) -> None:
        fixed = SimpleNamespace(now=lambda: datetime(2026, 3, day))
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", fixed)

    return on_day


def dated_base(folder: Path) -> str:
    shutil.copytree(TINY_BASE, folder)
    (folder / "chat_template.jinja").write_text(DATED)
    return str(folder)


def test_a_run_keeps_the_date_that_its_chat_template_wrote_when_it_began(
    call: Callable[..., str],
    on_day: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    base, run = ("--model.backbone", dated_base(tmp_path / "base")), RunFolder(Path("runs/dated"))
    on_day(7)
    call("fit", "dated", *base)
    record = read_record(run.adapter)
    assert record is not None
    assert record["frame"][0] == "Today is 07 March 2026.\nuser: "
    scores = run.metrics.read_text()

    on_day(8)
    unfinished(run)
    again = call("fit", "dated", *base)
    assert f"Resuming from {run.checkpoint_files()[0]}" in again
    assert "Preparing " not in again
    assert run.metrics.read_text() == scores
    assert (read_record(run.adapter) or {})["frame"] == record["frame"]

    prompts = []
    prompts_of = DescriptionData.prompts

    def recorded(self: DescriptionData, *some: int) -> Iterator[Prompt]:
        for prompt in prompts_of(self, *some):
            prompts.append(self.tokenizer.decode(prompt.ids))
            yield prompt

    monkeypatch.setattr(DescriptionData, "prompts", recorded)
    call("predict", "dated", *base)
    assert len(prompts) == 1
    assert "Today is 07 March 2026." in prompts[0]
    assert "Today is 07 March 2026." in (run.adapter / "README.md").read_text()

    said = call("fit", "dated anew", *base)  # begins today, with data of its own
    assert "Preparing " in said
    assert (read_record(RunFolder(Path("runs/dated anew")).adapter) or {})["frame"][0] == (
        "Today is 08 March 2026.\nuser: "
    )
