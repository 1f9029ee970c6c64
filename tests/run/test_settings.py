"""Every option has a class, and what a run is resumed with is compared option by option.

An option that is new to the parser fails here until it stands in one of the lists of settings.py.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.cli import DescriptionCLI, build
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.generation.decoding import GREEDY
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.settings import (
    BEFORE,
    BY_CONTENT,
    DECIDING,
    FOLLOWING,
    OPERATIONAL,
    RENAMED,
    WRITTEN_BEFORE,
    changes,
    options_of,
    refuse_other_settings,
    settings_record,
)
from amazon_desc.run.predicting.provenance import deciding
from amazon_desc.support.errors import UserError

LISTS = (DECIDING, BY_CONTENT, OPERATIONAL, FOLLOWING)
LISTED = [option for options in LISTS for option in options]

Record = dict[str, Any]
AUTO = ("--data.batch_size", "auto")


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DescriptionCLI]:
    """Returns a function that has the options of a fit read, and runs nothing."""
    folder = tmp_path_factory.mktemp("settings")

    def fit(*options: str) -> DescriptionCLI:
        where = ("--trainer.default_root_dir", str(folder / "run"), "--trainer.accelerator", "cpu")
        with pytest.MonkeyPatch.context() as patch, ExitStack() as held:
            patch.setattr(DescriptionCLI, "commands", ("fit",))
            patch.setattr(DescriptionCLI, "_run_subcommand", lambda self, name: None)
            return build(["fit", *where, *options], held=held)

    return fit


def parser_of(cli: DescriptionCLI) -> Any:
    return cli._parser("fit")


@pytest.fixture(scope="module")
def options(fit: Callable[..., DescriptionCLI]) -> list[str]:
    """All options that fit takes, without what only groups others and stands in no list."""
    names = [action.dest for action in parser_of(fit())._actions]
    groups = {name.rsplit(".", 1)[0] for name in names if "." in name}
    return [name for name in names if name in LISTED or name not in groups]


def listing(option: str) -> list[str]:
    """Returns the entries of all lists that an option falls under."""
    return [entry for entry in LISTED if option == entry or option.startswith(f"{entry}.")]


# The lists


def test_every_option_of_fit_stands_in_exactly_one_list(options: list[str]):
    assert len(options) == len(set(options)) > 90
    nested = {"data.num_workers", "model.lora.r", "data.prompt.chat", "checkpoint.keep"}
    assert {"seed_everything", "ckpt_path", "trainer.precision", *nested} <= set(options)
    assert {option: found for option in options if len(found := listing(option)) != 1} == {}


def test_an_option_in_no_list_would_be_noticed():
    assert listing("data.a_new_option") == []
    assert listing("model.lora.a_new_option") == ["model.lora"]
    assert listing("model.lora_like") == []


def test_no_list_names_an_option_that_does_not_exist(options: list[str]):
    assert len(LISTED) == len(set(LISTED))
    assert [entry for entry in LISTED if entry not in options] == []


def test_what_follows_is_exactly_what_is_linked(fit: Callable[..., DescriptionCLI]):
    actions = parser_of(fit())._actions
    links = [action for action in actions if type(action).__name__ == "ActionLink"]
    assert sorted(link.dest for link in links) == sorted(FOLLOWING)
    sources = {key for link in links for key, _ in link.source}
    assert len(sources) == 6
    free = {*DECIDING, *BY_CONTENT}
    assert sources <= free, "what others follow must decide as well"


# The record


def config_of(cli: DescriptionCLI) -> dict[str, Any]:
    return json.loads(
        parser_of(cli).dump(cli.config[str(cli.subcommand)], skip_unset=False, format="json")
    )


def file_of(path: str, sha256: str, use: str = "train") -> dict[str, Any]:
    return {"use": use, "path": path, "sha256": sha256, "bytes": 1, "mtime_ns": 2}


@pytest.fixture
def record(fit: Callable[..., DescriptionCLI]) -> Callable[..., Record]:
    def record(*options: str) -> Record:
        return settings_record(config_of(fit(*options)), "b" * 64, [file_of("a.jsonl", "a" * 64)])

    return record


def test_the_worked_example():
    config = {"seed_everything": 1, "model": {"lora": {"r": 4}, "max_new_tokens": 9}}
    assert options_of(config) == {"--seed_everything": 1, "--model.lora.r": 4}


def test_every_option_that_decides_is_recorded_also_when_it_is_not_given(
    record: Callable[..., Record], options: list[str]
):
    found = record()
    names = {name.removeprefix("--") for name in found}
    for entry in DECIDING:
        assert any(name == entry or name.startswith(f"{entry}.") for name in names), entry
    leaves = [o for o in options if o.startswith(("model.lora.", "data.cleaning.", "data.prompt."))]
    assert len(leaves) == 23
    assert set(leaves) <= names
    assert found["--model.optimizer.init_args.lr"] == 2e-4
    assert not names & set(OPERATIONAL)
    assert json.loads(json.dumps(found)) == found


def test_base_files_and_rows_a_step_are_recorded(fit: Callable[..., DescriptionCLI]):
    cli = fit("--data.batch_size", "3", "--data.rows_per_step", "12")
    files = [file_of("a.jsonl", "aa"), file_of("b.jsonl", "bb"), file_of("t.jsonl", "tt", "test")]
    found = settings_record(config_of(cli), "b" * 64, files)
    assert found["--data.rows_per_step"] == 12
    assert found["--model.backbone"] == {"name": "tiny", "sha256": "b" * 64}
    assert found["--data.train_file"] == [
        {"name": "a.jsonl", "sha256": "aa"},
        {"name": "b.jsonl", "sha256": "bb"},
    ]
    assert found["--data.test_file"] == [{"name": "t.jsonl", "sha256": "tt"}]


def test_rows_of_a_micro_batch_are_not_recorded_with_what_decides(
    record: Callable[..., Record],
):
    rows = ("--data.rows_per_step", "12")
    found = record(*rows)
    assert found["--data.rows_per_step"] == 12
    assert found == record(*rows, "--data.batch_size", "3") == record(*rows, *AUTO)


def test_other_operational_options_give_the_same_record(record: Callable[..., Record]):
    others = (
        *(
            "--data.num_workers",
            "2",
            "--data.generation_batch_size",
            "7",
            "--data.corpora",
            "there",
        ),
        *("--trainer.log_every_n_steps", "3", "--checkpoint.every_n_steps", "9"),
        *("--checkpoint.keep", "5", "--trainer.logger", "false"),
        *("--model.decoding.max_new_tokens", "3", "--model.decoding.temperature", "0.5"),
    )
    assert record(*others) == record()


def test_the_same_options_out_of_the_saved_config_give_the_same_record(
    fit: Callable[..., DescriptionCLI], record: Callable[..., Record], tmp_path: Path
):
    given = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "1e-3")
    cli = fit(*given, "--trainer.max_steps", "5", "--data.cleaning.tags", "false")
    dumped = parser_of(cli).dump(cli.config["fit"], skip_unset=False)
    (tmp_path / "config.yaml").write_text(dumped)
    again = record("--config", str(tmp_path / "config.yaml"))
    assert again["--model.optimizer.class_path"] == "torch.optim.SGD"
    assert again == settings_record(config_of(cli), "b" * 64, [file_of("a.jsonl", "a" * 64)])


# Compared


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ("--seed_everything 7", "--seed_everything: 1234, now 7"),
        ("--trainer.max_steps 5", "--trainer.max_steps: -1, now 5"),
        ("--trainer.precision bf16-mixed", "--trainer.precision: None, now 'bf16-mixed'"),
        ("--model.lora.r 4", "--model.lora.r: 16, now 4"),
        (
            "--model.lora.target_modules [q_proj,v_proj]",
            "--model.lora.target_modules: 'all-linear', now 'q_proj', 'v_proj'",
        ),
        ("--model.optimizer.lr 1e-3", "--model.optimizer.init_args.lr: 0.0002, now 0.001"),
        (
            "--model.optimizer torch.optim.SGD",
            "--model.optimizer.class_path: 'torch.optim.AdamW', now 'torch.optim.SGD'",
        ),
        ("--model.lora.use_rslora true", "--model.lora.use_rslora: False, now True"),
        ("--model.lora.use_dora true", "--model.lora.use_dora: False, now True"),
        ("--model.schedule constant", "--model.schedule: 'cosine', now 'constant'"),
        ("--model.warmup_steps 0", "--model.warmup_steps: None, now 0"),
        ("--data.cleaning.tags false", "--data.cleaning.tags: True, now False"),
        ("--data.prompt.template {title}:", "--data.prompt.template: 'Write a description for the"),
        ("--data.rows_per_step 2", "--data.rows_per_step: 1, now 2"),
    ],
)
def test_another_value_is_shown_beside_the_old_one(
    options: str, change: str, record: Callable[..., Record]
):
    (line,) = changes(record(), record(*options.split(" ")))
    assert line.startswith(f"  {change}")


CALLBACK = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "x"},
}


@pytest.mark.parametrize("value", [CALLBACK, [CALLBACK]], ids=["one", "a list"])
def test_a_callback_that_was_not_there_before_is_a_change(
    value: Any, record: Callable[..., Record], tmp_path: Path
):
    config = tmp_path / "callback.yaml"
    config.write_text(json.dumps({"trainer": {"callbacks": value}}))
    before, after = record(), record("--config", str(config))
    assert changes(before, before) == changes(after, after) == []
    assert len(changes(before, after)) > 0, "added"
    assert len(changes(after, before)) > 0, "taken away"


def test_all_changes_are_shown_in_the_order_of_the_options():
    found = {"--a": 1, "--b": "x", "--c": 0.5}
    assert changes(found, {"--a": 2, "--b": "y", "--c": 0.5}) == [
        "  --a: 1, now 2",
        "  --b: 'x', now 'y'",
    ]


def test_what_another_version_did_not_know_is_not_compared():
    assert changes({"--old": 1, "--a": 1}, {"--new": 2, "--a": 1}) == []


def test_what_runs_had_before_there_was_an_option_is_compared(record: Callable[..., Record]):
    now = record()
    assert {option: now[option] for option in BEFORE} == BEFORE, "the defaults of today"
    older = {option: value for option, value in now.items() if option not in BEFORE}
    assert len(now) - len(older) == 6
    assert changes(older, now) == []
    assert changes(older, record("--model.schedule", "linear")) == [
        "  --model.schedule: 'cosine', now 'linear'"
    ]


def test_a_record_from_before_rows_per_step_was_an_option_is_compared(
    record: Callable[..., Record],
):
    """It held the product of two options, under the names of both."""
    product = next(iter(RENAMED))
    assert product == "--data.batch_size x --trainer.accumulate_grad_batches"
    now = record("--data.rows_per_step", "8")
    older = {option: value for option, value in now.items() if option != "--data.rows_per_step"}
    assert changes({**older, product: 8}, now) == []
    assert changes({**older, product: 4}, now) == ["  --data.rows_per_step: 4, now 8"]


def test_texts_from_before_there_were_settings_of_decoding_are_greedy_ones():
    before = {"--model.max_new_tokens": 96}
    assert changes(before, now_written(max_new_tokens=96)) == []
    assert changes(before, now_written(max_new_tokens=96, temperature=0.7, seed=3)) == [
        "  --model.decoding.temperature: 0.0, now 0.7"
    ]
    assert changes(before, now_written(max_new_tokens=9)) == [
        "  --model.decoding.max_new_tokens: 96, now 9"
    ]
    missing = set(now_written()) - set(WRITTEN_BEFORE)
    assert missing == {"--model.decoding.max_new_tokens"}
    assert changes(before, now_written(max_new_tokens=96, frequency_penalty=0.6)) == [
        "  --model.decoding.frequency_penalty: 0.0, now 0.6"
    ]


def now_written(**settings: Any) -> Record:
    decided = deciding(replace(GREEDY, **settings))
    return {f"--model.decoding.{name}": value for name, value in decided.items()}


def test_a_record_from_before_there_were_system_messages_has_none():
    system = "--data.prompt.system"
    assert changes({"--a": 1}, {system: None, "--a": 1}) == []
    assert changes({"--a": 1}, {system: "Be brief.", "--a": 1}) == [
        f"  {system}: None, now 'Be brief.'"
    ]


def test_a_prompt_is_recorded_in_one_form_however_it_is_typed(
    fit: Callable[..., DescriptionCLI], record: Callable[..., Record]
):
    """From a shell a line end comes as a backslash and an n."""
    template, system = "--data.prompt.template", "--data.prompt.system"
    typed = (template, "Title: {title}\\nText:", system, "You: a mug.\\nBe brief. ")
    found = record(*typed)
    assert found[template] == "Title: {title}\nText:"
    assert found[system] == "You: a mug.\nBe brief."
    assert found == record(template, "Title: {title}\nText:", system, "You: a mug.\nBe brief.")
    data = fit(*typed).datamodule
    assert isinstance(data, DescriptionData)
    prompt = data.settings.prompt
    assert (prompt.template, prompt.system) == (found[template], found[system])


def test_a_file_is_known_by_its_content():
    here, moved = ({"name": name, "sha256": "ab" * 32} for name in ("here.jsonl", "there.jsonl"))
    other = {"name": "here.jsonl", "sha256": "cd" * 32}
    assert changes({"--f": [here]}, {"--f": [moved]}) == []
    assert changes({"--f": here}, {"--f": moved}) == []
    assert changes({"--f": [here]}, {"--f": [other]}) == [
        "  --f: here.jsonl (sha256 abababababab), now here.jsonl (sha256 cdcdcdcdcdcd)"
    ]


def test_another_number_or_order_of_files_is_a_change():
    one, two = ({"name": f"{name}.jsonl", "sha256": name * 64} for name in "ab")
    shown = {"one": f"a.jsonl (sha256 {'a' * 12})", "two": f"b.jsonl (sha256 {'b' * 12})"}
    assert changes({"--f": [one]}, {"--f": [one, two]}) == [
        f"  --f: {shown['one']}, now {shown['one']}, {shown['two']}"
    ]
    assert changes({"--f": []}, {"--f": [two]}) == [f"  --f: none, now {shown['two']}"]
    assert len(changes({"--f": [one, two]}, {"--f": [two, one]})) == 1


# Refused


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_the_same_settings_are_taken(run: RunFolder):
    refuse_other_settings({"--a": 1}, {"--a": 1}, "the checkpoint X", run)
    refuse_other_settings({"--a": 1, "--old": 2}, {"--a": 1, "--new": 3}, "the checkpoint X", run)


def test_other_settings_are_refused_with_all_changes_and_the_way_out(run: RunFolder):
    found = {"--a": 1, "--b": "x", "--c": None}
    with pytest.raises(UserError) as refused:
        refuse_other_settings(found, {"--a": 2, "--b": "y", "--c": None}, "the checkpoint X", run)
    assert str(refused.value) == (
        "the checkpoint X was trained with other settings; resuming would give neither the one run "
        "nor the other:\n"
        "  --a: 1, now 2\n"
        "  --b: 'x', now 'y'\n"
        f"Set them back to resume in {run.path}. Or start anew with --trainer.default_root_dir "
        f"NEW; with --model.adapter {run.adapter} as well, from the weights that are trained "
        f"already."
    )
    assert refused.value.exit_code == 2


def test_the_way_out_can_be_copied_where_a_folder_has_a_space(tmp_path: Path):
    run = RunFolder(tmp_path / "my run")
    with pytest.raises(UserError) as refused:
        refuse_other_settings({"--a": 1}, {"--a": 2}, "the checkpoint X", run)
    assert f"with --model.adapter '{run.adapter}' as well" in str(refused.value)


@pytest.mark.parametrize("found", [None, [], "settings", 3])
def test_what_says_nothing_of_its_settings_is_refused(found: Any, run: RunFolder):
    with pytest.raises(UserError) as refused:
        refuse_other_settings(found, {"--a": 1}, "the checkpoint X", run)
    assert "the checkpoint X does not say which settings it was trained with" in str(refused.value)
    assert "Start anew in another --trainer.default_root_dir" in str(refused.value)
