"""What the parser refuses is said in a sentence: the option, what was wanted, what was found."""

from pathlib import Path

import pytest

from amazon_desc.cli import main
from amazon_desc.run.options.given import Given, given_options, strays
from amazon_desc.support.secrets import of_options

EARLY = "--trainer.callbacks EarlyStopping"
# Names of Python, of the parser, and of what the parser's errors begin with.
FOREIGN = ("<class", "Union", "Literal", "Parser key", "Namespace", "NestedArg", "jsonargparse")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("amazon_desc.support.secrets.of_options", set(of_options))
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], command: str = "fit") -> str:
    """Returns what is said, without the line that names the page of options."""
    with pytest.raises(SystemExit) as exit_:
        main([command, *arguments, "--print_config"])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    said, _, pointer = err.partition("\nAll options: ")
    assert (out, pointer) == ("", f"python -m amazon_desc {command} --help\n")
    assert [name for name in FOREIGN if name in said] == []
    return said.removeprefix("amazon_desc: ")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "--data.max_seq_len 5",
            "--data.max_seq_len 5: there is no such option. The nearest is --data.max_seq_length.",
        ),
        (
            "--dat.train_file=x",
            "--dat.train_file x: there is no such option. The nearest is --data.train_file.",
        ),
        (
            "--max_seq_length 5",
            "--max_seq_length 5: there is no such option. The nearest is --data.max_seq_length.",
        ),
        (
            "--model.lr 1",
            "--model.lr 1: there is no such option. The nearest is --model.optimizer.init_args.lr.",
        ),
        (
            "--data.titl a.txt",
            "--data.titl a.txt: there is no such option. "
            "The nearest are --data.title, --data.titles and --data.title_column.",
        ),
        ("--learning_rate 1", "--learning_rate 1: there is no such option."),
        (
            "--max_new_tokens 7",
            "--max_new_tokens 7: there is no such option. "
            "The nearest is --model.decoding.max_new_tokens.",
        ),
        (
            "--model.lora {rank: 3}",
            "--model.lora.rank 3: there is no such option. The nearest is --model.lora.r.",
        ),
        (
            "--model.optimizer.lrr 3",
            "--model.optimizer: AdamW takes no argument lrr. The nearest is --model.optimizer.lr.",
        ),
        (
            f"{EARLY} --trainer.callbacks.monitor x --trainer.callbacks.patienc 3",
            "--trainer.callbacks: EarlyStopping takes no argument patienc. "
            "The nearest is --trainer.callbacks.patience.",
        ),
    ],
)
def test_a_misspelt_option_names_the_nearest(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
):
    name, _, value = typed.partition(" {")  # a mapping is one argument
    arguments = [*name.split(), "{" + value] if value else name.split()
    assert refused(arguments, capsys) == said


def test_a_misspelt_class_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    """Which others are near depends on what has been imported."""
    said = refused(["--model.optimizer", "Adaam"], capsys)
    beginning = "--model.optimizer: wanted a class of Optimizer by name, found 'Adaam'. The nearest"
    assert said.startswith(f"{beginning} are Adam, ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "trainer: {max_step: 5}",
            "mine.yaml: trainer.max_step: there is no such option. "
            "The nearest is trainer.max_steps.",
        ),
        (
            "model:\n  lora:\n    rang: 4",
            "mine.yaml: model.lora.rang: there is no such option. The nearest is model.lora.r.",
        ),
        (
            "modle.lora.r: 4\ndata: {row_token: 7}",  # each in a line
            "mine.yaml: modle.lora.r: there is no such option. The nearest is model.lora.r.\n"
            "mine.yaml: data.row_token: there is no such option. The nearest is data.row_tokens.",
        ),
        (
            "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitr: x}}]}",
            "mine.yaml: trainer.callbacks: EarlyStopping takes no argument monitr. "
            "The nearest is monitor.",
        ),
        (
            "data: {max_seq_length: [1]}",
            "mine.yaml: data.max_seq_length: wanted a whole number of at least 1, found [1].",
        ),
        (
            "data: {title_column: [a, b]}",
            'mine.yaml: data.title_column: wanted text, found ["a", "b"].',
        ),
        (
            "model: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: fast}}}",
            "mine.yaml: model.optimizer.init_args.lr: wanted a number, found 'fast'.",
        ),
        (
            "model: {lora: 'none.yaml'}",
            "mine.yaml: model.lora: wanted a YAML file of options, "
            "or options by name, found 'none.yaml'.",
        ),
    ],
)
def test_what_is_wrong_in_a_config_is_said_with_the_file(
    text: str, said: str, capsys: pytest.CaptureFixture[str]
):
    Path("mine.yaml").write_text(text)
    assert refused(["--config", "mine.yaml"], capsys) == said


def test_what_is_wrong_under_a_config_is_said_with_its_own_file(
    capsys: pytest.CaptureFixture[str],
):
    Path("mine.yaml").write_text("config: base.yaml\n")
    Path("base.yaml").write_text("trainer: {max_step: 5}\n")
    assert refused(["--config", "mine.yaml"], capsys).startswith("base.yaml: trainer.max_step: ")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--data.max_seq_length abc", "wanted a whole number of at least 1, found 'abc'."),
        ("--data.max_seq_length 0", "wanted a whole number of at least 1, found 0."),
        ("--data.validation_fraction 2", "wanted a number from 0 to below 1, found 2."),
        ("--trainer.max_steps x", "wanted a whole number of at least 1, or -1, found 'x'."),
        ("--model.kernels fast", "wanted one of auto, fused, plain, found 'fast'."),
        ("--data.batch_size many", "wanted a whole number of at least 1, or auto, found 'many'."),
        ("--model.lora.use_dora maybe", "wanted true or false, found 'maybe'."),
        ("--data.prompt.chat 7", "wanted true, false or null, found 7."),
        ("--checkpoint.keep 1", "wanted a whole number of at least 2, found 1."),
        ("--trainer.precision 17", "wanted bf16-mixed, 16-mixed, 32-true or null, found 17."),
        ("--model.decoding.temperature hot", "wanted a number, found 'hot'."),
        ("--model.optimizer.lr x", "wanted a number, found 'x'."),
    ],
)
def test_a_value_of_another_kind_is_said_in_words(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
):
    assert refused(typed.split(), capsys) == f"{typed.split()[0]}: {said}"


def test_an_argument_of_a_class_is_said_in_words_too(capsys: pytest.CaptureFixture[str]):
    of_class = [*EARLY.split(), "--trainer.callbacks.monitor", "x"]
    wrong = [*of_class, "--trainer.callbacks.patience", "x"]
    assert refused(wrong, capsys) == (
        "--trainer.callbacks.patience: wanted a whole number, found 'x'."
    )


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_every_command_says_it(command: str, capsys: pytest.CaptureFixture[str]):
    said = refused(["--data.max_seq_len", "5"], capsys, command)
    assert said.endswith("The nearest is --data.max_seq_length.")


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        (["--data.title", "Red", "Mug"], "Put quotes around a value of several words."),
        (["quickstart.yaml"], "Write --config quickstart.yaml."),
    ],
)
def test_a_word_alone_is_refused_with_what_was_forgotten(
    typed: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
):
    assert refused(typed, capsys) == (
        f"{typed[-1]}: wanted an option, such as --data.train_file FILE, found a word alone. "
        f"{remedy}"
    )


def test_what_is_secret_is_not_said(capsys: pytest.CaptureFixture[str]):
    Path("mine.yaml").write_text("trainer: {logger: {api_key: sesame-open-up}}")
    assert "sesame" not in refused(["--config", "mine.yaml"], capsys)
    assert "sesame" not in refused(["--trainer.loger.api_key", "sesame-open-up"], capsys)


def test_options_are_found_wherever_they_are_given():
    Path("mine.yaml").write_text("data: {row_tokens: 512, train_file+: [a]}\nmodel.lora: {r: 4}")
    Path("lora.yaml").write_text("r: 5")
    typed = ["fit", "--config=mine.yaml", "--model.lora", "lora.yaml", "--data", "{title: [b]}"]
    found = list(given_options([*typed, "--model.lora.r=8", "--data.titles", "--data.output", "c"]))
    assert found == [
        Given("data.row_tokens", 512, "mine.yaml"),
        Given("data.train_file", ["a"], "mine.yaml"),
        Given("model.lora.r", 4, "mine.yaml"),
        Given("model.lora.r", 5, "lora.yaml"),
        Given("data.title", ["b"]),
        Given("model.lora.r", "8"),
        Given("data.titles", None),
        Given("data.output", "c"),
    ]
    assert [one.place for one in found[:1] + found[-1:]] == [
        *("mine.yaml: data.row_tokens", "--data.output")
    ]
    assert strays(["fit", "a", "--x", "b", "c", "--y=1", "d"]) == ["a", "c", "d"]
