"""What export writes is the tuned model, to the tools that its users load it with."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from amazon_desc import Describer
from amazon_desc.support.resources import TINY_BASE
from tests.conftest import SCRIPTS, Ended, exit_code

TITLES = ["Red Mug", "Blue Lamp & Shade, Set of 2", "Girls Ballet Tutu Neon Pink", "</s> 3 </s>"]
GREEDY = {"no_repeat_ngram_size": 0, "frequency_penalty": 0.0}
SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "4"),
    *("--data.validation_fraction", "0.1", "--model.lora.r", "4"),
    *("--model.optimizer.init_args.lr", "0.02", "--model.decoding.max_new_tokens", "24"),
    *("--trainer.accelerator", "cpu"),
]
PROBE = torch.arange(5, 45).reshape(2, 20)

# A process to which this package is unknown: runs programs, which are sent to it, one by one.
FOREIGN = """
import contextlib, io, json, os, sys, traceback
sys.modules["amazon_desc"] = None
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import torch
torch.set_num_threads(1)
for line in sys.stdin:
    asked, said, error = json.loads(line), io.StringIO(), ""
    os.chdir(asked["folder"])
    try:
        with contextlib.redirect_stdout(said):
            exec(asked["program"], {"__name__": "__main__", **asked["given"]})
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps([said.getvalue(), error]), file=answers, flush=True)
"""

# What a user of transformers runs.
LOADING = """
import json, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
model, report = AutoModelForCausalLM.from_pretrained(
    export, dtype=torch.float32, output_loading_info=True
)
assert type(model).__name__ == class_name, type(model)
assert not any(report.values()), report
tokenizer = AutoTokenizer.from_pretrained(export)
with torch.no_grad():
    torch.save(model(torch.arange(5, 45).reshape(2, 20)).logits, out)
texts = []
for ids in prompts:
    written = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long())
    texts.append(tokenizer.decode(written[0, len(ids):], skip_special_tokens=True).strip())
print(json.dumps(texts))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A finished run of the tiny base in 4 bits, with scores."""
    folder = place / "runs" / "shop"
    options = [*SMALL, "--trainer.default_root_dir", str(folder)]
    assert exit_code(["fit", *options]) == 0
    return folder


@pytest.fixture
def export(run_program: Callable[..., Ended], place: Path) -> Callable[..., Ended]:
    def call(*arguments: Any) -> Ended:
        return run_program(str(SCRIPTS / "export.py"), *map(str, arguments), cwd=place)

    return call


class Foreign:
    """The process to which this package is unknown; it imports what programs need once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, program: str, folder: Path, **given: Any) -> str:
        """Runs a program in a folder, with what it is given; returns the last line it prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"program": program, "folder": str(folder), "given": given}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        said, error = json.loads(self.process.stdout.readline())
        assert not error, error
        return said.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    with subprocess.Popen(
        [sys.executable, "-c", FOREIGN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    ) as process:
        yield Foreign(process)


def make_gemma(folder: Path, is_old: bool) -> Path:
    """A small random Gemma 3 as it is published, text and vision; its tokenizer is tiny's."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    text = {"num_key_value_heads": 1, "head_dim": 32, "num_hidden_layers": 3, "vocab_size": 2056}
    vision = {"num_hidden_layers": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False}
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    torch.manual_seed(11)
    config = Gemma3Config(
        text_config={
            **sizes, **text, "sliding_window": 32, "layer_types": layers,
            "max_position_embeddings": 512, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2,
            "query_pre_attn_scalar": 32, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        vision_config={**sizes, **vision}, mm_tokens_per_image=4,
        image_token_index=2050, boi_token_index=2051, eoi_token_index=2052,
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, save_original_format=is_old)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_BASE / name, folder / name)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Any"}')
    (folder / "README.md").write_text("---\nlicense: gemma\n---\n# A small Gemma\n")
    return folder


@pytest.fixture(scope="module", params=["old", "new"])
def gemma_run(place: Path, request: pytest.FixtureRequest) -> Path:
    base = make_gemma(place / "bases" / f"gemma-{request.param}", request.param == "old")
    first = next(iter(load_file(base / "model.safetensors")))
    assert first.startswith("model." if request.param == "new" else ("language_", "multi_modal_"))
    folder = place / "runs" / f"gemma-{request.param}"
    options = [*SMALL, "--trainer.default_root_dir", str(folder), "--model.backbone", str(base)]
    assert exit_code(["fit", *options]) == 0
    return folder


def greedy_texts(describer: Describer) -> list[str]:
    return [found.description.text for found in describer.predictions(TITLES, **GREEDY)]


def check_with_transformers(foreign: Foreign, folder: Path, run: Path, class_name: str) -> None:
    """Loads an export where this package is unknown, and compares it with the tuned model."""
    describer = Describer.from_run(run, accelerator="cpu")
    network = describer.model.network.eval()
    prompts = describer.data.encoder.prompts(list(map(describer.data.clean_title, TITLES)))
    out = folder.parent / "logits.pt"
    out.unlink(missing_ok=True)
    with torch.no_grad():
        wanted = network(PROBE).logits
        with network.disable_adapter():
            base = network(PROBE).logits
    given = {"export": str(folder), "class_name": class_name, "out": str(out), "prompts": prompts}
    texts = json.loads(foreign(LOADING, folder.parent, **given))
    found = torch.load(out)
    assert (wanted - base).abs().max() > 0.05  # that the adapter does something
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert texts == greedy_texts(describer)


def test_merged_weights_are_the_tuned_model_to_transformers_alone(
    run: Path, foreign: Foreign, export: Callable[..., Ended]
):
    ended = export(run, "--to", "merged", "--dtype", "float32", "--output", run.parent / "dense")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1].startswith(f"Written: {run.parent / 'dense'} (")
    names = {path.name for path in (run.parent / "dense").iterdir()}
    assert names == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "export.json"),
    }
    check_with_transformers(foreign, run.parent / "dense", run, "LlamaForCausalLM")


@pytest.mark.real
def test_a_base_of_others_leaves_as_the_tuned_model(
    real_dir: Path, place: Path, foreign: Foreign, export: Callable[..., Ended]
):
    """stories260k, whose head is tied and whose layers have widths of no whole blocks."""
    folder = place / "runs" / "stories"
    base = ["--model.backbone", str(real_dir / "stories260k")]
    assert exit_code(["fit", *SMALL, "--trainer.default_root_dir", str(folder), *base]) == 0
    ended = export(folder, "--to", "merged", "--dtype", "float32")
    assert ended.returncode == 0, ended.stderr
    check_with_transformers(foreign, folder / "exports/stories-merged", folder, "LlamaForCausalLM")


def test_shards_are_loaded_as_one_model(
    run: Path, foreign: Foreign, export: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("amazon_desc.export.shards.SHARD_BYTES", 10**6)
    folder = run.parent / "shards"
    assert export(run, "--to", "merged", "--dtype", "float32", "--output", folder).returncode == 0
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    check_with_transformers(foreign, folder, run, "LlamaForCausalLM")


def test_a_gemma_leaves_as_the_text_model_alone(
    gemma_run: Path, foreign: Foreign, export: Callable[..., Ended]
):
    folder = gemma_run.parent / f"{gemma_run.name}-text"
    ended = export(gemma_run, "--to", "merged", "--dtype", "float32", "--output", folder)
    assert ended.returncode == 0, ended.stderr
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "gemma3_text"
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert not any("vision" in name for name in load_file(folder / "model.safetensors"))
    check_with_transformers(foreign, folder, gemma_run, "Gemma3ForCausalLM")


def test_a_gemma_leaves_whole_with_its_vision_as_it_was(
    gemma_run: Path, foreign: Foreign, export: Callable[..., Ended]
):
    folder = gemma_run.parent / f"{gemma_run.name}-whole"
    ended = export(gemma_run, "--to", "merged", "--full", "--dtype", "float32", "--output", folder)
    assert ended.returncode == 0, ended.stderr
    base = gemma_run.parent.parent / "bases" / gemma_run.name
    before, after = (load_file(f / "model.safetensors") for f in (base, folder))
    assert before.keys() == after.keys()
    beside = [name for name in before if "language_model" not in name]
    assert len(beside) > 30
    assert all(torch.equal(before[name], after[name]) for name in beside)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (folder / "preprocessor_config.json").is_file()
    check_with_transformers(foreign, folder, gemma_run, "Gemma3ForConditionalGeneration")


def test_a_gemma_is_not_exported_in_float16(gemma_run: Path, export: Callable[..., Ended]):
    ended = export(gemma_run, "--to", "merged", "--dtype", "float16")
    assert ended.returncode == 2
    assert "--dtype float16: wanted a precision" in ended.stderr
    assert "Set --dtype bfloat16." in ended.stderr
    assert not (gemma_run / "exports").exists()


def test_a_text_model_has_no_more_to_export(run: Path, export: Callable[..., Ended]):
    ended = export(run, "--to", "merged", "--full")
    assert ended.returncode == 2
    assert "tiny is a text model alone" in ended.stderr
    assert not (run / "exports").exists()


# The card


def block_in(card: str, heading: str) -> str:
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    match = re.search(r"^(```+)python\n(.*?)\n\1$", section, re.DOTALL | re.MULTILINE)
    assert match
    return match[2]


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_the_lines_of_a_card_write_what_predict_writes(
    form: str, run: Path, place: Path, foreign: Foreign, export: Callable[..., Ended]
):
    from amazon_desc.data.encoding.markers import TITLE_SHOWN

    of_form = ["--dtype", "float32"] if form == "merged" else []
    ended = export(run, "--to", form, *of_form, "--output", place / "out" / form)
    assert ended.returncode == 0, ended.stderr
    card = (place / "out" / form / "README.md").read_text(encoding="utf-8")
    code = block_in(card, "With transformers" if form == "merged" else "With PEFT")
    assert f'folder = "{form}"' in code
    if form == "adapter":  # the base is a folder that only its user knows
        assert 'base = "tiny"  # wherever the folder of the base is' in code
        code = code.replace('base = "tiny"', f"base = {str(TINY_BASE)!r}")
    written = foreign(code, place / "out")
    assert [written] == Describer.from_run(run, accelerator="cpu")([TITLE_SHOWN])


def test_the_card_says_what_the_run_was(run: Path, place: Path, export: Callable[..., Ended]):
    folder = place / "said"
    assert export(run, "--to", "merged", "--output", folder).returncode == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    sample = SCRIPTS.parent / "amazon_desc/assets/sample.json.gz"
    assert f"`sample.json.gz`, sha256 `{hashlib.sha256(sample.read_bytes()).hexdigest()}`" in card
    assert re.search(r"\n- [\d,]+ records, \d+ of them used: \d+ train, \d+ validation", card)
    assert "`validate`: the first 2 titles that were held out for validation" in card
    assert "--model.lora.r: 4" in card
    assert "max_new_tokens: 24" in card


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_no_path_of_this_machine_leaves_it(
    form: str, gemma_run: Path, place: Path, export: Callable[..., Ended]
):
    folder = place / f"{gemma_run.name}-{form}"
    assert export(gemma_run, "--to", form, "--output", folder).returncode == 0
    texts = {f.name: f.read_text("utf-8") for f in folder.iterdir() if f.suffix != ".safetensors"}
    assert {"README.md", "export.json"} < set(texts)
    assert not [name for name, text in texts.items() if str(place) in text or "/tmp" in text]
    assert "license: gemma" in texts["README.md"]


def test_the_adapter_of_an_export_is_used_here_too(
    run: Path, place: Path, export: Callable[..., Ended]
):
    assert export(run, "--to", "adapter", "--output", place / "given").returncode == 0
    (place / "titles.txt").write_text("\n".join(TITLES[:3]))
    options = [*SMALL, "--trainer.default_root_dir", str(place / "runs" / "other")]
    options += ["--model.adapter", str(place / "given"), "--data.titles", str(place / "titles.txt")]
    assert exit_code(["predict", *options]) == 0
    lines = (place / "runs/other/predictions/titles.txt.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["description"] for line in lines]
    assert texts == Describer.from_run(run, accelerator="cpu")(TITLES[:3])


# What is refused, and what survives


def test_an_unfinished_run_is_refused(run: Path, place: Path, export: Callable[..., Ended]):
    stopped = copied(run, place / "runs" / "stopped")
    record = json.loads((stopped / "run.json").read_text())
    del record["finished"]
    (stopped / "run.json").write_text(json.dumps(record))
    for form in ("adapter", "merged"):
        ended = export(stopped, "--to", form)
        assert ended.returncode == 2
        assert "wanted a run that has finished, found one that was stopped" in ended.stderr
        assert not (stopped / "exports").exists()


def copied(run: Path, to: Path) -> Path:
    """Copies a run without its exports."""
    return shutil.copytree(run, to, ignore=shutil.ignore_patterns("exports"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", cut),
        ("adapter_model.safetensors", flip),
        ("adapter_model.safetensors", Path.unlink),
        ("adapter_config.json", flip),
        ("tokenizer.json", flip),
    ],
)
def test_a_damaged_run_is_refused(
    name: str, damage: Callable[[Path], None], run: Path, tmp_path: Path,
    export: Callable[..., Ended],
):  # fmt: skip
    hurt = copied(run, tmp_path / "hurt")
    damage(hurt / "adapter" / name)
    for form in ("adapter", "merged"):
        ended = export(hurt, "--to", form)
        assert ended.returncode in (2, 4)
        assert f"{name} is damaged" in ended.stderr or f"{name} is missing" in ended.stderr
        assert not (hurt / "exports").exists()


def test_an_adapter_of_before_that_is_cut_is_refused_too(
    run: Path, tmp_path: Path, export: Callable[..., Ended]
):
    hurt = copied(run, tmp_path / "hurt")
    record = json.loads((hurt / "adapter/amazon_desc.json").read_text())
    del record["files"]
    (hurt / "adapter/amazon_desc.json").write_text(json.dumps(record))
    assert export(hurt, "--to", "adapter", "--output", tmp_path / "whole").returncode == 0
    cut(hurt / "adapter/adapter_model.safetensors")
    ended = export(hurt, "--to", "merged")
    assert ended.returncode == 4
    assert "adapter_model.safetensors is damaged" in ended.stderr


def test_an_adapter_with_more_than_lora_is_merged_by_nobody_and_left_as_it_is(
    place: Path, export: Callable[..., Ended]
):
    folder = place / "runs" / "dora"
    options = [*SMALL, "--trainer.default_root_dir", str(folder), "--model.lora.use_dora", "true"]
    assert exit_code(["fit", *options]) == 0
    ended = export(folder, "--to", "merged")
    assert ended.returncode == 2
    assert "model.layers.0.self_attn.q_proj: wanted plain LoRA" in ended.stderr
    assert "found DoRA. Export it with --to adapter" in ended.stderr
    assert not (folder / "exports").exists()
    assert export(folder, "--to", "adapter").returncode == 0


def test_a_full_disk_is_said_and_leaves_nothing(
    run: Path, tmp_path: Path, export: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
):
    from safetensors import SafetensorError

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    ended = export(run, "--to", "merged", "--output", tmp_path / "new")
    assert ended.returncode == 7
    assert f"{tmp_path} cannot be written: No space left on device (" in ended.stderr
    assert "name another --output" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_name_and_the_same_command_succeeds(
    run: Path, tmp_path: Path, export: Callable[..., Ended]
):
    """It is killed while a shard is half written, with a signal that nothing can catch."""
    program = (
        "import runpy, sys, time\n"
        "import safetensors.torch as s\n"
        "def half(tensors, file, metadata=None):\n"
        "    open(file, 'wb').write(b'half'); print('HALF', flush=True); time.sleep(600)\n"
        "s.save_file = half\n"
        f"sys.argv = ['export.py', {str(run)!r}, '--to', 'merged']\n"
        f"sys.argv += ['--output', {str(tmp_path / 'new')!r}]\n"
        f"runpy.run_path({str(SCRIPTS / 'export.py')!r}, run_name='__main__')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=SCRIPTS.parent
    ) as process:
        assert process.stdout is not None
        assert "HALF\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGKILL)
    left = [path.name for path in tmp_path.iterdir()]
    assert "new" not in left
    assert [name for name in left if name.startswith(".tmp-")]
    done = export(run, "--to", "merged", "--output", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert load_file(tmp_path / "new" / "model.safetensors")


def test_the_same_export_is_found_and_another_is_not_replaced_unasked(
    run: Path, tmp_path: Path, export: Callable[..., Ended]
):
    where = ("--output", tmp_path / "new")
    assert export(run, "--to", "adapter", *where).returncode == 0
    again = export(run, "--to", "adapter", *where)
    assert again.stdout.splitlines()[-1].startswith("There already, and whole: ")
    other = export(run, "--to", "merged", *where)
    assert other.returncode == 2
    assert "another export there" in other.stderr
    assert (tmp_path / "new" / "adapter_config.json").is_file()
    assert export(run, "--to", "merged", "--overwrite", *where).returncode == 0
    assert not (tmp_path / "new" / "adapter_config.json").exists()
