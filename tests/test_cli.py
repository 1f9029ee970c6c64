"""What the command line adds to the options: precision by hardware, configs that ship, help."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from amazon_desc.cli import COMMANDS, build, main
from amazon_desc.run.options.configs import with_configs_found
from amazon_desc.run.options.trainer_options import best_precision
from amazon_desc.support.errors import UserError

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
    assert with_configs_found(given) == [argument.replace("X", shipped) for argument in arguments]


def test_the_page_beside_the_configs_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (ROOT / "configs" / "README.md").is_file()
    with pytest.raises(UserError, match=r"^--config README\.md: the file does not exist in"):
        with_configs_found(["--config", "README.md"])


def test_a_config_on_disk_wins_over_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").touch()
    given = ["fit", "--config", "quickstart.yaml"]
    assert with_configs_found(given) == given


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


def option_names() -> set[str]:
    """Returns the names of all options of a fit but groups: {"data.row_tokens", ...}."""
    actions = build([], run=False).parser._actions
    names = {name.removeprefix("--") for action in actions for name in action.option_strings}
    groups = {name.rpartition(".")[0] for name in names if not name.endswith(".help")}
    return {name for name in names - groups if re.fullmatch(r"[\w.]+(?<!help)", name)}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_every_option_of_ours(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    parts = re.split(r"^  (?:-c, )?--(?=[a-z])", shown.partition("\nMore:")[0], flags=re.MULTILINE)
    described = {part.split()[0]: " ".join(part.split()[1:]) for part in parts[1:]}
    ours = {name for name in option_names() if name.startswith(("model.", "data.", "checkpoint."))}
    ours -= {"model.max_new_tokens"}  # a former name
    assert len(ours) > 60
    assert {"model.lora.r", "data.row_tokens", "checkpoint.keep", "model.optimizer"} <= ours
    assert ours - set(described) == set()
    assert {"model.optimizer.init_args.lr", "config", "ckpt_path"} <= set(described)
    assert next(name for name in described if "." in name) == "trainer.default_root_dir"
    for option, text in described.items():
        assert len(text.split()) > 2, option
        if option in ours:
            assert re.search(r"\(.+; default .+\)( [^()]+:)?$", text), option


@pytest.mark.parametrize("command", COMMANDS)
def test_lightnings_options_have_a_page_of_their_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help.trainer"])
    shown = set(re.findall(r"^  --([\w.]+)", capsys.readouterr().out, re.MULTILINE))
    of_trainer = {name for name in option_names() if name.startswith("trainer.")}
    assert {"trainer.max_steps", "trainer.profiler", "trainer.sync_batchnorm"} <= of_trainer
    assert of_trainer - shown == set()
    assert {name.partition(".")[0] for name in shown} == {"trainer"}


def test_a_class_that_an_option_names_has_a_page_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.optimizer.help", "torch.optim.SGD"])
    assert "--model.optimizer.momentum" in capsys.readouterr().out


def test_no_page_is_an_option_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert sorted(printed) == [
        *("checkpoint", "ckpt_path", "data", "model", "seed_everything", "trainer")
    ]
