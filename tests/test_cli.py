"""What the command line adds to the options: precision by hardware, configs that ship, help."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from amazon_desc.cli import COMMANDS, main
from amazon_desc.run.options.trainer_options import best_precision
from amazon_desc.run.terminal import with_shipped_configs

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("has_card", "has_bf16", "accelerator", "precision"),
    [
        (False, False, "auto", "32-true"),
        (True, True, "cpu", "32-true"),
        (True, True, "auto", "bf16-mixed"),
        (True, False, "auto", "16-mixed"),
        (True, False, "gpu", "16-mixed"),
    ],
)
def test_precision_left_unset_is_chosen_by_the_hardware(
    monkeypatch: pytest.MonkeyPatch,
    has_card: bool,
    has_bf16: bool,
    accelerator: str,
    precision: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert best_precision(accelerator) == precision


@pytest.mark.parametrize("arguments", [["--config", "X"], ["--config=X"], ["-c", "X"], ["-c=X"]])
def test_a_config_that_is_not_on_disk_is_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [argument.replace("X", "configs/quickstart.yaml") for argument in arguments]
    shipped = str(ROOT / "configs" / "quickstart.yaml")
    assert with_shipped_configs(given) == [argument.replace("X", shipped) for argument in arguments]


def test_the_page_beside_the_configs_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (ROOT / "configs" / "README.md").is_file()
    assert with_shipped_configs(["--config", "README.md"]) == ["--config", "README.md"]


def test_a_config_on_disk_wins_over_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").touch()
    given = ["fit", "--config", "quickstart.yaml"]
    assert with_shipped_configs(given) == given


@pytest.mark.parametrize(
    "arguments",
    [
        "fit --config quickstart.yaml --model.max_new_tokens 7 --print_config",
        "fit --model.max_new_tokens 7 --config quickstart.yaml --print_config",
        "--config quickstart.yaml fit --model.max_new_tokens=7 --print_config",
        "--model.max_new_tokens 7 --print_config --config=quickstart.yaml fit",
    ],
)
def test_a_config_is_taken_and_the_command_line_wins_in_any_order(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(arguments.split())
    options = yaml.safe_load(capsys.readouterr().out)
    assert options["trainer"]["default_root_dir"] == "runs/quickstart"
    assert options["model"]["max_new_tokens"] == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_every_option_of_ours(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    described = {
        line.split()[0]: line.split("(type:")[0]
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        for line in [f"{line} {after}"]  # a long option stands on a line of its own
        if line.startswith(("--model.", "--data.", "--checkpoint.", "--ckpt_path"))
        and "(type:" in line
    }
    assert {"--model.lora.r", "--data.row_tokens", "--checkpoint.keep"} <= set(described)
    assert len(described) > 30
    for option, text in described.items():
        assert len(text.split()) > 4, option


@pytest.mark.slow
def test_help_of_a_command_imports_no_model_library() -> None:
    """Its cost is that of importing Lightning's command line, not of PEFT or bitsandbytes."""
    code = (
        "import sys\n"
        "from amazon_desc.cli import main\n"
        "try:\n    main(['fit', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print([m for m in ('peft', 'bitsandbytes', 'datasets', 'evaluate') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert shown.splitlines()[-1] == "[]"
