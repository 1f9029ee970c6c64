"""`config:` in a config names those that it is set over, and its own options win."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from amazon_desc.cli import main
from amazon_desc.run.options.configs import with_configs_found, without_those_under
from amazon_desc.support.errors import UserError

SHIPPED = Path(__file__).resolve().parents[2] / "configs"
Printed = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """Returns what --print_config prints."""

    def run(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit, match="0"):
            main(["fit", *arguments, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    return run


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize(
    "named",
    [
        *("configs/qlora.yaml", "qlora.yaml", "[qlora.yaml]", "\n- qlora.yaml", "\n  - qlora.yaml"),
        *(f"{SHIPPED}/qlora.yaml", "'qlora.yaml'  # the reference run"),
    ],
)
def test_a_shipped_config_is_found_and_ones_own_options_win(named: str, printed: Printed):
    """Wherever `config:` stands among them."""
    reference = yaml.safe_load((SHIPPED / "qlora.yaml").read_text("utf-8"))
    own = "data: {max_seq_length: 99}\nmodel:\n  lora:\n    r: 3\n"
    for text in (f"config: {named}\n{own}", f"{own}config: {named}\n"):
        options = printed("--config", write("mine.yaml", text))
        assert options["data"]["max_seq_length"] == 99
        assert options["model"]["lora"]["r"] == 3
        assert options["model"]["backbone"] == reference["model"]["backbone"] != "tiny"
        assert options["trainer"]["default_root_dir"] == "runs/qlora"
        assert "config" not in options


def test_the_command_line_wins_over_both(printed: Printed):
    write("mine.yaml", "config: quickstart.yaml\nmodel: {lora: {r: 3}}\n")
    options = printed("--model.lora.r", "5", "--config", "mine.yaml")
    assert options["model"]["lora"]["r"] == 5


def test_what_is_beside_a_config_is_found_first_then_the_working_folder_then_what_ships(
    place: Path,
):
    write("sub/mine.yaml", "config: qlora.yaml\n")
    shipped = str(SHIPPED / "qlora.yaml")
    assert with_configs_found(["-c", "sub/mine.yaml"]) == ["-c", shipped, "-c", "sub/mine.yaml"]
    write("qlora.yaml", "")
    assert with_configs_found(["-c=sub/mine.yaml"]) == ["-c=qlora.yaml", "-c=sub/mine.yaml"]
    write("sub/qlora.yaml", "")
    assert with_configs_found(["--config", "sub/mine.yaml"]) == [
        *("--config", "sub/qlora.yaml", "--config", "sub/mine.yaml")
    ]


def test_configs_are_read_in_the_order_in_which_they_are_over_one_another(printed: Printed):
    write("a.yaml", "data: {row_tokens: 1001, num_scored: 1, num_sampled: 1}\n")
    write("sub/b.yaml", "config: [../a.yaml]\ndata: {row_tokens: 1002, num_scored: 2}\n")
    write("c.yaml", "config: [sub/b.yaml, a.yaml]\ndata: {row_tokens: 1003}\n")
    arguments = with_configs_found(["fit", "--config", "c.yaml", "--model.lora.r", "2"])
    assert [os.path.normpath(name) for name in arguments if name.endswith("yaml")] == [
        *("a.yaml", "sub/b.yaml", "a.yaml", "c.yaml")
    ]
    data = printed("--config", "c.yaml")["data"]
    assert (data["row_tokens"], data["num_scored"], data["num_sampled"]) == (1003, 1, 1)


def test_a_config_that_is_under_itself_is_refused_in_a_sentence():
    write("a.yaml", "config: b.yaml\n")
    write("b.yaml", "config: sub/c.yaml\n")
    write("sub/c.yaml", "config: ../b.yaml\n")
    with pytest.raises(UserError) as refused:
        with_configs_found(["--config", "a.yaml"])
    assert str(refused.value) == (
        "sub/../b.yaml: wanted configs of which none is under itself, found b.yaml -> c.yaml -> "
        "b.yaml. Take one of these `config:` away."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: none.yaml", r"mine\.yaml: config: none\.yaml does not exist beside it, nor in /"),
        ("config: 5", r"mine\.yaml: config: wanted the name of a config or a list, found 5\."),
        ("config: [qlora.yaml, {a: 1}]", r"config: wanted the name of a config or a list"),
        ("data: 5", r"mine\.yaml: data: wanted options by name below it, found 5\."),
        ("model: {lora: [1]}", r"mine\.yaml: model\.lora: wanted options by name below it, found"),
    ],
)
def test_what_names_no_config_or_no_options_is_refused_by_its_place(text: str, message: str):
    with pytest.raises(UserError, match=message):
        with_configs_found(["--config", write("mine.yaml", text)])


@pytest.mark.parametrize("text", ["", "config:", "config: null", "data:", "model: {lora: }"])
def test_what_is_left_empty_is_as_if_it_were_not_there(text: str, printed: Printed):
    assert (
        printed("--config", write("mine.yaml", text + "\nseed_everything: 7"))["seed_everything"]
        == 7
    )


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (  # the worked example
            "config: qlora.yaml\ndata: {row_tokens: 512}",
            "config:  null\ndata: {row_tokens: 512}",
        ),
        ("a: 1\nconfig:\n  - b\n  - c\nd: 2\n", "a: 1\nconfig:\n   null\nd: 2\n"),
        ("{config: [a, b], d: 2}", "{config:  null, d: 2}"),
        ("data: {config: a}", "data: {config: a}"),
        ("- config", "- config"),
        ("config: [", "config: ["),
    ],
)
def test_a_config_is_read_without_those_under_it(text: str, own: str):
    assert without_those_under(text) == own


def test_options_in_place_of_a_config_are_taken_as_they_are(printed: Printed):
    options = printed("--config", "{data: {row_tokens: 512}}", "--config", "quickstart.yaml")
    assert options["trainer"]["default_root_dir"] == "runs/quickstart"
    assert printed("--config={data: {row_tokens: 512}}")["data"]["row_tokens"] == 512


def test_what_is_too_long_for_a_name_is_none(printed: Printed, capsys: pytest.CaptureFixture[str]):
    long = "x" * 400
    assert printed(f"--config={{data: {{title_column: {long}}}}}")["data"]["title_column"] == long
    assert printed(f"--data={{title_column: {long}}}")["data"]["title_column"] == long
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", long])
    assert "xxx: the file does not exist in /" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config", "--model.lora"])
def test_a_file_of_options_that_is_not_utf_8_is_refused(option: str):
    Path("mine.yaml").write_bytes(b"r: 4  # caf\xe9\n")
    with pytest.raises(UserError, match=rf"^{option} mine\.yaml: wanted UTF-8, found other bytes"):
        with_configs_found(["fit", option, "mine.yaml"])


@pytest.mark.slow
def test_a_run_resumes_with_the_same_config_and_with_its_own(
    capsys: pytest.CaptureFixture[str],
):
    """Its own holds all options, and names no other."""
    small = (
        "config: quickstart.yaml\n"
        "trainer: {default_root_dir: runs/mine, max_steps: 2, val_check_interval: 2}\n"
        "data: {num_products: 60, num_scored: 2, num_sampled: 0, validation_fraction: 0.1}\n"
        "model: {lora: {r: 3}, decoding: {max_new_tokens: 4}}\n"
        "checkpoint: {every_n_steps: 1}\n"
    )
    main(["fit", "--config", write("mine.yaml", small)])
    record = yaml.safe_load(Path("runs/mine/config.yaml").read_text("utf-8"))
    assert "config" not in record
    assert (record["model"]["lora"]["r"], record["trainer"]["max_steps"]) == (3, 2)
    for config in ("mine.yaml", "runs/mine/config.yaml"):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--config", config])
        assert "This run is finished" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="2"):
            main(["fit", "--config", config, "--model.lora.r", "4"])
        assert "--model.lora.r: 3, now 4" in capsys.readouterr().err
