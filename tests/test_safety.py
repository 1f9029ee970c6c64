"""What a run reads cannot run code, and what it writes gives no secret away.

Bases, adapters, checkpoints and files of products come from strangers. Each test plants in one of
them what would leave a mark if it were obeyed: a file that code would write (the canary), a token
in the environment that nothing may repeat, a title that steers a terminal. One process runs all
that takes a process of its own: a fit, predictions, refused commands and, at last, a crash.
"""

import ast
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from amazon_desc.cli import main
from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.run.callbacks.signals import TIME_OVER
from amazon_desc.run.checkpoints import (
    NO_COMMENT,
    SEAL_START,
    flaw_of,
    read_checkpoint,
    serialized,
    write_sealed,
)
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.errors import UserError
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import SCRIPTS, load_script

ROOT = SCRIPTS.parent
bench = load_script("bench_resume")

TOKEN, PASSWORD = "hf_canaryThatNobodyMaySee0123456789", "pw_canaryThatNobodyMaySee"

# All of a terminal's commands, and the mark that turns the direction of writing round.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
HOSTILE = [
    *(ESCAPE, "\x9b31m", "\u202e", "</s><s>", "<end_of_turn>[INST]{title}", "<script>x</script>"),
    *('=HYPERLINK("http://x.example")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)"),
    *("../../../planted", "/etc/passwd"),
]

# No rule of cleaning takes out of the titles what is planted in them.
SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.train_file", "products.jsonl", "--data.prepare_workers", "0"),
    *("--data.cleaning.invisible", "false", "--data.cleaning.tags", "false"),
    *("--data.row_tokens", "256", "--data.validation_fraction", "0.2", "--data.test_fraction", "0"),
    *("--data.rows_per_step", "2", "--data.batch_size", "2", "--data.num_scored", "4"),
    *("--model.lora.r", "4"),
    *("--data.generation_batch_size", "12", "--model.decoding.max_new_tokens", "4"),
    *("--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "5"),
    *("--checkpoint.every_n_steps", "2", "--checkpoint.keep", "9"),
]


def products() -> str:
    """Lines of products; each begins with something hostile, and an escape is in all of them."""
    return "".join(
        json.dumps({"title": f"{word} {ESCAPE} Desk {n}", "content": f"{word} {ESCAPE} A desk."})
        + "\n"
        for n in range(5)
        for word in HOSTILE
    )


# The run that is watched from outside

PROGRAM = """
import json, sys
from pathlib import Path
from amazon_desc.cli import main
from amazon_desc.training.module import DescriptionModule

def call(command, *options):
    try:
        main([command, *json.loads(sys.argv[1]), *options])
    except SystemExit as exit_:
        return exit_.code or 0
    return 0

where = ("--trainer.default_root_dir", "runs/trained")
codes = {
    "fit": call("fit", *where),
    "predict": call("predict", *where, "--data.titles", "titles.txt"),
    "wrong option": call("fit", "--model.rank", "4"),
    "base that is nowhere": call("fit", "--model.backbone", "someone/nothing"),
    "products that are nowhere": call("fit", "--data.train_file", "none.jsonl"),
}
Path("codes.json").write_text(json.dumps(codes))

def crash(*_):
    raise RuntimeError("a mistake of our own")

DescriptionModule.training_step = crash
call("fit", "--trainer.default_root_dir", "runs/crashed")
"""


class Watched(NamedTuple):
    """What that process left: its folder, and all that it said."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    outside = tmp_path_factory.mktemp("watched")
    folder = outside / "shop" / "work"
    folder.mkdir(parents=True)
    (folder / "products.jsonl").write_text(products())
    (folder / "titles.txt").write_text("".join(f"{word} Desk\n" for word in HOSTILE))
    mine = {"HF_TOKEN": TOKEN, "SHOP_PASSWORD": PASSWORD, "HF_HOME": str(outside / "hf")}
    mine |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(SMALL)],
        capture_output=True,
        cwd=folder,
        env={**os.environ, **mine},
        timeout=120,
        check=False,
    )
    said = done.stdout.decode() + done.stderr.decode()
    assert (folder / "codes.json").is_file(), said
    codes = json.loads((folder / "codes.json").read_text())
    assert codes == {
        **{"fit": 0, "predict": 0, "wrong option": 2, "base that is nowhere": 2},
        "products that are nowhere": 3,
    }, said
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in said
    assert "RuntimeError: a mistake of our own" in said
    assert (folder / "runs/crashed/config.yaml").is_file()
    return Watched(folder, said)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def place(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the same products and titles, and its prepared data."""
    for name in ("products.jsonl", "titles.txt"):
        shutil.copy(watched.folder / name, tmp_path)
    shutil.copytree(watched.folder / "runs/corpora", tmp_path / "runs/corpora")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command: str, *options: str) -> int:
    """Runs a command; returns its exit code."""
    try:
        main([command, *SMALL, *options])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


# Secrets


@pytest.mark.slow
def test_a_token_of_the_environment_is_in_no_file_and_no_message(watched: Watched):
    """Not of a run that ends well, of refused ones, or of one that crashes with a traceback."""
    files = files_of(watched.folder.parents[1])
    wanted = {"config.yaml", "run.json", "metrics.json", "adapter/README.md"}
    assert {f"shop/work/runs/trained/{name}" for name in wanted} <= set(files)
    assert any("events.out.tfevents" in name for name in files)
    assert any(name.endswith(".ckpt") for name in files)
    for secret in (TOKEN, PASSWORD):
        assert secret not in watched.said
        assert [name for name, data in files.items() if secret.encode() in data] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--token", TOKEN],
        [f"--hf_token={TOKEN}"],
        ["--model.token", TOKEN],
        ["--data.token", TOKEN],
        ["--trainer.token", TOKEN],
        ["--config", "secret.yaml"],
    ],
    ids=["alone", "with_equals", "model", "data", "trainer", "config"],
)
def test_a_token_is_no_option(options: list[str], place: Path, capfd: pytest.CaptureFixture[str]):
    (place / "secret.yaml").write_text(f"model:\n  token: {TOKEN}\n")
    assert call("fit", *options) == 2
    err = capfd.readouterr().err
    assert re.search(r"there is no such option", err)
    assert "Traceback" not in err
    assert not list(place.rglob("config.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--token", TOKEN], [f"--model.token={TOKEN}"]], ids=["alone", "model"]
)
@pytest.mark.usefixtures("place")
def test_a_token_that_is_typed_all_the_same_is_not_repeated(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """`--token $HF_TOKEN` in a cell of a public notebook would show it below the cell."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert call("fit", *options) == 2
    out, err = capfd.readouterr()
    assert "token" in err
    assert TOKEN not in out + err


@pytest.mark.slow
def test_a_token_given_to_a_class_of_others_is_in_no_file_of_the_run(
    place: Path, capfd: pytest.CaptureFixture[str]
):
    """Loggers of other packages take keys; with ours away, only what looks like one is known."""
    logger = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs")
    prefix = ("--trainer.logger.prefix", TOKEN)
    assert call("fit", *logger, *prefix, "--trainer.default_root_dir", "runs/keyed") == 0
    config = yaml.safe_load((place / "runs/keyed/config.yaml").read_text())
    assert config["trainer"]["logger"]["init_args"]["prefix"] == "(removed)"
    keyed = files_of(place / "runs/keyed")
    assert {"run.json", "config.yaml"} <= set(keyed)
    assert [name for name, data in keyed.items() if TOKEN.encode() in data] == []
    out, err = capfd.readouterr()
    assert TOKEN not in out + err


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_no_option_of_a_command_is_for_a_secret(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = re.findall(r"--([\w.]+)", capsys.readouterr().out)
    assert "model.revision" in options
    assert [name for name in options if is_secret(name)] == []


def is_secret(option: str) -> bool:
    """`row_tokens` and `max_new_tokens` are none."""
    return bool(re.search(r"(^|[._-])(token|auth|password|secret|api_?key)$", option))


# The source

SOURCES = [*sorted((ROOT / "amazon_desc").rglob("*.py")), *sorted(SCRIPTS.glob("*.py"))]

# Runs what a text or a file says.
RUNS_CODE = {
    *("eval", "exec", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}
# Writes a table that a spreadsheet would compute.
WRITES_TABLES = {"writer", "DictWriter", "to_csv", "write_csv", "to_excel", "CSVLogger"}
# Writes cells that a spreadsheet does not compute: tests/run/predicting/test_forms.py.
DEFUSED = "amazon_desc/run/predicting/forms.py"

# Takes pickles from its own processes, through pipes that nobody else can write to.
PIPES = "amazon_desc/data/corpus/workers.py"


def offences(source: str, place: str) -> Iterator[str]:
    """Yields what in a source lets something else than the source decide what is run."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if is_constant(key, "trust_remote_code") and not is_constant(value, False):
                        yield "trust_remote_code"
            case ast.Subscript(slice=ast.Constant("trust_remote_code"), ctx=ast.Store()):
                yield "trust_remote_code"
            case ast.Call():
                yield from offences_of_call(node, place)


def offences_of_call(node: ast.Call, place: str) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in RUNS_CODE and not (place == PIPES and name.startswith("pickle.")):
        yield name
    if name == "torch.load" and not is_constant(given.get("weights_only"), True):
        yield name
    if name.rpartition(".")[2] in WRITES_TABLES and place != DEFUSED:
        yield name
    for word in ("trust_remote_code", "shell", "allow_pickle"):
        if word in given and not is_constant(given[word], False):
            yield word
    if "token" in given and ast.unparse(given["token"]) != "hub_token()":
        yield "token"
    if name.endswith(".add_argument"):
        named = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
        yield from (option for option in named if is_secret(option))


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def test_no_source_runs_what_it_reads_writes_formulas_or_passes_a_token_on():
    assert len(SOURCES) > 50
    names = [(file.relative_to(ROOT).as_posix(), file.read_text()) for file in SOURCES]
    found = [f"{name}: {offence}" for name, text in names for offence in offences(text, name)]
    assert found == []
    assert sum(text.count("trust_remote_code") for _, text in names) >= 2
    assert sum("torch.load(" in text for _, text in names) >= 2


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("f(trust_remote_code=True)", ["trust_remote_code"]),
        ("f(trust_remote_code=asked)", ["trust_remote_code"]),
        ("f(trust_remote_code=False)", []),
        ("a = {'trust_remote_code': asked}", ["trust_remote_code"]),
        ("a = {'trust_remote_code': False}", []),
        ("a['trust_remote_code'] = True", ["trust_remote_code"]),
        ("torch.load(f)", ["torch.load"]),
        ("torch.load(f, weights_only=False)", ["torch.load"]),
        ("torch.load(f, weights_only=True)", []),
        ("model.eval()", []),
        ("eval(text)", ["eval"]),
        ("pickle.load(f)", ["pickle.load"]),
        ("yaml.load(f, yaml.Loader)", ["yaml.load"]),
        ("subprocess.run(line, shell=True)", ["shell"]),
        ("np.load(f, allow_pickle=True)", ["allow_pickle"]),
        ("csv.writer(f)", ["csv.writer"]),
        ("download(name, token=options.token)", ["token"]),
        ("download(name, token=hub_token())", []),
        ("parser.add_argument('--hf-token')", ["--hf-token"]),
        ("parser.add_argument('--row_tokens')", []),
    ],
)
def test_what_no_source_may_do_would_be_found(line: str, found: list[str]):
    assert list(offences(line, "a.py")) == found


# Bases and adapters


class Code:
    """What unpickling it calls makes the folder `canary`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("canary",))


def mark_made_by(tmp_path: Path) -> str:
    """Returns a module's text; importing it makes the canary."""
    return f"import pathlib\n\npathlib.Path({str(tmp_path / 'canary')!r}).mkdir(exist_ok=True)\n"


def changed(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.fixture
def base(place: Path) -> Path:
    """A copy of the tiny base with code beside it."""
    folder = place / "base"
    shutil.copytree(TINY_BASE, folder)
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}_evil.py").write_text(mark_made_by(place))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(mark_made_by(place))
    return folder


AUTO_MAP = {
    "AutoConfig": "configuration_evil.EvilConfig",
    "AutoModelForCausalLM": "modeling_evil.EvilModel",
    "AutoTokenizer": ["tokenization_evil.EvilTokenizer", "tokenization_evil.EvilTokenizer"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "tokenizer", "code"),
    [
        ({}, {}, 0),  # the classes of transformers do
        ({"model_type": "evil", "architectures": ["EvilModel"]}, {}, 2),
        ({}, {"tokenizer_class": "EvilTokenizer"}, None),  # either will do
    ],
    ids=["known", "unknown_model", "unknown_tokenizer"],
)
def test_code_that_comes_with_a_base_is_never_run(
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    code: int | None,
    base: Path,
    place: Path,
    capfd: pytest.CaptureFixture[str],
):
    changed(base / "config.json", auto_map=AUTO_MAP, **config)
    changed(base / "tokenizer_config.json", auto_map=AUTO_MAP, **tokenizer)
    ended = call("fit", "--model.backbone", "base", "--trainer.max_steps", "1")
    err = capfd.readouterr().err
    assert ended in ((0, 2) if code is None else (code,)), err
    assert "Traceback" not in err
    assert ended == 0 or "amazon_desc: --model.backbone" in err
    assert not (place / "canary").exists()
    assert [name for name in sys.modules if "evil" in name] == []


@pytest.mark.slow
def test_a_chat_template_reaches_nothing_but_its_messages(
    base: Path, place: Path, capfd: pytest.CaptureFixture[str]
):
    template = "{{ cycler.__init__.__globals__.os.mkdir('canary') }}{{ messages[0].content }}"
    changed(base / "tokenizer_config.json", chat_template=template)
    assert call("fit", "--model.backbone", "base", "--trainer.max_steps", "1") == 2
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "chat template" in err
    assert "Set --data.prompt.chat false" in err
    assert not (place / "canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize("named", ["beside", "in_the_index", "in_the_config"])
@pytest.mark.parametrize("content", ["true_weights", "code"])
def test_of_pickles_only_numbers_are_read_however_they_are_named(
    named: str,
    content: str,
    base: Path,
    place: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    from safetensors.torch import load_file

    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").rename(base / "other.safetensors")
    torch.save(weights if content == "true_weights" else Code(), base / "pytorch_model.bin")
    if named == "in_the_index":
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "pytorch_model.bin")}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
    elif named == "in_the_config":
        changed(base / "config.json", transformers_weights="pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "home" / "hub"))
    is_read = content == "true_weights" and named == "beside"
    ended = call("fit", "--model.backbone", "base", "--trainer.max_steps", "1")
    err = capfd.readouterr().err
    assert ended == (0 if is_read else 2), err
    assert "Traceback" not in err
    assert ("amazon_desc: --model.backbone" in err) != is_read
    assert not (place / "canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize("asks_for_megatron", [False, True])
def test_an_adapter_cannot_name_a_module_to_import(
    asks_for_megatron: bool,
    watched: Watched,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """PEFT imports what it is told to for layers of Megatron, and for a base that it is to find."""
    (place / "evil_module.py").write_text(mark_made_by(place))
    monkeypatch.syspath_prepend(place)
    shutil.copytree(watched.folder / "runs/trained/adapter", place / "adapter")
    (place / "adapter/amazon_desc.json").unlink()  # as PEFT and TRL write it
    entries: dict[str, Any] = {"megatron_core": "evil_module"}
    entries["auto_mapping"] = {"base_model_class": "Evil", "parent_library": "evil_module"}
    if asks_for_megatron:
        entries["megatron_config"] = {"a": 1}
    changed(place / "adapter/adapter_config.json", **entries)
    assert call("validate", "--model.adapter", "adapter") == (2 if asks_for_megatron else 0)
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert ("found megatron_config {'a': 1} in adapter_config.json" in err) == asks_for_megatron
    assert not (place / "canary").exists()
    assert "evil_module" not in sys.modules


# Checkpoints

# Where Lightning and others keep what a checkpoint would decide, and what stands for code there.
CHOICES = {
    "hyper_parameters": {
        "_class_path": "evil_module.Evil",
        "_instantiator": "evil_module.make",
        "max_new_tokens": 1,
        "warmup_fraction": 0.9,
        "lora": {"r": 2, "alpha": 1},
        "optimizer": {"class_path": "evil_module.Evil", "init_args": {"lr": 9.0}},
    },
    "datamodule_hyper_parameters": {"_class_path": "evil_module.Evil", "batch_size": 1},
    "hparams_name": "evil_module.hparams",
    "datamodule_hparams_name": "evil_module.hparams",
    "hparams_type": "evil_module.Hparams",
    "_class_path": "evil_module.Evil",
    "_instantiator": "evil_module.make",
    "class_path": "os.system",
    "init_args": {"command": "mkdir canary"},
}


@pytest.fixture
def stopped(watched: Watched, place: Path) -> RunFolder:
    """The watched run as it was after 4 of its steps, but for its curves."""
    whole, run = (RunFolder(folder / "runs/trained") for folder in (watched.folder, place))
    assert whole.checkpoint(4) in whole.checkpoint_files()[1:]
    run.checkpoints.mkdir(parents=True)
    shutil.copy(whole.checkpoint(4), run.checkpoints)
    return run


def options_of(run: Path) -> dict[str, Any]:
    """Returns all options that a run has recorded, but for the checkpoint that was asked for."""
    options = yaml.safe_load((run / "config.yaml").read_text())
    return {**options, "ckpt_path": None}


@pytest.mark.slow
def test_a_checkpoint_chooses_no_code_and_no_option(
    watched: Watched,
    stopped: RunFolder,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """The run that goes on from it ends as the one did that nobody touched."""
    (place / "evil_module.py").write_text(mark_made_by(place))
    monkeypatch.syspath_prepend(place)
    file = stopped.checkpoint(4)
    checkpoint = read_checkpoint(file)
    assert not set(CHOICES) & set(checkpoint)
    checkpoint["callbacks"]["evil_module.Evil"] = {"class_path": "evil_module.Evil"}
    write_sealed(serialized({**checkpoint, **CHOICES}), file)
    where = ("--trainer.default_root_dir", "runs/trained")
    assert call("fit", *where, "--ckpt_path", str(file)) == 0
    assert call("predict", *where, "--data.titles", "titles.txt") == 0
    out, err = capfd.readouterr()
    assert f"Resuming from {file}" in out
    assert "Traceback" not in err
    untouched = watched.folder / "runs/trained"
    assert options_of(stopped.path) == options_of(untouched)
    assert bench.files_outcome(stopped.path) == bench.files_outcome(untouched)
    assert not (place / "canary").exists()
    assert "evil_module" not in sys.modules


def sealed(content: Any) -> bytes:
    """A pickle as older versions of torch wrote it, with a checksum that is right."""
    body = pickle.dumps(content, protocol=2)
    return body + SEAL_START + hashlib.sha256(body + NO_COMMENT).hexdigest().encode()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "plain"])
def test_a_checkpoint_that_is_code_under_a_right_seal_is_refused(
    kind: str, stopped: RunFolder, place: Path, capfd: pytest.CaptureFixture[str]
):
    file = stopped.checkpoint(6)
    if kind == "zip":
        write_sealed(serialized({"identity": {}, "state_dict": Code()}), file)
    else:
        file.write_bytes(sealed({"identity": Code()}))
    assert flaw_of(file) is None
    before = file.read_bytes()
    assert call("fit", "--trainer.default_root_dir", "runs/trained") == 4
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "step=00000006.ckpt: it holds more than numbers and plain values" in err
    assert file.read_bytes() == before
    assert not (place / "canary").exists()


# Titles


def steering(said: str) -> list[str]:
    """Returns the lines that would do more to a terminal than a bar of progress does."""
    return [line for line in said.split("\n") if CONTROLS.search(line)]


@pytest.mark.slow
def test_hostile_titles_send_a_terminal_nothing(watched: Watched):
    assert "owned" in watched.said
    assert steering(watched.said) == []


@pytest.mark.slow
def test_hostile_titles_come_back_as_they_were_in_json(watched: Watched):
    written = (watched.folder / "runs/trained/predictions/titles.txt.jsonl").read_bytes().decode()
    assert steering(written.replace("\u202e", "")) == []  # for a reader of JSON a letter
    titles = [json.loads(line)["title"] for line in written.splitlines()]
    assert titles == [f"{word} Desk" for word in HOSTILE]


@pytest.mark.slow
def test_hostile_titles_name_no_file_and_no_table_is_written(watched: Watched):
    """JSON, YAML, safetensors, Arrow, event files: nothing that a spreadsheet opens by itself."""
    outside = watched.folder.parents[1]
    names = {name for name in files_of(outside) if not name.startswith("shop/work/runs/")}
    mine = {f"shop/work/{name}" for name in ("products.jsonl", "titles.txt", "codes.json")}
    assert {name for name in names if not name.startswith("hf/")} == mine
    written = [Path(name) for name in files_of(watched.folder / "runs")]
    suffixes = {path.suffix for path in written}
    assert {".jsonl", ".yaml", ".safetensors", ".ckpt", ".arrow"} <= suffixes
    assert not suffixes & {".csv", ".tsv", ".xls", ".xlsx"}
    (page,) = [path for path in written if path.suffix == ".html"]
    text = (watched.folder / "runs" / page).read_text("utf-8").lower()
    assert page.name == "report.html"
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert [path for path in written if "planted" in path.name or "passwd" in path.name] == []


@pytest.mark.slow
def test_hostile_titles_are_shown_by_prepare_without_escapes(
    place: Path, capfd: pytest.CaptureFixture[str]
):
    load_script("prepare").main([*SMALL, "--show", "40"])
    out, err = capfd.readouterr()
    assert "owned" in out
    assert "HYPERLINK" in out
    assert steering(out + err) == []


# Names of files, columns and archives' members: as foreign as titles


def zipped(file: Path, *members: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, products())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--data.train_file", f"none{ESCAPE}.jsonl"], 3),
        (["--data.train_file", "columns.csv"], 3),
        (["--data.train_file", "members.zip"], 3),
        (["--data.test_file", f"bad{ESCAPE}.jsonl", "--data.max_bad_records", "0"], 3),
        (["--model.backbone", f"./{ESCAPE}"], 2),
        (["--model.adapter", f"./{ESCAPE}"], 2),
        (["--ckpt_path", f"./{ESCAPE}.ckpt"], 2),
        ([f"--{ESCAPE}", "1"], 2),
    ],
    ids=["file", "columns", "members", "record", "base", "adapter", "checkpoint", "option"],
)
def test_a_refusal_that_names_something_foreign_sends_a_terminal_nothing(
    options: list[str], code: int, place: Path, capfd: pytest.CaptureFixture[str]
):
    (place / "columns.csv").write_text(f"na{ESCAPE}me,text\nDesk,Of oak\n")
    (place / f"bad{ESCAPE}.jsonl").write_text(products() + "{\n")
    zipped(place / "members.zip", f"a{ESCAPE}.jsonl", f"b{ESCAPE}.jsonl")
    assert call("fit", *options) == code
    out, err = capfd.readouterr()
    assert "owned" in err
    assert steering(out + err) == []


@pytest.mark.slow
def test_a_report_on_a_foreign_file_sends_a_terminal_nothing(
    place: Path, capfd: pytest.CaptureFixture[str]
):
    name = f"shop{ESCAPE}.jsonl"
    (place / name).write_text(products() + "{\n")
    load_script("prepare").main([*SMALL, "--data.train_file", name])
    out, err = capfd.readouterr()
    assert "line 61: not valid JSON" in out
    assert steering(out + err) == []


def test_a_gap_in_a_foreign_file_of_titles_sends_a_terminal_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / f"titles{ESCAPE}.txt"
    file.write_text("Mug\n\n")
    table = TitleTable.read(file, "title", "none", tmp_path / "table", str)
    assert list(table.written()) == [(0, "Mug")]
    out = capsys.readouterr().out
    assert "line 2: title is empty" in out
    assert steering(out) == []


@pytest.mark.slow
def test_predictions_of_a_foreign_file_of_titles_send_a_terminal_nothing(
    watched: Watched, place: Path, capfd: pytest.CaptureFixture[str]
):
    (place / f"titles{ESCAPE}.txt").write_text("Mug\n")
    adapter = str(watched.folder / "runs/trained/adapter")
    options = ("--model.adapter", adapter, "--trainer.default_root_dir", "runs/new")
    assert call("predict", *options, "--data.titles", f"titles{ESCAPE}.txt") == 0
    out, err = capfd.readouterr()
    assert "All records (1) are in runs/new/predictions/" in out
    assert steering(out + err) == []


@pytest.mark.slow
def test_an_archive_is_read_in_place_wherever_its_members_want_to_go(
    place: Path, capfd: pytest.CaptureFixture[str]
):
    zipped(place / "shop.zip", "../planted.jsonl")
    load_script("prepare").main([*SMALL, "--data.train_file", "shop.zip"])
    assert "60 usable pairs" in capfd.readouterr().out
    assert not (place.parent / "planted.jsonl").exists()
    assert list(place.rglob("planted*")) == []


# Exit codes


def test_the_readme_of_runs_lists_every_exit_code():
    """0: done; 1: a mistake of our own; 124: time is over; 129, 130 and 143: signals."""
    kinds: list[type[UserError]] = [UserError]
    for kind in kinds:  # grows as it goes
        kinds += kind.__subclasses__()
    wanted = {0, 1, TIME_OVER, 129, 130, 143} | {kind.exit_code for kind in kinds}
    readme = (ROOT / "amazon_desc" / "run" / "README.md").read_text()
    assert readme.count("| code |") == 1
    table = readme.partition("| code |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `?(\d+)`? +\|", table, re.MULTILINE)
    assert len(kinds) >= 7
    assert {int(code) for code in rows} == wanted
    assert len(rows) == len(wanted)
