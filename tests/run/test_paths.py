"""`~` is the home folder in every option that names a path, and nowhere else."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from amazon_desc.cli import DescriptionCLI, build
from amazon_desc.run.options.configs import with_configs_found
from amazon_desc.run.options.paths import expand_home
from amazon_desc.support.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_worked_example(home: Path):
    options = {"data.train_file": ["~/a.csv", "b.csv"]}
    expand_home(options)
    assert options == {"data.train_file": [f"{home}/a.csv", "b.csv"]}


def test_classes_that_options_name_get_whole_paths(home: Path):
    logger = Namespace(class_path="CSVLogger", init_args=Namespace(save_dir="~/logs", name="a~b"))
    options = Namespace(trainer=Namespace(logger=[logger], callbacks=None))
    expand_home(options)  # pyright: ignore[reportArgumentType]
    assert options.trainer.logger[0].init_args.as_dict() == {
        "save_dir": f"{home}/logs",
        "name": "a~b",
    }


def test_a_user_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"~nobody-at-all/x: wanted .* no such user\. Write the"):
        expand_home({"data.titles": "~nobody-at-all/x"})


def test_whole_command_lines_and_configs(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "mine.yaml").write_text("data:\n  corpora: ~/corpora\n  test_file: ~/t.json\n")
    monkeypatch.chdir(home)
    cli = build(
        [
            *(
                "--config=~/mine.yaml",
                "--trainer.default_root_dir=~/runs/x",
                "--ckpt_path=~/c.ckpt",
            ),
            *("--data.train_file=[~/a.json,~/b.json]", "--data.titles=~/t.txt"),
            *("--model.backbone=~/base", "--model.adapter=~/adapter", "--data.batch_size=1"),
            *("--data.prompt.template=~/{title}", "--trainer.accelerator=cpu"),
        ],
        run=False,
    )
    assert isinstance(cli, DescriptionCLI)
    options = cli.config
    assert options.trainer.default_root_dir == f"{home}/runs/x"
    assert options.ckpt_path == f"{home}/c.ckpt"
    assert options.data.train_file == [f"{home}/a.json", f"{home}/b.json"]
    assert options.data.titles == f"{home}/t.txt"
    assert (options.data.corpora, options.data.test_file) == (f"{home}/corpora", f"{home}/t.json")
    assert options.model.backbone == options.data.backbone == f"{home}/base"
    assert options.model.adapter == f"{home}/adapter"
    assert options.data.prompt.template == "~/{title}", "a prompt is no path"
    assert sorted(path.name for path in home.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize("typed", [["--config", "~/mine.yaml"], ["--config=~/mine.yaml"]])
def test_a_config_may_be_in_the_home_folder(typed: list[str], home: Path):
    (home / "mine.yaml").touch()
    assert "".join(with_configs_found(typed)).endswith(f"{home}/mine.yaml")
