"""Promises of configs/ and of the options: every config builds, nothing misspelt is taken."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from amazon_desc.cli import DescriptionCLI, build, main
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.training.module import DescriptionModule
from tests.conftest import Ended

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
COMMAND = re.compile(r"# python -m amazon_desc (fit|validate|test|predict) --config (\S+)( .+)?")


def each_config(function):
    return pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)(function)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns what the user is told; a command that is not refused as misuse fails the test."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_there_are_configs():
    assert QUICKSTART in CONFIGS


@each_config
def test_first_line_of_a_config_is_a_command_that_takes_it(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    first_line = config.read_text("utf-8").splitlines()[0]
    command = COMMAND.fullmatch(first_line)
    assert command is not None, first_line
    assert ROOT / command[2] == config

    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit_:
        main([*shlex.split(first_line.removeprefix("# python -m amazon_desc")), "--print_config"])

    assert exit_.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(config.read_text("utf-8"))
    assert given["trainer"]["default_root_dir"] == printed["trainer"]["default_root_dir"]
    for section in ("data", "model"):
        for name, value in given.get(section, {}).items():
            if not isinstance(value, dict):
                assert printed[section][name] == value


@pytest.mark.filterwarnings("ignore")  # of Lightning's own use of jsonargparse
@each_config
def test_config_builds_trainer_model_and_data_without_loading_a_base(config: Path, tmp_path: Path):
    cli = DescriptionCLI(
        DescriptionModule,
        DescriptionData,
        save_config_callback=None,
        seed_everything_default=1234,
        auto_configure_optimizers=False,
        args=[
            *("--config", str(config)),
            *("--trainer.accelerator", "cpu"),
            *("--trainer.default_root_dir", str(tmp_path / "run")),
        ],
        run=False,
    )

    assert isinstance(cli.model, DescriptionModule)
    assert isinstance(cli.datamodule, DescriptionData)
    assert cli.model.network is None
    assert cli.datamodule.backbone == cli.model.backbone
    assert not (tmp_path / "run").exists()


@each_config
def test_each_config_has_a_run_folder_of_its_own(config: Path):
    folders = [yaml.safe_load(c.read_text("utf-8"))["trainer"]["default_root_dir"] for c in CONFIGS]
    assert folders.count(f"runs/{config.stem}") == 1


@each_config
def test_a_misspelt_key_in_a_config_is_refused_by_name(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = yaml.safe_load(config.read_text("utf-8"))
    lora = options["model"]["lora"]
    lora["misspelt"] = lora.pop(next(iter(lora)))
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(yaml.safe_dump(options), "utf-8")

    assert "misspelt" in refused(["fit", "--config", str(misspelt)], capsys)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--data.batch_size", "0"),
        ("--data.row_tokens", "-2048"),
        ("--data.num_scored", "0"),
        ("--data.max_bad_records", "-1"),
        ("--data.validation_fraction", "1"),
        ("--data.test_fraction", "-0.1"),
        ("--model.lora.r", "-1"),
        ("--model.lora.alpha", "0"),
        ("--model.decoding.max_new_tokens", "0"),
        ("--model.schedule", "exponential"),
        ("--model.warmup_steps", "-1"),
        ("--model.lora.use_dora", "maybe"),
        ("--model.quantization", "int8"),
        ("--checkpoint.every_n_steps", "0"),
        ("--trainer.max_epochs", "0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
):
    message = refused(["fit", "--config", str(QUICKSTART), option, value], capsys)
    assert option.removeprefix("--") in message


@pytest.mark.parametrize(
    "option", ["--trainer.max_ep", "--data.batch_siz", "--modle.backbone", "--data.backbonee"]
)
def test_an_abbreviated_or_misspelt_option_is_refused_by_name(
    option: str, capsys: pytest.CaptureFixture[str]
):
    message = refused(["fit", "--config", str(QUICKSTART), option, "1"], capsys)
    assert option.removeprefix("--") in message


# configs/README.md

PAGE = (ROOT / "configs" / "README.md").read_text("utf-8")
NOTEBOOKS = """
    num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate
    lr_scheduler_type warmup_steps warmup_ratio weight_decay max_grad_norm optim bf16 fp16
    logging_steps save_steps save_total_limit eval_steps seed output_dir report_to
    gradient_checkpointing packing max_seq_length max_length dataset_text_field completion_only_loss
    train_on_responses_only neftune_noise_alpha resume_from_checkpoint r lora_alpha lora_dropout
    target_modules use_rslora use_dora load_in_4bit bnb_4bit_quant_type bnb_4bit_compute_dtype
    bnb_4bit_use_double_quant
""".split()  # noqa: SIM905 (a list to read)


def rows_of_page() -> list[list[str]]:
    """Returns the cells of the table of what notebooks set: there, here, what differs."""
    heading = "| there | here | what differs |\n|---|---|---|\n"
    table = PAGE.split(heading)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]


def options_in(cell: str) -> list[tuple[str, str]]:
    """Returns the options of a cell with their values. `--a 1 --b 2` -> [("a", "1"), ("b", "2")]"""
    words = shlex.split(cell.strip("`"))
    assert len(words) % 2 == 0, cell
    assert all(name.startswith("--") for name in words[::2]), cell
    return [(name.removeprefix("--"), value) for name, value in zip(*[iter(words)] * 2)]  # noqa: B905


def printed_value(printed: dict, name: str) -> object:
    for part in name.split("."):
        printed = printed[part]
    return printed.get("class_path", printed) if isinstance(printed, dict) else printed


@pytest.fixture(scope="module")
def printed() -> Callable[[list[str]], dict]:
    """Returns a function that returns the config of the quickstart with further options."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DescriptionCLI, "instantiate_classes", lambda self: None)
        parser = build(["--config", str(QUICKSTART)], run=False).parser

    def printed(options: list[str]) -> dict:
        config = parser.parse_args(["--config", str(QUICKSTART), *options])
        return yaml.safe_load(parser.dump(config))

    return printed


def test_what_the_page_says_to_write_is_taken_and_does_what_it_says(
    printed: Callable[[list[str]], dict],
):
    num_options = 0
    for there, here, _ in rows_of_page():
        if not here.startswith("`"):
            assert here in ("none", "none needed"), there
            continue
        options = options_in(here)
        found = printed([word for name, value in options for word in (f"--{name}", value)])
        for name, value in options:
            assert printed_value(found, name) == yaml_value(value), (there, name)
            num_options += 1
    assert num_options > 45


def yaml_value(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def test_the_page_knows_what_notebooks_set_and_says_why_what_has_no_option_has_none():
    rows = rows_of_page()
    named = {name for there, _, _ in rows for name in re.findall(r"\w+(?==|`|\()", there)}
    assert set(NOTEBOOKS) - named == set()
    without = [(there, why) for there, here, why in rows if here.startswith("none")]
    assert {there for there, _ in without} >= {"`packing=True`", "`neftune_noise_alpha=5`"}
    assert [there for there, why in without if not why] == []


def test_the_page_has_a_line_for_every_config():
    for config in CONFIGS:
        assert re.search(rf"^{re.escape(config.name)} +\S", PAGE, re.MULTILINE)
    assert len(PAGE.splitlines()) < 200


def test_the_line_for_8_bit_adamw_is_taken(printed: Callable[[list[str]], dict]):
    section = PAGE.split("## 8-bit AdamW")[1]
    (line,) = re.findall(r"```\n(--model\.optimizer.*?)```", section, re.DOTALL)
    optimizer = printed(shlex.split(line.replace("\\\n", " ")))["model"]["optimizer"]
    assert optimizer["class_path"] == "bitsandbytes.optim.AdamW8bit"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["weight_decay"]) == (2e-4, 0.0)


def test_the_quickstart_is_found_outside_of_a_checkout(
    run_program: Callable[..., Ended], tmp_path: Path
):
    command = ["-m", "amazon_desc", "fit", "--config", "configs/quickstart.yaml"]
    done = run_program(*command, "--print_config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["backbone"] == "tiny"
    assert list(tmp_path.iterdir()) == []
