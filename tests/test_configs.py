"""Promises of configs/ and of the options: every config builds, nothing misspelt is taken."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from amazon_desc.cli import DescriptionCLI, main
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.module import DescriptionModule

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
    options["model"]["max_new_tokenz"] = options["model"].pop("max_new_tokens", 128)
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(yaml.safe_dump(options), "utf-8")

    assert "max_new_tokenz" in refused(["fit", "--config", str(misspelt)], capsys)


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
        ("--model.max_new_tokens", "0"),
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


def test_the_quickstart_is_found_outside_of_a_checkout(tmp_path: Path):
    command = [sys.executable, "-m", "amazon_desc", "fit", "--config", "configs/quickstart.yaml"]
    done = subprocess.run(
        [*command, "--print_config"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["backbone"] == "tiny"
    assert list(tmp_path.iterdir()) == []
